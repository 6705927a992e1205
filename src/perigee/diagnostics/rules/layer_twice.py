"""PG128, LayerTwice: a layer that occurs more than once in a chain of layers.

Its weights are shared between the places. `[kl.Dense(8)] * 3` is one layer three times, not three
layers: write `[kl.Dense(8) for _ in range(3)]`. Sharing may be intended, so this is a hint.

How sure: a hint, shown by the calls: one layer is called at several places of a chain.
"""

from __future__ import annotations

from collections import Counter

import keras

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Count calls of layers with weights in chains, where each should be called once."""
    chains = [layer for layer in evidence.trained_layers if isinstance(layer, keras.Sequential)]
    in_chains = {id(layer): layer for chain in chains for layer in chain.layers}
    firsts = {id(call.layer) for call in evidence.trained}
    calls: Counter[int] = Counter()
    if len(firsts) == 1 and len(evidence.trained) >= 1:
        calls.update(id(inner.layer) for inner in evidence.hidden)
    listed = Counter(id(layer) for chain in chains for layer in chain.layers)
    twice = tuple(
        f"{layer.path} ({max(calls[key], listed[key])} times)"
        for key, layer in in_chains.items()
        if layer.weights and max(calls[key], listed[key]) > 1
    )
    if not twice:
        return []
    return [
        Finding(
            code="PG128",
            name="LayerTwice",
            severity="hint",
            happened="Layers occur more than once in a chain, with the same weights:",
            items=twice,
            expected="each layer has its own weights, unless sharing is intended.",
            fix="create a new layer for each place.",
        )
    ]
