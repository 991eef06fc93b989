"""Rows of soft targets, as they stand in a message: `ids` and `logits` (docs/protocol.md, targets)."""

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


def typed(item, *tags):
    expect(isinstance(item, cbor2.CBORTag) and item.tag in tags, f"a typed array of {tags}")
    return np.frombuffer(item.value, TYPES[item.tag])


def expect(holds, what):
    if not holds:
        raise ValueError(f"expected {what}")
