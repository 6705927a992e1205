"""Replicas on the logical CPUs of one process, and what trainings on them came to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

import perigee as pg
from perigee import _backends
from perigee._step.state import snapshot, track

SEED = 7


@functools.cache
def mirrored(count: int) -> Any:
    """Return the strategy of so many replicas.

    There is one of each in a process: TensorFlow numbers its collective operations anew for each
    strategy, and mixes up those of two. So only that of two replicas uses them.
    """
    import tensorflow as tf

    devices = [f"CPU:{index}" for index in range(count)]
    if count == 2:
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())


@dataclass(frozen=True, slots=True)
class Trained:
    """A training: its history, its Step, and the value of every variable by its key."""

    history: pg.History
    step: Any
    values: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> list[float]:
        """Return the value of each epoch of what is logged under a name."""
        return self.history.history[name]


def made(make_step: Callable[[], Any], count: int) -> Any:
    """Build a Step for so many replicas, with the weights and names of a new process."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(SEED)
    with nullcontext() if count == 1 else mirrored(count).scope():
        return make_step()


def trained(make_step: Callable[[], Any], data: Any, count: int, **arguments: Any) -> Trained:
    """Train a Step on so many replicas, op by op unless asked for: compiling takes seconds."""
    step = made(make_step, count)
    arguments = {"progress": "off", "seed": SEED, "execution": "eager", **arguments}
    history = pg.fit(step, data, **arguments)
    return Trained(history, step, values(step))


def values(step: Any) -> dict[str, np.ndarray]:
    """Return the value of every variable by its key."""
    entries = track(step).entries
    read = snapshot([entry.variable for entry in entries])
    return {entry.key: value for entry, value in zip(entries, read, strict=True)}


def copies(step: Any) -> dict[str, list[np.ndarray]]:
    """Return the value of each copy of every variable, by its key."""
    held = _backends.current().copies
    entries = track(step).entries
    return {entry.key: [copy.numpy() for copy in held(entry.variable)] for entry in entries}


def assert_alike(ours: Trained, theirs: Trained, tolerance: float = 1e-5) -> None:
    """Compare everything that was logged, and every variable but metrics and seeds."""
    assert ours.history.history.keys() == theirs.history.history.keys()
    for name, series in ours.history.history.items():
        np.testing.assert_allclose(series, theirs[name], rtol=tolerance, err_msg=name)
    entries = track(ours.step).entries
    assert ours.values.keys() == theirs.values.keys()
    for entry in entries:
        if entry.kind not in ("metric", "seed"):
            np.testing.assert_allclose(
                ours.values[entry.key],
                theirs.values[entry.key],
                rtol=tolerance,
                atol=tolerance,
                err_msg=entry.key,
            )


def assert_copies_agree(step: Any) -> None:
    """Check that copies are equal to the bit, and that all but the first of a sum are 0."""
    is_sum = {e.key: _backends.current().is_sum(e.variable) for e in track(step).entries}
    for key, (first, *others) in copies(step).items():
        for other in others:
            expected = np.zeros_like(first) if is_sum[key] else first
            assert expected.tobytes() == other.tobytes(), key
