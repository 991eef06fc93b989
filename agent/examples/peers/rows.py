"""Rows of soft targets: the fields of a message that say them (docs/protocol.md, targets), and those a student holds."""

import cbor2
import numpy as np

# Typed arrays of RFC 8746, little endian.
UINT8, UINT16, UINT32, FLOAT16, FLOAT32 = 64, 69, 70, 84, 85
TYPES = {UINT8: "<u1", UINT16: "<u2", UINT32: "<u4", FLOAT16: "<f2", FLOAT32: "<f4"}
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
    expect(chunk["n_classes"] == n_classes, "a logit for each class")
    if "same" in chunk and "ids" not in chunk and "logits" not in chunk:
        return np.zeros(0, int), np.zeros((0, n_classes), np.float32)
    ids = read_ids(chunk["ids"], n_samples)
    logits = read_logits(chunk, len(ids), n_classes)
    ids, first = np.unique(ids, return_index=True)
    return ids, logits[first]


def read_same(chunk, n_samples):
    """The round since which rows have hardly changed, and their ids [N]."""
    base, ids = chunk["same"]["base"], read_ids(chunk["same"]["ids"], n_samples)
    expect(type(base) is int and 1 <= base < chunk["round"], "an earlier round")
    return base, ids


def read_ids(item, n_samples):
    if isinstance(item, list):
        first, window = item
        expect(type(first) is int and first >= 0 and isinstance(window, bytes) and window[-1], "a window")
        expect(first + 8 * len(window) < n_samples + 8, "samples of the training set")
        ids = first + np.flatnonzero(np.unpackbits(np.frombuffer(window, np.uint8), bitorder="little"))
    else:
        ids = typed(item, UINT32).astype(int)
    expect(len(ids) > 0 and ids.max() < n_samples, "samples of the training set")
    return ids


def read_logits(chunk, n, n_classes):
    """Of any form, [n, n_classes] of float32."""
    if "classes" in chunk:
        classes = typed(chunk["classes"], UINT8, UINT16).reshape(n, -1).astype(int)
        expect(1 <= classes.shape[1] <= n_classes and classes.max() < n_classes, "classes")
        expect(np.diff(np.sort(classes)).all(), "each class once in a row")
        logits = np.repeat(floats(chunk["rest"], n, 1), n_classes, axis=1)
        np.put_along_axis(logits, classes, floats(chunk["logits"], *classes.shape), axis=1)
        return logits
    if chunk["logits"].tag != UINT8:
        return floats(chunk["logits"], n, n_classes)
    scale, offset = floats(chunk["scale"], n, 1), floats(chunk["offset"], n, 1)
    with np.errstate(over="ignore"):
        expect((scale >= 0).all() and np.isfinite(offset + 255 * scale).all(), "finite logits")
    return offset + scale * typed(chunk["logits"], UINT8).reshape(n, n_classes)


def floats(item, *shape):
    numbers = typed(item, FLOAT16, FLOAT32).astype(np.float32).reshape(shape)
    expect(np.isfinite(numbers).all(), "finite numbers")
    return numbers


class Held:
    """Rows of one teacher, by view and sample, each of the round it was labelled in; 0 is that of no row."""

    def __init__(self, n_views, n_samples, n_classes):
        self.rounds = np.zeros((n_views, n_samples), np.uint64)
        self.logits = np.full((n_views, n_samples, n_classes), np.nan, np.float32)

    def take(self, chunk, wanted):
        """Keeps what a chunk says of wanted samples and is newer than what is held; whether that was any."""
        (n_views, n_samples, n_classes), view, round = self.logits.shape, chunk["view"], chunk["round"]
        ids, logits = read(chunk, n_samples, n_classes)
        base, same = read_same(chunk, n_samples) if "same" in chunk else (round, ids[:0])
        if view >= n_views:
            return False
        rounds = self.rounds[view]
        new = wanted[ids] & (rounds[ids] < round)
        rounds[ids[new]] = round
        self.logits[view, ids[new]] = logits[new]
        # Those held from an earlier session are of round 0. Who does not hold the row of `base` lacks that of `round`.
        as_before = same[wanted[same] & (rounds[same] >= base) & (rounds[same] < round)]
        rounds[as_before] = round
        return new.any() or len(as_before) > 0

    def forget_rounds(self):
        """Any row may replace those held, which are used until then."""
        self.rounds[:] = 0


def typed(item, *tags):
    expect(isinstance(item, cbor2.CBORTag) and item.tag in tags, f"a typed array of {tags}")
    expect(isinstance(item.value, bytes), "a byte string")
    return np.frombuffer(item.value, TYPES[item.tag])


def expect(holds, what):
    if not holds:
        raise ValueError(f"expected {what}")
