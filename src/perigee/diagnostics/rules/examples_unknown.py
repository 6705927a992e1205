"""PG239, ExamplesUnknown: batches whose number of examples nothing tells.

What a step returns is averaged over the examples of a pass. A batch has as many as the first axis
that its arrays share; texts, numbers and other objects in it do not count. If the arrays differ in
that axis, or none has one, each batch counts the same, and the examples of a smaller batch count
more than others. Override `num_examples(batch)` in the Step to return the number, or return
`pg.mean(values, weights)`, which has a count of its own. Where each batch is one example, or all
have the same number of them, nothing is lost.

How sure: a warning, shown by the shapes of the batch. Nothing is lost if all batches have the same
number of examples.
"""

from __future__ import annotations

from typing import Any

import keras

from perigee._rehearsal.discovery import Rehearsal
from perigee._step.rows import arrays_of_rows
from perigee._step.step import Step
from perigee._typing import Batch
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_MOST_SHOWN = 5


def check(evidence: Evidence) -> list[Finding]:
    """Look at the training step and its first batch."""
    rehearsal = evidence.training.rehearsal
    return [] if rehearsal is None else check_step(evidence.step, rehearsal, evidence.batches[0])


def check_step(step: Step, rehearsal: Rehearsal, batch: Batch) -> list[Finding]:
    """Report a batch without a number of examples, if it would weight a returned value."""
    is_own = type(step).num_examples is not Step.num_examples
    if is_own or not rehearsal.of_examples or step.num_examples(batch) is not None:
        return []
    arrays = arrays_of_rows(batch)
    others = [leaf for leaf in keras.tree.flatten(batch) if not _is_number(leaf)]
    if not arrays and not others:
        return []
    happened = (
        "The arrays of a batch differ in their first axis, so nothing tells how many examples it "
        "has, and each batch counts the same in what is logged:"
        if arrays
        else "A batch has no array with a first axis, so nothing tells how many examples it has, "
        "and each batch counts the same in what is logged:"
    )
    shown = [str(tuple(array.shape)) for array in arrays] or [
        type(leaf).__name__ for leaf in others
    ]
    return [
        Finding(
            code="PG239",
            name="ExamplesUnknown",
            severity="warning",
            happened=happened,
            items=tuple(dict.fromkeys(shown))[:_MOST_SHOWN],
            expected="one first axis that all arrays share, or a count.",
            fix="override `num_examples(self, batch)` in the Step, or return "
            "`pg.mean(values, weights)`.",
        )
    ]


def _is_number(leaf: Any) -> bool:
    """Tell whether a leaf is `None` or a single number."""
    return (
        leaf is None or isinstance(leaf, bool | int | float) or getattr(leaf, "shape", None) == ()
    )
