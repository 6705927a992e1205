"""Hooks that log norms and histograms of gradients, updates and weights."""

from __future__ import annotations

from perigee._events.events import Hook


class Norms(Hook):
    """Log the global L2 norms of gradients and of updates: `callbacks=[Norms()]`.

    `gradient_norm` is that of the gradients given to the optimizer, unscaled and after any clipping
    by the step; `update_norm` is that of the change of the weights. They are computed within the
    compiled steps, logged like values of the step (means over the steps that updated), and drawn in
    the report. With several optimizers the names are prefixed by the optimizer's path.

    Updates must go through `minimize` or `apply`, or be those of a `KerasStep` without a loss
    scale, one for each step: the hook is refused with `accumulate` and on several replicas. A norm
    that is not finite is handled like any such logged value: see `nonfinite` of `fit`.
    """

    watches: frozenset[str] = frozenset({"norms"})


class Histograms(Hook):
    """Show histograms of weights, gradients and updates: `callbacks=[Histograms()]`.

    At the end of each epoch, those of its last step are shown in TensorBoard, in the report and in
    the `samples` of records. Each step stores its gradients and updates for the host, which takes
    twice the memory of the weights; the host counts the values.

    It is refused in the same cases as `Norms`.
    """

    watches: frozenset[str] = frozenset({"histograms"})
