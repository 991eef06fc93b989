"""Rows of soft targets: `ids` and `logits` of a message (docs/protocol.md, targets), and those a student holds."""

import cbor2
import numpy as np

# Typed arrays of RFC 8746, little endian.
UINT32, FLOAT16, FLOAT32 = 70, 84, 85
TYPES = {UINT32: "<u4", FLOAT16: "<f2", FLOAT32: "<f4"}
LARGEST_FLOAT16 = 65_504
# What else is in a chunk, rounded up.
OVERHEAD_BYTES = 256


def rows_per_chunk(n_classes, chunk_bytes=65_536):
    return max((chunk_bytes - OVERHEAD_BYTES) // (4 + 2 * n_classes), 1)


def write(ids, logits):
    """The fields that say ids [N] and logits [N, K]."""
    halves = logits.clip(-LARGEST_FLOAT16, LARGEST_FLOAT16).astype("<f2")
    return {
        "n_classes": logits.shape[1],
        "ids": cbor2.CBORTag(UINT32, ids.astype("<u4").tobytes()),
        "logits": cbor2.CBORTag(FLOAT16, halves.tobytes()),
    }


def read(chunk, n_samples, n_classes):
    """The ids [N] of a chunk, ascending and each once, and their logits [N, K] as float32."""
    ids = typed(chunk["ids"], UINT32)
    logits = typed(chunk["logits"], FLOAT16, FLOAT32).astype(np.float32)
    expect(chunk["n_classes"] == n_classes and logits.size == ids.size * n_classes > 0, "a logit for each class")
    expect(np.isfinite(logits).all(), "finite logits")
    ids, first = np.unique(ids, return_index=True)
    expect(ids[-1] < n_samples, "samples of the training set")
    return ids, logits.reshape(-1, n_classes)[first]


class Held:
    """Rows of one teacher, by view and sample, each of the round it was labelled in; 0 is that of no row."""

    def __init__(self, n_views, n_samples, n_classes):
        self.rounds = np.zeros((n_views, n_samples), np.uint64)
        self.logits = np.full((n_views, n_samples, n_classes), np.nan, np.float32)

    def keep(self, view, ids, logits, round, wanted):
        """Keeps what is wanted and newer than what is held; whether that was any."""
        new = wanted[ids] & (self.rounds[view, ids] < round)
        self.rounds[view, ids[new]] = round
        self.logits[view, ids[new]] = logits[new]
        return new.any()

    def forget_rounds(self):
        """Any row may replace those held, which are used until then."""
        self.rounds[:] = 0


def typed(item, *tags):
    expect(isinstance(item, cbor2.CBORTag) and item.tag in tags, f"a typed array of {tags}")
    return np.frombuffer(item.value, TYPES[item.tag])


def expect(holds, what):
    if not holds:
        raise ValueError(f"expected {what}")
