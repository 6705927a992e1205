"""PG224, ConstantOutput: a model whose output is the same for every input.

A softmax over one unit is 1.0 for every input. A last layer initialized with zeros is constant at
first too, which is only a hint, since it may be intended.

How sure: an error for a softmax over one unit, whatever the weights; else a hint, shown by equal
outputs for different examples with these weights.
"""

from __future__ import annotations

import keras
import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._heads import head_of


def check(evidence: Evidence) -> list[Finding]:
    """Look for a softmax over one unit, and compare outputs for different examples."""
    found: dict[str, Finding] = {}
    for call in evidence.trained:
        for index, output in enumerate(call.outputs):
            if output.ndim == 0 or output.dtype.kind != "f" or not np.isfinite(output).all():
                continue
            # The shape says it all; a unit that is 1 by another activation is not always so.
            is_softmax = (
                output.ndim > 1
                and output.shape[-1] == 1
                and bool(
                    np.allclose(output, 1.0, rtol=0, atol=1e-6)
                    and head_of(evidence, call, index).activation in ("softmax", "unknown")
                )
            )
            if not is_softmax and not _is_constant(call.inputs, output):
                continue
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


def _is_constant(given: object, output: np.ndarray) -> bool:
    inputs = [] if given is None else keras.tree.flatten(given)
    if not inputs or any(len(leaf) < 3 for leaf in inputs if leaf.ndim):
        return False
    if all(leaf.ndim == 0 or bool((leaf == leaf[0]).all()) for leaf in inputs):
        return False
    return len(output) == len(inputs[0]) and bool((output == output[0]).all())
