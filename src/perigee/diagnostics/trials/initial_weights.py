"""PG715, InitialWeights: in trials, the program learns once some weights are replaced by new ones.

Checked at `level="full"`, where weights are of an unusual size: constant, far larger or far smaller
than Glorot's and He's initializers draw them, or biases above 1.5. The program is trained for some
hundred steps as it is and with these weights replaced by new ones (He's initializer before a ReLU,
else Glorot's, biases 0); see PG713.

How sure: a warning, shown by losses on rows that were not trained on, from two starts; an error if
the program as it is becomes NaN or infinite there.
"""

from __future__ import annotations

from perigee.diagnostics._comparison import Comparison, told
from perigee.diagnostics._finding import Finding


def check(trials: Comparison) -> list[Finding]:
    """Report the initial weights as the cause."""
    cause = trials.cause
    if cause is None or cause.kind != "weights":
        return []
    return [
        Finding(
            code="PG715",
            name="InitialWeights",
            severity=trials.severity,
            happened=told("With these weights replaced by new ones, and these biases 0", cause),
            items=tuple(odd.said for odd in trials.odd),
            expected="initial weights that keep the scale of values from layer to layer.",
            fix='use Keras\'s default initializers; "he_normal" suits layers with a ReLU.',
        )
    ]
