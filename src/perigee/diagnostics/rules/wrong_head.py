"""PG225, WrongHead: a last activation before a loss that expects logits.

Logits can take any value. After a ReLU no class can be ruled out, since no logit is below 0. After
a sigmoid the loss applies another one, and no prediction can be confident. On TensorFlow, Keras
looks for the logits before a sigmoid or a softmax; if it finds them the loss is right, and this is
a hint.
"""

from __future__ import annotations

import numpy as np

from perigee._step.losses import computation_of
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._layers import activation_of, last_of

_BOUND = {"relu": "below 0", "sigmoid": "outside 0..1", "softmax": "outside 0..1"}


def check(evidence: Evidence) -> list[Finding]:
    """Find activations on outputs that a loss treats as logits."""
    logits = [seen for seen in evidence.training.losses if computation_of(seen.by).from_logits]
    for call in evidence.trained:
        for output in call.outputs:
            seen = next((s for s in logits if _is_same(s.y_pred, output)), None)
            if seen is None or call.inputs is None or output.shape[-1:] == (0,):
                continue
            layer = last_of(evidence.inside(call), evidence.outputs(call, call.inputs)[0])
            activation = activation_of(layer)
            if layer is None or activation not in _BOUND:
                continue
            return [
                Finding(
                    code="PG225",
                    name="WrongHead",
                    severity="hint" if evidence.is_right(seen.by) else "warning",
                    happened=f"{computation_of(seen.by).name} expects logits and gets what "
                    f"{layer.name!r} returns after {activation}: {output.min():.3g}.."
                    f"{output.max():.3g}, never {_BOUND[activation]}.",
                    expected="a last layer without activation, for a loss with from_logits=True.",
                    fix="remove the last activation.",
                )
            ]
    return []


def _is_same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(a, b)
