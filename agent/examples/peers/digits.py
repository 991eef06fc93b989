"""Writes the handwritten digits that dkt brings along as an NPZ file, which dkt and the peers beside this file read.

    python3 digits.py digits.npz
"""

import sys
from pathlib import Path

import numpy as np

folder = Path(__file__).parents[2] / "data" / "digits"
images = np.frombuffer((folder / "images-idx3-ubyte").read_bytes(), np.uint8, offset=16).reshape(-1, 8, 8)
labels = np.frombuffer((folder / "labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
# Of each class every fifth image, from its first, is for testing (docs/streams.md).
test = np.zeros(len(labels), bool)
for label in range(10):
    test[np.flatnonzero(labels == label)[::5]] = True
np.savez(sys.argv[1], x_train=images[~test], y_train=labels[~test], x_test=images[test], y_test=labels[test])
