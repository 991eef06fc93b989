"""A student in Python: joins a fleet of dkt agents and gathers their soft targets, as docs/protocol.md says.

    python3 digits.py digits.npz
    python3 student.py digits.npz --fleet lab --agent python --crop-padding 1 --out targets.npz

It demands samples of the training set and stays until each teacher that has begun a round has trained its stream, or gone,
and none of their rows is missing. It writes the teachers' mean logits, which a network of any kind can be trained towards.
"""

import sys
import time

import cbor2
import numpy as np

import rows
from arguments import arguments, join
from peer import MAX_MESSAGE_BYTES, Peer
from rows import expect

# A teacher may be away for so long and come back; its last will may have come late.
REPAIR_S, REPAIR_AT_MOST_S, AWAY_S, MAX_TEACHERS = 2, 60, 5, 64


class Teacher:
    """What is known of one teacher, and when to look whether rows of its are missing."""

    def __init__(self, held):
        self.session, self.round, self.state, self.fits, self.held = None, 0, "offline", False, held
        self.look_at, self.wait, self.repair_stands = None, REPAIR_S, True

    def expect_rows(self):
        self.look_at, self.wait = time.monotonic() + REPAIR_S, REPAIR_S


class Student(Peer):
    def __init__(self, args):
        super().__init__(args, bytes(32), "online")  # It has no network that a digest could be of.
        self.wanted = np.arange(self.data.n) < (args.samples or self.data.n)
        self.of_data = {"data": self.data.digest, "n_samples": self.data.n}
        self.teachers, self.has_all_since = {}, None

    def status(self, agent, body):
        if self.args.teachers and agent not in self.args.teachers:
            return
        here = body is not None and body["state"] != "offline"
        if not here and agent in self.teachers:
            self.teachers[agent].state = "offline"
        if not here or agent not in self.teachers and not self.fits(body):
            return
        if agent not in self.teachers:
            expect(len(self.teachers) < MAX_TEACHERS, "fewer teachers")
            self.teachers[agent] = Teacher(rows.Held(self.args.views, self.data.n, len(self.data.classes)))
        teacher = self.teachers[agent]
        came = teacher.state == "offline" or not teacher.fits
        before = teacher.session, teacher.round
        if teacher.session != body["session"]:  # Its rounds count anew; what it said is used until it says more.
            teacher.session, teacher.round = body["session"], 0
            teacher.held.forget_rounds()
        teacher.round = max(teacher.round, body["round"])
        teacher.state, teacher.fits = body["state"], self.fits(body)
        if came:
            self.subscribe(agent)
        if came or before != (teacher.session, teacher.round):
            print(f"{agent} is {teacher.state}, round {teacher.round}", flush=True)
            teacher.expect_rows()

    def targets(self, agent, body, _data):
        teacher = self.teachers.get(agent)
        expect(teacher and teacher.fits and body is not None, "a teacher")
        expect(body["session"] == teacher.session and 1 <= body["round"] <= teacher.round, "a round announced")
        expect(body["data"] == self.data.digest and body["view"] >= 0, "the same data")
        if teacher.held.take(body, self.wanted):
            teacher.expect_rows()

    def missing(self, teacher):
        """[views, samples]"""
        return self.wanted & (teacher.held.rounds < teacher.round) & (teacher.fits and teacher.state != "offline")

    def tick(self):
        for agent, teacher in self.teachers.items():
            if self.connected() and teacher.look_at and teacher.look_at <= time.monotonic():
                self.ask(agent, teacher)
        return self.has_all()

    def has_all(self):
        """Whether nothing more will come: at once if it has every row, after a while if a teacher is away."""
        teachers = [t for t in self.teachers.values() if t.fits and t.round > 0]
        lacks = any(t.state == "online" or self.missing(t).any() for t in teachers)
        if lacks or not any(t.held.rounds.any() for t in teachers):
            self.has_all_since = None
            return False
        self.has_all_since = self.has_all_since or time.monotonic()
        return all(t.state == "finished" for t in teachers) or self.has_all_since + AWAY_S < time.monotonic()

    def mean_logits(self):
        """Views [N], ids [N] and logits [N, K] of all rows that any teacher has labelled."""
        logits = [teacher.held.logits for teacher in self.teachers.values()]
        views, ids = np.nonzero(np.any([np.isfinite(of_one[..., 0]) for of_one in logits], axis=0))
        return views, ids, np.nanmean([of_one[views, ids] for of_one in logits], axis=0)

    def ask(self, agent, teacher):
        missing = {view: self.data.to_bits(ids) for view, ids in enumerate(self.missing(teacher)) if ids.any()}
        if not missing:
            if teacher.repair_stands:
                self.publish(b"", "repair", agent)
            teacher.look_at, teacher.repair_stands = None, False
            return
        if teacher.wait > REPAIR_S:
            self.subscribe(agent)
        fit = (MAX_MESSAGE_BYTES - rows.OVERHEAD_BYTES) // (self.data.n // 8 + 8)
        missing = dict(list(missing.items())[:fit])  # The rest is asked for when these have come.
        self.publish(cbor2.dumps({"v": 1, **self.of_data, "round": teacher.round, "missing": missing}), "repair", agent)
        teacher.look_at, teacher.repair_stands = time.monotonic() + teacher.wait, True
        teacher.wait = min(2 * teacher.wait, REPAIR_AT_MOST_S)

    def subscribe(self, agent):
        self.client.subscribe(self.topic("targets", self.data.digest.hex()[:16], agent=agent), qos=1)

    def own_demands(self):
        wanted = {"n_views": self.args.views, "samples": self.data.to_bits(self.wanted)}
        demand = cbor2.dumps({"v": 1, **self.of_data, **wanted})
        named = [("demand", teacher) for teacher in self.args.teachers]
        return {("demand",): b"", **dict.fromkeys(named or [("demand",)], demand)}

    def reconnected(self):
        print("learning from", *(self.args.teachers or ["everybody"]), flush=True)
        for agent, teacher in self.teachers.items():
            teacher.repair_stands = True
            self.subscribe(agent)
            teacher.expect_rows()

    def withdraw(self):
        super().withdraw()
        for agent in self.teachers:
            self.publish(b"", "repair", agent)


if __name__ == "__main__":
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="NPZ file for view [N], id [N] and logits [N, K]")
    parser.add_argument("--views", type=int, default=1, help="how many of each sample, up to 255")
    parser.add_argument("--samples", type=int, help="only the first so many")
    parser.add_argument("--teachers", nargs="*", default=[], help="agents to learn from; all if left out")
    student = join(Student, parser.parse_args())
    views, ids, logits = student.mean_logits() if student.teachers else sys.exit("no teacher was heard")
    np.savez(student.args.out, view=views, id=ids, logits=logits)
    right = (logits.argmax(1) == student.data.labels[ids]).sum() / max(len(ids), 1)
    print(f"{len(ids)} of {student.wanted.sum() * student.args.views} rows, {right:.1%} of them right")
