"""What the peers beside `dkt` read and sign, held against the examples of the protocol's page: PAGE, the folder of the peers."""

import re
import sys
import tempfile
from argparse import Namespace
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
from student import Student


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
    # More topics than are kept: the oldest are forgotten, and nothing as old is taken for new.
    numbers = iter(range(1 << 63, (1 << 63) + 100))
    many = [(f"dkt/1/lab-{i}/alice/status", b"here") for i in range(20)]
    many = [(topic, alice.seal(topic, body, next(numbers))) for topic, body in many]
    assert all(bob.open(*one) == b"here" for one in many)
    assert refuses(bob.open, *many[0]) and refuses(bob.open, topic, alice.seal(topic, b"old", 1 << 61))
    assert bob.open(topic, alice.seal(topic, b"new", next(numbers))) == b"new"
    # A fleet may be called as a kind is: its statuses come again all the same.
    status = "dkt/1/targets/alice/status"
    sealed = alice.seal(status, b"here", next(numbers))
    assert [bob.open(status, sealed) for _ in range(2)] == [b"here"] * 2
    # Keys that are replaced take their marks along.
    other, form = Ed25519PrivateKey.generate(), serialization
    pem = other.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    Path(folder, "alice.pub").write_bytes(pem)
    bob = Signing("bob", f"{folder}/bob.key", folder, folder)
    assert refuses(bob.open, status, sealed), "of the key before"
    alice.key = other
    assert bob.open(status, alice.seal(status, b"again", 1)) == b"again"


# What comes under any topic, without a broker.
class Message:
    def __init__(self, topic, body):
        self.topic, self.payload = topic, body and cbor2.dumps(body)


with tempfile.TemporaryDirectory() as folder:
    np.savez(f"{folder}/data.npz", x_train=np.zeros((4, 2, 2), np.uint8), y_train=np.arange(4) % 2)
    arguments = dict(data=f"{folder}/data.npz", crop_padding=0, flip=False, sign=None, fleet="lab", agent="python")
    student = Student(Namespace(**arguments, samples=None, views=1, teachers=["alice"]))
    student.subscribe = lambda *_: None
    assert set(student.own_demands()) == {("demand",), ("demand", "alice")} and not student.own_demands()["demand",]
    who = {"data": student.data.digest, "classes": student.data.classes, "model": bytes(32)}
    good = {"v": 1, "state": "online", "session": 1, "round": 2, **who}
    student.received(Message("dkt/1/lab/alice/status", good))
    known = student.teachers["alice"]
    for topic, body in [
        ("dkt/1/lab/connected/__setattr__", b""),
        ("dkt/1/lab/alice/withdraw", b""),
        ("dkt/1/other/alice/status", {**good, "round": 3}),
        ("dkt/2/lab/alice/status", {**good, "round": 3}),
        ("dkt/1/lab/alice/repair/bob", b""),
        ("dkt/1/lab/alice/status", {**good, "session": 2, "round": "3"}),
        ("dkt/1/lab/alice/status", {**good, "session": 2, "round": True}),
        ("dkt/1/lab/alice/status", {**good, "session": 2, "state": "gone"}),
    ]:
        assert refuses(student.received, Message(topic, body)), topic
    assert callable(student.connected) and (known.session, known.round, known.state) == (1, 2, "online")
