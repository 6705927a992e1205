"""The data: points on the arms of a spiral, generated here."""

import numpy as np


def spiral(rows, classes, noise, seed):
    """Return points `(rows, 2)` and the index of each point's arm, `(rows,)`."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, rows)
    radius = draw.uniform(0.05, 1.0, rows)
    angle = 4 * radius + labels * 2 * np.pi / classes + draw.normal(0, noise, rows)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return points.astype("float32"), labels.astype("int32")


def load_train(rows=1200, classes=3, noise=0.15):
    """Return the training data."""
    return spiral(rows, classes, noise, seed=1)


def load_valid(rows=300, classes=3, noise=0.15):
    """Return the validation data: other points."""
    return spiral(rows, classes, noise, seed=2)
