"""Hooks that ask for norms and histograms of what a training does to its weights."""

from __future__ import annotations

from perigee._events.events import Hook


class Norms(Hook):
    """Log the joint L2 norms of gradients and of updates: `callbacks=[Norms()]`.

    `gradient_norm` is that of what the optimizer is given, unscaled and after any clipping of the
    step's own; `update_norm` that of the change of the weights. They are computed within the
    compiled steps, logged like what the step returns (means over the steps that updated), and
    drawn in the report. With several optimizers they begin with the path of theirs.

    Updates must go through `minimize` or `apply`, or be those of a `KerasStep` without a loss
    scale, one for each step: it is refused with `accumulate` and on several replicas. A norm that
    is not finite counts as a logged value that is not: see `nonfinite` of `fit`.
    """

    watches: frozenset[str] = frozenset({"norms"})


class Histograms(Hook):
    """Show how weights, gradients and updates are spread: `callbacks=[Histograms()]`.

    At the end of each epoch, those of its last step: in TensorBoard, in the report and in the
    `samples` of records. Each step leaves its gradients and updates where the host finds them,
    which takes twice the memory of the weights; the values are counted on the host.

    It is refused where `Norms` is.
    """

    watches: frozenset[str] = frozenset({"histograms"})
