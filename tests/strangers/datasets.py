"""Data of scikit-learn's and of a seeded generator, as programs use them."""

from functools import cache

import numpy as np


@cache
def wine() -> tuple[np.ndarray, np.ndarray]:
    """Return 178 rows of 13 standardized columns, and labels `(178,)` of 3 classes, shuffled."""
    from sklearn.datasets import load_wine

    x, y = load_wine(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x = (x - x.mean(0)) / x.std(0)
    return x[order].astype("float32"), y[order].astype("int32")


@cache
def digits(count: int = 320) -> tuple[np.ndarray, np.ndarray]:
    """Return images `(count, 8, 8, 1)` in [0, 1], and labels `(count,)` of 10 classes."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x[:count].reshape(-1, 8, 8, 1) / 16).astype("float32"), y[:count].astype("int32")


@cache
def diabetes() -> tuple[np.ndarray, np.ndarray]:
    """Return 442 rows of 10 columns, and targets `(442,)` with mean 0 and deviation 1."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    return (x / x.std(0)).astype("float32"), ((y - y.mean()) / y.std()).astype("float32")


@cache
def cancer() -> tuple[np.ndarray, np.ndarray]:
    """Return 569 rows of 30 standardized columns, and labels `(569,)` of 0 and 1."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return ((x - x.mean(0)) / x.std(0)).astype("float32"), y.astype("float32")


@cache
def sentences(count: int = 200, length: int = 12, vocabulary: int = 50) -> tuple[np.ndarray, ...]:
    """Return token ids `(count, length)`, padded with 0, and labels `(count,)` of 0 and 1."""
    rng = np.random.default_rng(1)
    ids = rng.integers(1, vocabulary, (count, length)).astype("int32")
    ids[np.arange(length) >= rng.integers(3, length + 1, (count, 1))] = 0
    return ids, (ids.max(1) > vocabulary * 0.9).astype("int32")


@cache
def waves(count: int = 120, length: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy waves `(count, length, 1)`, and the value that follows each, `(count, 1)`."""
    rng = np.random.default_rng(2)
    start, step = rng.uniform(0, 6, (count, 1)), rng.uniform(0.1, 0.6, (count, 1))
    wave = np.sin(start + step * np.arange(length + 1)) + rng.normal(0, 0.02, (count, length + 1))
    wave = wave.astype("float32")
    return wave[:, :-1, None], wave[:, -1:]
