"""A teacher in Python: joins a fleet of dkt agents and labels what they demand, as docs/protocol.md says.

    python3 digits.py digits.npz
    python3 teacher.py digits.npz --fleet lab --agent python --crop-padding 1

It learns all classes from an NPZ file before it connects, and labels the very views that agents with the same padding and
flips train on. It never trains again, so all it says is of one round.
"""

import cbor2
import numpy as np
from blake3 import blake3

import rows
from arguments import arguments, join
from peer import MAX_PEERS, Peer
from rows import expect


class Network:
    """A layer of random features, and on it least squares towards 10 for the right class and 0 for the others."""

    def __init__(self, data, n_features=512, n_views=4):
        self.mean, self.std = data.images.mean(), data.images.std()
        n_pixels, rng = data.images[0].size, np.random.default_rng(0)
        self.hidden = rng.normal(0, n_pixels**-0.5, (n_pixels, n_features))
        aims = 10 * np.eye(len(data.classes))[data.labels]
        square, product = data.n / 100 * np.eye(n_features), 0
        for view in range(n_views):
            features = self.features(data.views(range(data.n), view))
            square, product = square + features.T @ features, product + features.T @ aims
        self.out = np.linalg.solve(square, product)

    def features(self, images):
        pixels = images.reshape(len(images), -1).astype(np.float64)
        return np.maximum((pixels - self.mean) / self.std @ self.hidden, 0)

    def logits(self, images):
        return self.features(images) @ self.out


class Teacher(Peer):
    def __init__(self, args):
        super().__init__(args, bytes(32), "finished")  # wants nothing, and still teaches
        self.network = Network(self.data)
        self.model = blake3(self.network.hidden.tobytes() + self.network.out.tobytes()).digest()
        self.round = 1
        self.online, self.demands, self.done = set(), {}, {}  # done: for each view, the samples labelled
        self.sent, self.n_rows = None, 0
        right = (self.network.logits(self.data.images).argmax(1) == self.data.labels).mean()
        print(f"knows {right:.1%} of its {self.data.n} images, data {self.data.digest.hex()}", flush=True)

    def status(self, agent, body):
        wants = body is not None and body["state"] == "online" and self.fits(body)
        if wants and agent not in self.online and len(self.online) < MAX_PEERS:
            self.online.add(agent)
            print(f"{agent} may be taught", flush=True)
        elif not wants:
            self.online.discard(agent)

    def demand(self, agent, body, *to):
        who = agent, *to  # Of everybody, or of this teacher by its name: one may be left from an earlier run.
        n_views, samples = 0, None
        if body is not None:
            expect(body["data"] == self.data.digest and body["n_samples"] == self.data.n, "the same data")
            n_views, samples = body["n_views"], self.data.from_bits(body["samples"])
            expect(1 <= n_views <= 255, "1 to 255 views")
            expect(who in self.demands or len(self.demands) < MAX_PEERS, "fewer students")
        n_before, before = self.demands.pop(who, (0, None))
        if n_views:
            self.demands[who] = n_views, samples
        for view in range(n_views):  # What was labelled before it demanded it, it has not kept.
            self.labelled(view)[samples & ~before if view < n_before else samples] = False

    def repair(self, agent, body, _me):
        if body is None or agent not in self.online or body["round"] != self.round:
            return
        expect(body["data"] == self.data.digest and body["n_samples"] == self.data.n, "the same data")
        for view, missing in body["missing"].items():
            if view in self.done:
                self.done[view][self.data.from_bits(missing)] = False

    def labelled(self, view):
        return self.done.setdefault(view, np.zeros(self.data.n, bool))

    def next_batch(self, n_rows):
        """Some of what those who are online demand, and this round has not labelled: (view, ids)."""
        for view, done in self.done.items():
            wanted = [s for (agent, *_), (n, s) in self.demands.items() if agent in self.online and view < n]
            ids = np.flatnonzero(np.any(wanted, axis=0) & ~done)[:n_rows] if wanted else []
            if len(ids) > 0:
                done[ids] = True
                return view, ids
        return None

    def tick(self):
        """Labels a chunk, once the broker has the one before."""
        if not self.connected() or self.sent and not self.sent.is_published():
            return
        batch = self.next_batch(rows.rows_per_chunk(len(self.data.classes)))
        if batch is None:
            return
        view, ids = batch
        who = {"session": self.session, "data": self.data.digest, "model": self.model}
        of_round = {"round": self.round, "temperature": 2.0, "view": view}
        logits = self.network.logits(self.data.views(ids, view))
        chunk = cbor2.dumps({"v": 1, **who, **of_round, **rows.write(ids, logits)})
        self.sent = self.publish(chunk, "targets", self.data.digest.hex()[:16], retain=False)
        self.n_rows += len(ids)
        print(f"{self.n_rows} rows labelled", flush=True)

    def reconnected(self):
        self.sent = None


if __name__ == "__main__":
    join(Teacher, arguments(__doc__.splitlines()[0]).parse_args())
