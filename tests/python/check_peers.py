"""What the peers beside `dkt` read and sign, held against the examples of the protocol's page: PAGE, the folder of the peers."""

import re
import sys
import tempfile
from pathlib import Path

import cbor2
import numpy as np
from blake3 import blake3
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

page = Path(sys.argv[1]).read_text()
sys.path.insert(0, sys.argv[2])
import rows
from signing import Signing, to_be_signed


def blocks(kind):
    return [bytes.fromhex(block) for block in re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)]


def refuses(function, *arguments):
    try:
        function(*arguments)
    except Exception:
        return True
    return False


# Rows: ids one by one and as a window; dense, a byte a logit, the k largest; and those that are the same.
halves, affine, top_2, later = [m for m in map(cbor2.loads, blocks("hex")) if "temperature" in m]
for chunk, ids, logits in [
    (halves, [0, 3, 17], [[1.5, -0.25], [-3, 0.5], [2, 2]]),
    (affine, [3, 17], [[5, -0.25, 0.5, 1], [-1, 0, 0.25, 2]]),
    (top_2, [3, 17], [[5, 0.16, 0.16, 1], [-0.438, -0.438, 0.25, 2]]),
]:
    found_ids, found = rows.read(chunk, 20, chunk["n_classes"])
    assert found_ids.tolist() == ids, found_ids
    assert np.abs(found - logits).max() < 0.011, found
held, all_wanted = rows.Held(2, 20, 4), np.ones(20, bool)
assert held.take(affine, all_wanted) and held.take(later, all_wanted)
# 0 and 4 are said to be the same too, but were never held.
assert np.flatnonzero(held.rounds[1] == 2).tolist() == [3, 17] and not held.rounds[0].any()
assert held.logits[1, 3].tolist() == [-1, 0.5, 0.25, 2] and abs(held.logits[1, 17, 0] + 1) < 0.01
alone = {**later, "round": 4, "same": {"base": 3, "ids": [3, b"\1"]}}
del alone["ids"], alone["logits"]
assert not held.take(alone, all_wanted), "held of round 2 alone"
held.forget_rounds()
assert not held.take({**alone, "same": {"base": 1, "ids": [3, b"\1"]}}, all_wanted), "held of an earlier session"
for wrong in [{"ids": [19, b"\3"]}, {"ids": [3, b"\1\0"]}, {"classes": cbor2.CBORTag(64, bytes([0, 0, 3, 2]))}]:
    assert refuses(rows.read, {**top_2, **wrong}, 20, 4), wrong

# The envelope of the page, from the key of the page.
(envelope,), (signed,), topic = blocks("envelope-hex"), blocks("signed-hex"), "dkt/1/lab/alice/demand"
protected, _, message, _ = cbor2.loads(envelope).value
with tempfile.TemporaryDirectory() as folder:
    secrets = {"alice": blake3(b"the key of the example").digest(), "bob": bytes(32)}
    for name, secret in secrets.items():
        key, form = Ed25519PrivateKey.from_private_bytes(secret), serialization
        pem = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
        Path(folder, f"{name}.key").write_bytes(pem)
        pem = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
        Path(folder, f"{name}.pub").write_bytes(pem)
    alice, bob = (Signing(name, f"{folder}/{name}.key", folder, folder) for name in secrets)
    assert to_be_signed(protected, topic, message) == signed
    assert alice.seal(topic, message, cbor2.loads(protected)[-65537]) == envelope
    for i in range(len(envelope)):
        assert refuses(bob.open, topic, envelope[:i] + bytes([envelope[i] ^ 1]) + envelope[i + 1 :]), i
    for wrong in [(topic, b""), (topic, message), (topic, envelope + b"\0"), (topic[:-1], envelope)]:
        assert refuses(bob.open, *wrong), wrong
    assert [bob.open(topic, envelope) for _ in range(2)] == [message] * 2, "retained: it comes again"
    will = alice.seal(topic, b"will", alice.begin_epoch())
    first, second = alice.seal(topic, b"first"), alice.seal(topic, b"second")
    assert bob.open(topic, second) == b"second"
    bob = Signing("bob", f"{folder}/bob.key", folder, folder)
    assert refuses(bob.open, topic, first) and refuses(bob.open, topic, envelope), "old, also after a restart"
    assert bob.open(topic, will) == b"will"
    alice = Signing("alice", f"{folder}/alice.key", folder, folder)
    alice.begin_epoch()
    assert bob.open(topic, alice.seal(topic, b"")) == b"", "newer than the will"
    assert alice.open(topic, envelope) == message, "her own"
    targets = alice.seal("dkt/1/lab/alice/targets/0", b"rows")
    assert bob.open("dkt/1/lab/alice/targets/0", targets) == b"rows"
    assert refuses(bob.open, "dkt/1/lab/alice/targets/0", targets), "a duplicate"
