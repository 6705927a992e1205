"""PG224, ConstantOutput: a model whose output is the same for every input.

A softmax over one unit is 1.0 for every input. A last layer initialized with zeros is constant at
first too, which is only a hint, since it may be intended.
"""

from __future__ import annotations

import keras
import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Compare the outputs of each trained model for different examples."""
    found: dict[str, Finding] = {}
    for call in evidence.trained:
        inputs = [] if call.inputs is None else keras.tree.flatten(call.inputs)
        if not inputs or any(len(leaf) < 3 for leaf in inputs if leaf.ndim):
            continue
        if all(leaf.ndim == 0 or bool((leaf == leaf[0]).all()) for leaf in inputs):
            continue
        for output in call.outputs:
            if output.ndim == 0 or output.dtype.kind != "f" or not np.isfinite(output).all():
                continue
            if len(output) != len(inputs[0]) or not bool((output == output[0]).all()):
                continue
            is_softmax = output.shape[-1] == 1 and np.allclose(output, 1.0, rtol=0, atol=1e-6)
            values = np.unique(output)
            value = f"{values[0]:.4g}" if len(values) == 1 else "the same"
            found[call.layer.name] = Finding(
                code="PG224",
                name="ConstantOutput",
                severity="error" if is_softmax else "hint",
                happened=f"The output of {call.layer.name!r} is {value} for every input.",
                expected="outputs that depend on the inputs.",
                fix='use `activation="sigmoid"` for one unit: a softmax over one unit is always 1.'
                if is_softmax
                else "initialize with random weights, unless zeros are intended.",
            )
    return list(found.values())
