"""What a fleet must agree on: the training images of an NPZ file, their data digest and their views (docs/streams.md)."""

import numpy as np
from blake3 import blake3

from rows import expect


def u64le(n):
    return int(n).to_bytes(8, "little")


class Data:
    """Keras' form of NPZ: `x_train` [n, H, W] or [n, H, W, C] of uint8, `y_train` [n]. Without colour jitter."""

    def __init__(self, path, padding, flip):
        with np.load(path) as file:
            images, self.labels = file["x_train"], file["y_train"].reshape(-1)
        self.images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        self.padding, self.flip, self.n = padding, flip, len(images)
        self.classes = [str(label) for label in range(self.labels.max() + 1)]
        numbers = b"".join(map(u64le, (*self.images.shape, padding, flip)))
        self.digest = blake3(b"dkt.data.1" + numbers + self.images.tobytes()).digest()

    def below(self, n, sample, view, what):
        message = b"dkt.draw.1" + u64le(4) + b"view" + u64le(sample) + u64le(view) + u64le(what)
        draw = blake3(message, key=self.digest[:8] + bytes(24)).digest()[:8]
        return int.from_bytes(draw, "little") * n >> 64

    def views(self, ids, view):
        """One view of each of the samples, [ids, C, H, W] of uint8."""
        (height, width), p = self.images.shape[2:], self.padding
        padded = np.pad(self.images[ids], ((0, 0), (0, 0), (p, p), (p, p)))
        out = np.empty_like(self.images[ids])
        for i, sample in enumerate(ids):
            down, right = (self.below(2 * p + 1, sample, view, what) for what in (0, 1))
            image = padded[i, :, down : down + height, right : right + width]
            out[i] = image[:, :, ::-1] if self.flip and self.below(2, sample, view, 2) else image
        return out

    def to_bits(self, samples):
        return np.packbits(samples, bitorder="little").tobytes()

    def from_bits(self, bits):
        """A truth value for each sample of the training set."""
        expect(len(bits) == -(-self.n // 8), "a bit for each sample")
        samples = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little").astype(bool)
        expect(not samples[self.n :].any(), "no bit beyond the samples")
        return samples[: self.n]
