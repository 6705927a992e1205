"""PG441, EvaluationDraws: an evaluation in training mode.

While `test_step` runs, Dropout is active, or BatchNorm uses the batch's statistics and updates its
own: two evaluations of one model differ, and the evaluated model is not the one that is used. Call
the model with `training=False` in `test_step`. Draws from a `SeedGenerator` that the Step or a
layer of its own holds are assumed to be intended, and so is noise that a model adds by itself where
the data has no labels: its task is then to recognize, or to restore, what the noise has changed.

How sure: a warning, shown by the layers that ran in training mode in `test_step`. It may be meant.
"""

from __future__ import annotations

from keras import layers as kl

from perigee._step.state import nested_layers
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._recording import DRAWING


def check(evidence: Evidence) -> list[Finding]:
    """Find active Dropout, and BatchNorm whose statistics change, in `test_step`."""
    testing = evidence.testing
    if testing is None or testing.rehearsal is None:
        return []
    batch = evidence.batches[0]
    has_labels = isinstance(batch, tuple) and len(batch) > 1
    written = {id(variable) for variable in testing.rehearsal.written}
    items = {
        f"{layer.path or layer.name} ({type(layer).__name__})": None
        for model in evidence.tracked.models.values()
        for layer in nested_layers(model)
        if (has_labels or not isinstance(layer, kl.GaussianNoise))
        and (
            (isinstance(layer, DRAWING) and id(layer) in testing.drew)
            or (
                isinstance(layer, (*DRAWING, kl.BatchNormalization))
                and any(id(variable) in written for variable in layer.variables)
            )
        )
    }
    if not items:
        return []
    return [
        Finding(
            code="PG441",
            name="EvaluationDraws",
            severity="warning",
            happened=f"{len(items)} layers run in training mode in `test_step`:",
            items=tuple(items),
            expected="an evaluation that draws nothing and changes no statistics.",
            fix="call the model with `training=False` in `test_step`.",
        )
    ]
