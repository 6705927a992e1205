"""PG440, InferenceMode: Dropout or BatchNorm that is trained in inference mode.

`model(x)` without `training=True` turns Dropout off and leaves the statistics of BatchNorm at their
initial values, so the model is trained without Dropout and evaluated with useless statistics. Pass
`training=True` in `train_step`. A model whose `call` has no argument `training` is called without
it by `fit`, too, and does not pass the mode on. A part of a model that is called with
`training=False` on purpose, as in fine-tuning, is not reported, nor are models that the step does
not update.

How sure: a warning, shown by how the model was called, and by statistics that stay as they were. It
may be meant.
"""

from __future__ import annotations

from typing import Any

from keras import layers as kl

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._layers import of_two_modes
from perigee.diagnostics._recording import takes_training

_FIX = "call the model with `training=True` in `train_step`."


def check(evidence: Evidence) -> list[Finding]:
    """Find models called in inference mode, and BatchNorm whose statistics do not change."""
    by_model: dict[int, list[Any]] = {}
    for call in evidence.trained:
        by_model.setdefault(id(call.layer), []).append(call)
    found: list[Finding] = []
    for calls in by_model.values():
        model = calls[0].layer
        layers = of_two_modes(model)
        # A layer that is not built has no path.
        names = tuple(f"{layer.path or layer.name} ({type(layer).__name__})" for layer in layers)
        told = [call.training for call in calls]
        if layers and all(not training for training in told if isinstance(training, bool | None)):
            if any(not isinstance(training, bool | None) for training in told):
                continue  # a tensor decides
            how = "training=False" if any(t is False for t in told) else "no `training`"
            fix = (
                _FIX
                if takes_training(model)
                else "give its `call` an argument `training`, and pass it on to these layers."
            )
            found.append(_finding(f"`train_step` calls {model.name!r} with {how}.", names, fix))
            continue
        unmoved = tuple(
            layer.path
            for layer in layers
            if isinstance(layer, kl.BatchNormalization)
            and evidence.is_updated(layer)
            and not any(evidence.training.changed(v) for v in layer.non_trainable_variables)
        )
        if unmoved and evidence.training.after:
            found.append(
                _finding("BatchNorm is trained, but its statistics do not change:", unmoved)
            )
    return found


def _finding(happened: str, items: tuple[str, ...], fix: str = _FIX) -> Finding:
    return Finding(
        code="PG440",
        name="InferenceMode",
        severity="warning",
        happened=happened,
        items=items,
        expected="layers that act differently in training are called in training mode.",
        fix=fix,
    )
