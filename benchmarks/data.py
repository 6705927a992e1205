"""The data of every benchmark: scikit-learn's digits, many times over."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

NUM_CLASSES = 10


def digits(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `rows` images in [0, 1], shape `(rows, 64)`, and their labels, shape `(rows,)`.

    The 1,797 digits are repeated as often as needed, for epochs of a useful length.
    """
    images, labels = load_digits(return_X_y=True)
    chosen = np.arange(rows) % len(images)
    return (images[chosen] / 16).astype("float32"), labels[chosen].astype("int32")
