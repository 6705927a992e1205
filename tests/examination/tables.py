"""Data of the second set: small tables, texts, images and series with a structure to learn."""

from functools import cache

import numpy as np


@cache
def houses(n=400):
    """Return raw columns (area, rooms, age, distance) and prices in thousands, `(n, 4)`, `(n,)`."""
    rng = np.random.default_rng(101)
    area = rng.gamma(6.0, 20.0, n)
    rooms = np.clip(np.round(area / 28 + rng.normal(0, 0.7, n)), 1, 9)
    age = rng.integers(0, 90, n)
    far = rng.exponential(6.0, n)
    price = 60 + 2.1 * area + 12 * rooms - 0.7 * age - 5.5 * far + rng.normal(0, 14, n)
    x = np.stack([area, rooms, age, far], axis=1)
    return x.astype("float32"), price.astype("float32")


@cache
def houses_scaled(n=400):
    """Return the houses with standardized columns, and prices in hundreds of thousands."""
    x, price = houses(n)
    return ((x - x.mean(0)) / x.std(0)).astype("float32"), (price / 100).astype("float32")


@cache
def churn(n=500):
    """Return eight standardized columns and who left, `(n, 8)` and `(n,)` of 0 and 1."""
    rng = np.random.default_rng(102)
    x = rng.normal(size=(n, 8))
    score = 1.6 * x[:, 0] - 1.2 * x[:, 3] + x[:, 1] * x[:, 2] + 0.5 * rng.normal(size=n) - 0.2
    return x.astype("float32"), (score > 0).astype("int32")


@cache
def circles(n=400):
    """Return points on two circles, `(n, 2)`, and on which, `(n,)`."""
    from sklearn.datasets import make_circles

    x, y = make_circles(n, noise=0.08, factor=0.45, random_state=3)
    return x.astype("float32"), y.astype("int32")


@cache
def moons(n=400):
    """Return points of two half moons, `(n, 2)`, and of which, `(n,)`."""
    from sklearn.datasets import make_moons

    x, y = make_moons(n, noise=0.15, random_state=4)
    return x.astype("float32"), y.astype("int32")


@cache
def reviews(n=360, length=24, words=100):
    """Return word ids padded behind with 0, `(n, length)`, and whether good words prevail."""
    rng = np.random.default_rng(103)
    ids = rng.integers(30, words, (n, length))
    kind = rng.integers(0, 2, n)
    spots = rng.random((n, length)) < 0.3
    tinted = rng.integers(1, 15, (n, length)) + 14 * kind[:, None]
    ids = np.where(spots, tinted, ids)
    ids[np.arange(length) >= rng.integers(8, length + 1, (n, 1))] = 0
    return ids.astype("int32"), kind.astype("int32")


@cache
def tagged(n=300, length=16):
    """Return word ids padded with 0, a tag of 1 to 4 each (0 at padding), and the mask."""
    rng = np.random.default_rng(104)
    ids = rng.integers(1, 40, (n, length))
    tags = 1 + (ids % 4 + np.roll(ids % 2, 1, axis=1)) % 4
    mask = np.arange(length) < rng.integers(4, length + 1, (n, 1))
    return (ids * mask).astype("int32"), (tags * mask).astype("int32"), mask.astype("float32")


@cache
def motion(n=300, length=24):
    """Return three channels of a sensor, `(n, length, 3)`, and one of three gaits, `(n,)`."""
    rng = np.random.default_rng(105)
    gait = rng.integers(0, 3, n)
    t = np.arange(length)[None, :, None]
    speed = np.array([0.3, 0.7, 1.3])[gait][:, None, None]
    phase = rng.uniform(0, 6.28, (n, 1, 1)) + np.array([0.0, 1.0, 2.0])
    x = np.sin(speed * t + phase) + rng.normal(0, 0.3, (n, length, 3))
    return x.astype("float32"), gait.astype("int32")


@cache
def scenes(n=160, side=16):
    """Return grey images with a bright disk, `(n, side, side, 1)`, and its mask of 0 and 1."""
    rng = np.random.default_rng(106)
    r, c = np.mgrid[:side, :side]
    cy, cx = rng.uniform(4, side - 4, (2, n, 1, 1))
    radius = rng.uniform(2.0, 5.0, (n, 1, 1))
    mask = ((r - cy) ** 2 + (c - cx) ** 2 < radius**2).astype("float32")[..., None]
    image = np.clip(0.25 + 0.45 * mask + rng.normal(0, 0.12, mask.shape), 0, 1)
    return image.astype("float32"), mask


@cache
def ratings(n=600, users=40, films=30):
    """Return user ids, film ids (both from 0) and a rating of about 1 to 5, `(n,)` each."""
    rng = np.random.default_rng(107)
    u, f = rng.integers(0, users, n), rng.integers(0, films, n)
    p, q = rng.normal(size=(users, 2)), rng.normal(size=(films, 2))
    stars = np.clip(3 + (p[u] * q[f]).sum(1) + 0.5 * p[u, 0] + rng.normal(0, 0.2, n), 1, 5)
    return u.astype("int32"), f.astype("int32"), stars.astype("float32")


@cache
def topics(n=400):
    """Return twenty columns and five tags that may occur together, `(n, 20)` and `(n, 5)`."""
    rng = np.random.default_rng(108)
    x = rng.normal(size=(n, 20))
    y = (x @ rng.normal(size=(20, 5)) + rng.normal(size=(n, 5)) > 0).astype("float32")
    return x.astype("float32"), y


@cache
def sales(days=430, window=14):
    """Return windows of daily sales, `(n, window, 1)`, standardized, and the next day's, `(n,)`."""
    rng = np.random.default_rng(109)
    t = np.arange(days)
    s = np.sin(2 * np.pi * t / 7) + 0.6 * np.sin(2 * np.pi * t / 30) + rng.normal(0, 0.15, days)
    x = np.stack([s[i : i + window] for i in range(days - window)])[..., None]
    return x.astype("float32"), s[window:].astype("float32")


@cache
def iris_scaled():
    """Return iris, shuffled, with standardized columns, and class ids."""
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    order = np.random.default_rng(110).permutation(150)
    x = (x - x.mean(0)) / x.std(0)
    return x[order].astype("float32"), y[order].astype("int32")


@cache
def totals(n=400, length=14):
    """Return series of independent numbers, `(n, length, 1)`, and their sums, `(n,)`."""
    x = np.random.default_rng(111).normal(0, 0.4, (n, length, 1)).astype("float32")
    return x, x.sum(axis=(1, 2))
