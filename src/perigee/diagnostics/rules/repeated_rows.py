"""PG136, RepeatedRows: rows of an embedding that a batch uses several times, in Keras's optimizers.

On TensorFlow the gradient of an `Embedding` has one slice for each use of a row. Keras's Adam,
RMSprop, Adagrad and the like square each slice by itself and apply them one after another; by their
formulas, and on JAX and torch, the gradient of a row is the sum over its uses. `keras_fit` and
`KerasStep` train as Keras does; a Step that calls `minimize` adds the slices up first, so it trains
to other numbers. Nothing is wrong with either: this is a hint for those who compare. See the page
on numbers.

How sure: a hint, shown by the ids of a batch and by what the optimizer makes of twice the
gradients.
"""

from __future__ import annotations

import numpy as np

from perigee._step.state import preserved, restore, snapshot
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._recording import Update

_ALIKE = 0.05
"""Relative; twice the gradient makes as large an update under Adam, so that one has half of it."""


def check(evidence: Evidence) -> list[Finding]:
    """Find rows used several times whose optimizer does not add their gradients up."""
    if not evidence.is_of_keras:
        return []
    for update in evidence.training.updates:
        sparse = {id(variable) for variable in update.sparse}
        for lookup in evidence.training.lookups:
            variable = lookup.layer.embeddings
            _, counts = np.unique(lookup.ids, return_counts=True)
            if id(variable) in sparse and counts.max(initial=0) > 1 and not _is_linear(update):
                path = evidence.tracked.path_of(update.optimizer)
                return [_finding(lookup.layer.name, int((counts > 1).sum()), path, update)]
    return []


def _is_linear(update: Update) -> bool:
    """Tell whether twice the gradients make twice the update: then slices are like their sum."""
    variables = [*update.variables, *update.optimizer.variables]
    largest = max((float(np.abs(g).max(initial=0)) for g in update.gradients), default=0.0)
    if not largest > 0:
        return True
    with preserved(variables) as values:  # with gradients of about 1, far above the rounding
        moves = [_moved(update, factor / largest, variables, values) for factor in (1.0, 2.0)]
    return all(
        np.abs(2 * one - two).max(initial=0) <= _ALIKE * np.abs(two).max(initial=0)
        for one, two in zip(*moves, strict=True)
    )


def _moved(
    update: Update, factor: float, variables: list[object], values: list[np.ndarray]
) -> list[np.ndarray]:
    restore(variables, values)
    before = snapshot(update.variables)
    update.optimizer.apply([factor * g for g in update.gradients], update.variables)
    after = snapshot(update.variables)
    return [new.astype("float64") - old for new, old in zip(after, before, strict=True)]


def _finding(name: str, rows: int, path: str, update: Update) -> Finding:
    return Finding(
        code="PG136",
        name="RepeatedRows",
        severity="hint",
        happened=f"The first batch uses {rows} rows of {name!r} several times, and {path!r} "
        f"({type(update.optimizer).__name__}) applies each use by itself, as Keras does on "
        "TensorFlow.",
        expected="by its formula, one gradient a row, the sum over its uses; Steps that call "
        "`minimize` have it, so they train to other numbers.",
        fix="nothing, unless you compare the two: the page on numbers says who does what.",
    )
