"""PG214, PaddingCounts: a loss that depends on the labels of padding.

Labels at padded positions of a sequence mean nothing. Weight the values by a mask, as in
`pg.mean(values, words != 0)`; Keras's losses use the mask of an `Embedding` with `mask_zero=True`
automatically. It is a hint unless the padding is declared by `mask_zero=True`, or most tokens are
padding and have a label that no other token has.

How sure: a warning or, as said, a hint, shown by the loss, which changes with the labels of
padding. That rows end with zeros may have another reason.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers as kl

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_MOST = 0.5
"""The part of the tokens above which padding decides what is learned."""


def check(evidence: Evidence) -> list[Finding]:
    """Change the labels where the inputs are padding, and compare the loss."""
    batch = evidence.batches[0]
    embeddings = [layer for layer in evidence.trained_layers if isinstance(layer, kl.Embedding)]
    if not embeddings or not isinstance(batch, tuple) or len(keras.tree.flatten(batch)) != 2:
        return []
    words, y = evidence.leaves
    is_padding = words == 0
    if words.dtype.kind not in "iu" or words.ndim != 2 or y.shape[:2] != words.shape:
        return []
    if not _is_at_an_end(is_padding) or not evidence.is_repeatable:
        return []
    changed = y.copy()
    if y.dtype.kind == "f":
        changed[is_padding] += 1.0
    else:
        changed[is_padding] = y.max() + y.min() - y[is_padding]
    if np.array_equal(changed, y):
        return []
    base, other = evidence.loss(batch), evidence.loss((batch[0], changed))
    if base is None or other is None or abs(other - base) <= 1e-6 * abs(base):
        return []
    is_declared = any(layer.mask_zero for layer in embeddings)
    is_declared |= is_padding.mean() > _MOST and _has_own_label(y, is_padding)
    return [
        Finding(
            code="PG214",
            name="PaddingCounts",
            severity="warning" if is_declared else "hint",
            happened=f"The loss changes from {base:.6g} to {other:.6g} with the labels of "
            f"padding, {is_padding.mean():.0%} of the tokens.",
            expected="a loss that ignores padding.",
            fix="weight the values: `pg.mean(values, words != 0)`, or use `mask_zero=True` and a "
            "Keras loss.",
        )
    ]


def _has_own_label(y: np.ndarray, is_padding: np.ndarray) -> bool:
    """Return whether all padding has one label, and only padding has it."""
    labels = y.reshape(*is_padding.shape, -1)
    own = labels[is_padding][0]
    return bool(((labels == own).all(axis=-1) == is_padding).all())


def _is_at_an_end(is_padding: np.ndarray) -> bool:
    """Return whether some rows, but not all, end with zeros and have no zeros before that."""
    follows = np.diff(is_padding.astype(int), axis=1)
    rows = is_padding.any(axis=1)
    return bool(rows.any() and not (follows < 0).any() and not is_padding[:, 0].any())
