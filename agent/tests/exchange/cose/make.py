"""Signed messages by another implementation, for envelopes.rs: pycose 1.1.

    pip install pycose cryptography && python make.py > sign1.json
"""

import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pycose.algorithms import EdDSA
from pycose.headers import KID, Algorithm, CoseHeaderAttribute
from pycose.keys import OKPKey
from pycose.messages import Sign1Message


@CoseHeaderAttribute.register_attribute()
class Number(CoseHeaderAttribute):
    identifier = -65537
    fullname = "NUMBER"


# Sender, topic, number, and a payload: what repeats in it and how often.
CASES = [
    ("alice", "dkt/1/lab/alice/status", 0, b"\xa1\x61\x76\x01", 1),
    ("bob", "dkt/1/lab/bob/targets/df598fb904194f4a", 7638104968020361216, bytes(range(256)), 1),
    ("x" * 64, "dkt/1/lab/" + "x" * 64 + "/demand", 2**64 - 1, b"", 0),
    ("carol", "dkt/1/lab/carol/repair/bob", 23, b"\xa1\x61\x76\x01", 20000),
]

cases = []
for i, (sender, topic, number, unit, times) in enumerate(CASES):
    seed, payload = bytes([i + 1]) * 32, unit * times
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    header = {Algorithm: EdDSA, KID: sender.encode(), Number: number}
    message = Sign1Message(phdr=header, payload=payload, external_aad=topic.encode())
    message.key = OKPKey(crv="ED25519", d=seed, x=public)
    sealed = message.encode()
    # The signature and its head are the last 66 bytes.
    before = sealed[: len(sealed) - 66 - len(payload)]
    assert sealed == before + payload + sealed[-66:]
    case = {"seed": seed, "public": public, "unit": unit, "before": before, "after": sealed[-66:]}
    case = {name: value.hex() for name, value in case.items()}
    cases.append(case | {"times": times, "sender": sender, "topic": topic, "number": number})
print(json.dumps(cases, indent=1))
