"""What a program comes to when it is trained for a moment, to tell a mutant from its program."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

import perigee as pg
from perigee._step.state import snapshot, track
from tests.diagnostics.healthy import BATCH, Parts

STEPS = 4


def outcome(parts: Parts) -> dict[str, Any]:
    """Train for some steps; return what was logged, evaluated and learned, or the error.

    Args:
        parts: Of a program or a mutant.

    Returns:
        Arrays by name; under `error` what training refused with, if it did.
    """
    outcome: dict[str, Any] = {}
    try:
        step, data = parts.build()
        arguments = parts.fit_arguments()
        validation = arguments.get("validation")
        if validation is not None:
            outcome["validation"] = np.mean(keras.tree.flatten(validation)[0])
        history = pg.fit(
            step,
            data,
            steps=STEPS,
            batch_size=BATCH,
            shuffle=False,
            execution="eager",
            nonfinite="stop",
            progress="off",
        )
        outcome |= {f"log/{name}": np.array(v) for name, v in history.history.items()}
        entries = track(step).entries
        values = snapshot([entry.variable for entry in entries])
        outcome |= {e.key: np.array(v) for e, v in zip(entries, values, strict=True)}
        if _evaluates(step):
            values = pg.evaluate(step, data, steps=1, batch_size=BATCH, execution="eager")
            outcome |= {f"evaluated/{name}": np.array(value) for name, value in values.items()}
    except Exception as error:
        outcome["error"] = f"{type(error).__name__}: {error}"
    return outcome


def differ(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Tell whether two outcomes are not the same, by more than rounding."""
    if one.keys() != two.keys() or one.get("error") != two.get("error"):
        return True
    numbers = [name for name in one if name != "error"]
    return any(_are_apart(one[name], two[name]) for name in numbers)


def _are_apart(one: Any, two: Any) -> bool:
    one, two = np.asarray(one, "float64"), np.asarray(two, "float64")
    return one.shape != two.shape or not np.allclose(one, two, 1e-4, 1e-6, equal_nan=True)


def _evaluates(step: pg.Step) -> bool:
    return type(step).test_step is not pg.Step.test_step
