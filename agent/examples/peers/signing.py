"""Signed messages (docs/protocol.md): what this peer says in envelopes, and what others say out of theirs."""

import itertools
import json
import os
import time
from pathlib import Path

import cbor2
from blake3 import blake3
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from rows import expect

ALGORITHM, KEY_ID, NUMBER, EDDSA, SIGN1 = 1, 4, -65537, -8, 18
OF_LAST_WILL, MAX_TOPICS = (1 << 32) - 1, 16
# The points of small order, which sign for anybody: their y, without the sign of x.
SMALL_ORDER = [bytes(32), b"\1" + bytes(31), b"\xec" + 30 * b"\xff" + b"\x7f"] + [
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
]


def header(agent, number):
    return cbor2.dumps({ALGORITHM: EDDSA, KEY_ID: agent.encode(), NUMBER: number})


def to_be_signed(protected, topic, message):
    return cbor2.dumps(["Signature1", protected, topic.encode(), message])


def has_small_order(point):
    return point[:31] + bytes([point[31] & 0x7F]) in SMALL_ORDER


class Signing:
    """Keys as `dkt keys` makes them, and two files in `folder`: the epoch last used, and marks of what was taken in."""

    def __init__(self, agent, key, signers, folder):
        self.agent, self.key = agent, load_pem_private_key(Path(key).read_bytes(), None)
        self.signers = {path.stem: load_pem_public_key(path.read_bytes()) for path in Path(signers).glob("*.pub")}
        expect(not any(has_small_order(key.public_bytes_raw()) for key in self.signers.values()), "keys of large order")
        own = self.key.public_key().public_bytes_raw()
        expect(agent in self.signers and self.signers[agent].public_bytes_raw() == own, f"{key} to be that of {agent}")
        self.epoch_file, self.marks_file = (Path(folder) / f"{agent}-{name}.json" for name in ("epoch", "marks"))
        self.epoch = json.loads(self.epoch_file.read_text()) if self.epoch_file.exists() else 0
        # By sender: its public key, a floor, and by topic the highest number and the BLAKE3 of what may come again.
        self.marks = json.loads(self.marks_file.read_text()) if self.marks_file.exists() else {}

    def begin_epoch(self):
        """For each attempt to connect; the number of its last will."""
        epoch = max(self.epoch + 1, int(time.time()))
        write(self.epoch_file, epoch)
        self.epoch, self.numbers = epoch, itertools.count(epoch << 32)
        return epoch << 32 | OF_LAST_WILL

    def seal(self, topic, message, number=None):
        protected = header(self.agent, next(self.numbers) if number is None else number)
        signature = self.key.sign(to_be_signed(protected, topic, message))
        return cbor2.dumps(cbor2.CBORTag(SIGN1, [protected, {}, message, signature]))

    def open(self, topic, payload):
        """The message in an envelope; written down before it has any effect."""
        sender = topic.split("/")[3]
        if sender == self.agent and not payload:
            return payload
        expect(sender in self.signers and payload[:1] == b"\xd2", "a message signed by an agent with a public key")
        envelope = cbor2.loads(payload)
        protected, _, message, signature = envelope.value
        number = cbor2.loads(protected)[NUMBER]
        expect(type(number) is int and 0 <= number < 1 << 64 and protected == header(sender, number), "a header")
        expect(isinstance(message, bytes) and isinstance(signature, bytes), "an envelope")
        expect(payload == cbor2.dumps(cbor2.CBORTag(SIGN1, [protected, {}, message, signature])), "its strict form")
        digest = None if topic.split("/")[4] in ("targets", "inputs") else blake3(payload).hexdigest()
        floor, topics = self.known(sender)
        if topic in topics and [number, digest] == topics[topic] and digest:
            return message  # Retained, and delivered once more.
        expect(number > topics.get(topic, [floor])[0], "a newer message")
        expect(not has_small_order(signature[:32]), "a point of large order")
        self.signers[sender].verify(signature, to_be_signed(protected, topic, message))
        if sender != self.agent:
            topics = {**topics, topic: [number, digest]}
            if len(topics) > MAX_TOPICS:  # Numbers rise over all topics of a sender: below the floor nothing is new.
                floor = max(floor, topics.pop(min(topics, key=lambda name: topics[name][0]))[0])
            marks = {**self.marks, sender: {"key": self.key_of(sender), "floor": floor, "topics": topics}}
            write(self.marks_file, marks)
            self.marks = marks
        return message

    def key_of(self, sender):
        return self.signers[sender].public_bytes_raw().hex()

    def known(self, sender):
        """Floor and marks. Of its own messages there are none; those of a key that was replaced count no more."""
        marks = {} if sender == self.agent else self.marks.get(sender, {})
        return (marks["floor"], marks["topics"]) if marks.get("key") == self.key_of(sender) else (-1, {})


def write(path, value):
    """So that after a crash the file has this or what it had."""
    beside = path.with_suffix(".new")
    with open(beside, "w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
