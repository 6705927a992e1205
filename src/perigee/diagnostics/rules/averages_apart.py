"""PG240, AveragesApart: weights that are averages in one place and not in another.

With `use_ema=True` there are two sets of weights: those that training continues from and their
averages. `SwapEMAWeights()` measures the averages, and has swapped them out again when
`EarlyStopping(restore_best_weights=True)` or `ModelCheckpoint(save_best_only=True)` takes the
weights of the best epoch: these were never measured. `SwapEMAWeights(swap_on_epoch=True)` before
them gives them what was measured.

At its end, `fit` assigns the averages to the model, as in Keras. So another `fit` of the same Step
begins with the averages, and has not the numbers of one `fit` with all epochs. A run keeps both:
the same `run=` with more `epochs` continues exactly.

How sure: a warning, read from the callbacks and their order, or shown by an earlier training of the
Step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from perigee.diagnostics._finding import Finding


def check(callbacks: Sequence[Any], is_again: bool) -> list[Finding]:
    """Look for callbacks that keep other weights, and for a training that begins with averages.

    Args:
        callbacks: Keras's callbacks, in their order.
        is_again: Whether an earlier training has assigned averages, and no run restores the rest.
    """
    found = []
    swaps = [c for c in callbacks if isinstance(c, keras.callbacks.SwapEMAWeights)]
    kept = [
        f"{type(callback).__name__}(monitor={callback.monitor!r})"
        for index, callback in enumerate(callbacks)
        if _keeps_best(callback)
        and not any(c.swap_on_epoch for c in swaps if c in callbacks[:index])
    ]
    if swaps and kept:
        found.append(
            _found(
                "`SwapEMAWeights` measures averaged weights, and these callbacks keep the weights "
                "that they are averages of:",
                tuple(kept),
                "the weights that were measured.",
                "pass `SwapEMAWeights(swap_on_epoch=True)`, before them.",
            )
        )
    if is_again:
        found.append(
            _found(
                "An earlier training has assigned averaged weights (`use_ema`) to the model, so "
                "this one does not continue from the weights where that one stopped.",
                (),
                "one training, or a run, which keeps these weights too.",
                "pass all epochs at once, or the same `run=` to both.",
            )
        )
    return found


def _keeps_best(callback: Any) -> bool:
    """Tell whether a callback of Keras's keeps the weights with the best value of a validation."""
    if isinstance(callback, keras.callbacks.EarlyStopping):
        is_kept = callback.restore_best_weights
    elif isinstance(callback, keras.callbacks.ModelCheckpoint):
        is_kept = callback.save_best_only
    else:
        return False
    return bool(is_kept) and str(callback.monitor).startswith("val_")


def _found(happened: str, items: tuple[str, ...], expected: str, fix: str) -> Finding:
    return Finding(
        code="PG240",
        name="AveragesApart",
        severity="warning",
        happened=happened,
        items=items,
        expected=expected,
        fix=fix,
    )
