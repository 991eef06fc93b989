"""Writes the IDX files of this folder from scikit-learn's copy of the UCI handwritten digits."""

import struct
from pathlib import Path

from sklearn.datasets import load_digits

digits = load_digits()
here = Path(__file__).parent
images = digits.images.astype("uint8")
(here / "images-idx3-ubyte").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, *images.shape) + images.tobytes())
labels = digits.target.astype("uint8")
(here / "labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + labels.tobytes())
