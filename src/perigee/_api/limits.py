"""Keras's limits for quick runs: `keras.config.set_max_epochs` and `set_max_steps_per_epoch`."""

from __future__ import annotations

import warnings

import keras

from perigee._loop.findings import levels_to_caller


def limited_epochs(epochs: int) -> int:
    """Return epochs to train, as few as Keras is set to."""
    most = keras.config.max_epochs()
    if not most or epochs <= most:
        return epochs
    _warn(f"Only {most} of {epochs} epochs: `keras.config.max_epochs`.")
    return most


def limited_steps(steps: int | None) -> int | None:
    """Return steps an epoch or a pass, `None` for all of the data, as few as Keras is set to."""
    most = keras.config.max_steps_per_epoch()
    if not most or (steps is not None and steps <= most):
        return steps
    _warn(f"Only {most} steps: `keras.config.max_steps_per_epoch`.")
    return most


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=levels_to_caller())
