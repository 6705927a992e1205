"""PG442, DropoutRate: Dropout with a rate near 1, or on the output of the model.

A rate is the share that is dropped: 0.95 keeps one value in twenty. Dropout after the last layer
drops predictions at random, which no weights can compensate.

How sure: a warning for a rate of 0.9 and more, a hint for Dropout at the end; both read from the
layers.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers as kl

from perigee._step.state import nested_layers
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_HIGHEST = 0.9


def check(evidence: Evidence) -> list[Finding]:
    """Examine the Dropout layers of trained models."""
    found: dict[str, Finding] = {}
    for call in evidence.trained:
        layer: Any
        for layer in nested_layers(call.layer):
            if isinstance(layer, kl.Dropout) and layer.rate >= _HIGHEST:
                happened = f"{_name(layer)!r} drops {layer.rate:.0%} of its values."
                found[_name(layer)] = _finding("warning", happened)
        last: Any = call.layer.layers[-1] if isinstance(call.layer, keras.Sequential) else None
        if isinstance(last, kl.Dropout) and last.rate > 0:
            happened = f"{_name(last)!r} drops values of the output of {call.layer.name!r}."
            found.setdefault(_name(last), _finding("hint", happened))
    return list(found.values())


def _name(layer: Any) -> str:
    return layer.path or layer.name  # a layer that is not built has no path


def _finding(severity: Any, happened: str) -> Finding:
    return Finding(
        code="PG442",
        name="DropoutRate",
        severity=severity,
        happened=happened,
        expected=f"a share below {_HIGHEST} of hidden values.",
        fix="lower the rate (the share that is dropped, not kept); do not put Dropout last.",
    )
