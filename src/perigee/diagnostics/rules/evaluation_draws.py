"""PG441, EvaluationDraws: an evaluation in training mode.

While `test_step` runs, Dropout or an augmentation is active, or BatchNorm uses the batch's
statistics and updates its own: two evaluations of one model differ, and the evaluated model is not
the one that is used. Call the model with `training=False` in `test_step`. Draws from a
`SeedGenerator` that the Step or a layer of its own holds are assumed to be intended. It is a hint
for noise in data without labels: to see through it may be the task.

How sure: a warning or, as said, a hint, shown by the layers that ran in training mode in
`test_step`. It may be meant.
"""

from __future__ import annotations

from keras import layers as kl

from perigee._step.state import nested_layers
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._recording import AUGMENTING, DRAWING


def check(evidence: Evidence) -> list[Finding]:
    """Find active noise, and BatchNorm whose statistics change, in `test_step`."""
    testing = evidence.testing
    if testing is None or testing.rehearsal is None:
        return []
    written = {id(variable) for variable in testing.rehearsal.written}
    items = {
        f"{layer.path or layer.name} ({type(layer).__name__})": None
        for model in evidence.tracked.models.values()
        for layer in nested_layers(model)
        if (isinstance(layer, (*DRAWING, *AUGMENTING)) and id(layer) in testing.drew)
        or (
            isinstance(layer, (*DRAWING, *AUGMENTING, kl.BatchNormalization))
            and any(id(variable) in written for variable in layer.variables)
        )
    }
    if not items:
        return []
    only_draws = not any(name.endswith("(BatchNormalization)") for name in items)
    has_labels = isinstance(evidence.batches[0], tuple) and len(evidence.batches[0]) > 1
    return [
        Finding(
            code="PG441",
            name="EvaluationDraws",
            severity="warning" if has_labels or not only_draws else "hint",
            happened=f"{len(items)} layers run in training mode in `test_step`:",
            items=tuple(items),
            expected="an evaluation that draws nothing and changes no statistics.",
            fix="call the model with `training=False` in `test_step`.",
        )
    ]
