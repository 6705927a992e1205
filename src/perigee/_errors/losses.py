"""Errors about losses, labels and averages (PG2xx)."""

from collections.abc import Sequence

from perigee._errors._tree import PerigeeError


class LossShapeError(PerigeeError, ValueError):
    """An objective returned something that is neither a mean nor one value per example.

    A matrix of losses usually comes from labels of shape `(batch,)` and predictions of shape
    `(batch, 1)`, which broadcast to `(batch, batch)` in hand-written arithmetic.
    """

    code = "PG201"
    shown_by = "the rank of what the objective returned: 2 or more"

    def __init__(self, shape: Sequence[int | None], batch: int | None = None) -> None:
        self.shape, self.batch = tuple(shape), batch
        super().__init__(
            f"The objective returned a loss of shape {self.shape}"
            + (f" for a batch of {batch}." if batch is not None else "."),
            expected="a scalar (the mean over the batch), one value per example of shape "
            "`(batch,)`, or `pg.mean(values, weights)`.",
            fix="average over the other axes, or use `pg.mean(values)`; where the shape is "
            "(batch, batch), give labels and predictions the same shape first.",
        )


class LossTypeError(PerigeeError, TypeError):
    """An objective returned a loss that cannot be differentiated: not a floating tensor."""

    code = "PG202"
    shown_by = "what the objective returned: not a tensor, or not a floating one"

    def __init__(self, given: str, fix: str | None = None) -> None:
        self.given = given
        super().__init__(
            f"The objective returned {given} as its loss.",
            expected="a floating tensor computed from the model's output, or `(loss, aux)`.",
            fix=fix
            or "return the loss tensor itself, without `float()`, `.numpy()` or integer casts.",
        )


class BroadcastError(PerigeeError, ValueError):
    """Labels are compared with the wrong predictions, since their shapes broadcast.

    This is checked for Keras's losses that compare element by element, given by name, as functions
    or as objects. A loss of your own may use labels of any shape.
    """

    code = "PG203"
    shown_by = "shapes that broadcast, in a Keras loss that compares element by element"
    can_be_ignored = True

    def __init__(
        self, where: str, y_true: Sequence[int | None], y_pred: Sequence[int | None]
    ) -> None:
        self.where, self.y_true, self.y_pred = where, tuple(y_true), tuple(y_pred)
        # One label for several outputs: whatever shape it gets, it is compared with all of them.
        width = self.y_pred[-1] if self.y_pred else 1
        is_of_one = len(self.y_true) < len(self.y_pred) or self.y_true[-1:] == (1,)
        super().__init__(
            f"{where} compares labels of shape {self.y_true} with predictions of shape "
            f"{self.y_pred}, which broadcast.",
            expected="labels and predictions of the same shape.",
            fix="give the model one output for each label, or, for class ids, use "
            "`SparseCategoricalCrossentropy`."
            if is_of_one and width is not None and width > 1 and len(self.y_pred) > 1
            else "reshape one of them: `y[:, None]` gives labels a second axis, "
            "`ops.squeeze(y_pred, -1)` removes it from the predictions.",
        )


class LabelEncodingError(PerigeeError, ValueError):
    """A loss for one-hot labels was given integer class ids, or the reverse.

    Or a loss for several classes was given predictions of a single class: their softmax is always
    1, so the loss is 0 whatever the labels are.

    `check` also exchanges the classes of predictions for a loss of your own. If that changes
    nothing, the labels name no class: as a column of ids they only weigh the examples, as in
    `-sum(y * log(p))`, which needs rows. That is a warning.
    """

    code = "PG204"
    shown_by = (
        "the shape of labels for a Keras crossentropy, which itself rejects most of these; or a "
        "single class, whose probability is always 1"
    )
    can_be_ignored = True

    def __init__(
        self, loss: str, y_true: Sequence[int | None], y_pred: Sequence[int | None], instead: str
    ) -> None:
        self.loss, self.y_true, self.y_pred, self.instead = (
            loss,
            tuple(y_true),
            tuple(y_pred),
            instead,
        )
        what, fix = {
            "SparseCategoricalCrossentropy": ("integer class ids", "encode the labels as rows"),
            "CategoricalCrossentropy": ("one value for each class", "turn the labels into ids"),
            "BinaryCrossentropy": (
                "a single class, whose probability is always 1",
                "give the model one output for each class",
            ),
        }[instead]
        super().__init__(
            f"{loss} got labels of shape {self.y_true} for predictions of shape {self.y_pred}: "
            f"{what}.",
            expected="one-hot rows or probabilities for `CategoricalCrossentropy`, class ids for "
            "`SparseCategoricalCrossentropy`, labels 0 and 1 for `BinaryCrossentropy`.",
            fix=f"use `{instead}`{', with a sigmoid' if instead[0] == 'B' else ''}, or {fix}.",
        )


class LabelRangeError(PerigeeError, ValueError):
    """A label lies outside the classes that the model predicts.

    On the CPU some kernels raise; under XLA and on a GPU the loss silently becomes NaN, or the
    label is clamped.

    `check` also changes the predictions for labels of 0, one of two, in a loss of your own.
    If that changes nothing, the loss learns from the label 1 alone: a hinge, which takes -1 and 1,
    or half a log loss. That is a warning.
    """

    code = "PG205"
    shown_by = "a label in the batch for which a Keras crossentropy is not defined"
    can_be_ignored = True

    def __init__(self, loss: str, label: int | float, row: int, low: float, high: float) -> None:
        self.loss, self.label, self.row, self.low, self.high = loss, label, row, low, high
        super().__init__(
            f"{loss} got label {label} at row {row} of the batch.",
            expected=f"labels from {low} to {high}, the classes that are predicted.",
            fix="give the model one output for each class, or map the labels to that range.",
        )


class LogitsError(PerigeeError, ValueError):
    """A loss that expects probabilities was given logits, or the reverse.

    Training runs and the loss falls, but to a floor unrelated to the data. On TensorFlow, Keras
    recovers the logits from a softmax directly before the loss, and on every framework it
    normalizes positive numbers to probabilities: what it computes correctly is not reported.
    """

    code = "PG206"
    shown_by = (
        "predictions in the batch, and a value of a Keras crossentropy that differs from the "
        "true one"
    )
    can_be_ignored = True

    def __init__(self, loss: str, from_logits: bool, low: float, high: float) -> None:
        self.loss, self.from_logits, self.low, self.high = loss, from_logits, low, high
        seen = "probabilities (rows that sum to 1)" if from_logits else "logits"
        super().__init__(
            f"{loss}(from_logits={from_logits}) got {seen}, from {low:.3g} to {high:.3g}.",
            expected="logits for `from_logits=True`, probabilities for `from_logits=False`.",
            fix="remove the softmax, or pass from_logits=False."
            if from_logits
            else "pass from_logits=True, or end the model with a softmax or sigmoid.",
        )


class InnerLossError(PerigeeError, ValueError):
    """A gradient taken inside another objective, or for tensors, needs a scalar.

    A mean would make a gradient penalty too small by the batch size, a sum would make a loss too
    large; only the author knows which is intended.
    """

    code = "PG207"
    shown_by = "the shape of what the inner objective returned"

    def __init__(self, shape: Sequence[int | None]) -> None:
        self.shape = tuple(shape)
        super().__init__(
            f"An inner objective returned values of shape {self.shape}.",
            expected="a scalar: gradients inside an objective or for tensors are never averaged.",
            fix="sum it (`ops.sum(...)`) for gradients of each example, or average it yourself.",
        )


class RegularizationTwiceError(PerigeeError, ValueError):
    """The objective reads `model.losses`, which are also added automatically.

    `minimize` and `gradients` add the weight penalties and `add_loss` terms of everything that an
    objective differentiates, once.
    """

    code = "PG208"
    shown_by = "`losses` that the objective reads while they are added for it. It may only log them"
    can_be_ignored = True

    def __init__(self, layer: str, terms: int) -> None:
        self.layer, self.terms = layer, terms
        super().__init__(
            f"The objective reads the {terms} losses of {layer!r}, which are also added "
            "automatically.",
            expected="regularization and `add_loss` terms counted once.",
            fix="remove `model.losses` from the objective, or pass `add_losses=False`.",
        )


class AccumulationError(PerigeeError, ValueError):
    """`accumulate` was requested for a step where it cannot equal the large batch.

    So it is where a step applies its optimizers itself, or calls `backward` and `step` on torch:
    they would update at each micro-batch.
    """

    code = "PG209"
    shown_by = "updates, losses and reads of the step that micro-batches cannot repeat"

    def __init__(self, why: str, fix: str) -> None:
        self.why = why
        super().__init__(
            f"This step cannot be accumulated exactly: {why}.",
            expected="an update that equals that of the large batch.",
            fix=fix,
        )


class AverageError(PerigeeError, TypeError):
    """An `Average` was used in a way that would lose its count."""

    code = "PG210"
    shown_by = "the operation itself"

    def __init__(self, operation: str) -> None:
        self.operation = operation
        super().__init__(
            f"An Average does not support {operation}.",
            expected="`+` with another average or a scalar, or multiplication by a scalar.",
            fix="compute on the values first and call `pg.mean(values, weights)` on the result.",
        )


class PairingError(PerigeeError, ValueError):
    """The loss does not depend on which label belongs to which example.

    Rolling the labels by one row leaves the loss as it is, while changing their values does not:
    each label is compared with every prediction. This happens when `(batch,)` labels and
    `(batch, 1)` predictions broadcast to `(batch, batch)` in hand-written arithmetic.
    """

    code = "PG211"
    shown_by = (
        "a loss that does not change when labels are rolled, with two sets of weights, but "
        "changes with their values"
    )
    can_be_ignored = True

    def __init__(self, leaf: str, shape: Sequence[int | None]) -> None:
        self.leaf, self.shape = leaf, tuple(shape)
        super().__init__(
            f"Rolling {leaf} of shape {self.shape} by one row does not change the loss.",
            expected="each label is compared with the prediction of its own example.",
            fix="give labels and predictions the same shape: `y[:, None]`, or "
            "`ops.squeeze(y_pred, -1)`.",
        )


class CoupledRowsError(PerigeeError, ValueError):
    """The loss of an example depends on the other rows of its batch, of which each part lacks some.

    With `accumulate`, and on several replicas of TensorFlow, the step runs on parts of a batch. The
    mean of their losses is the loss of the whole batch only if each row has a loss of its own. It
    has none where rows are compared (contrastive losses, in-batch negatives, ranking), where values
    are normalized over axis 0, and where a scalar is divided by a number that depends on the data,
    such as the sum of a mask. It is checked on at most 16 rows of the first batch, by exchanging
    their contents; for losses in which each row meets only a few others there is the finding PG236,
    for `BatchNormalization` PG235.
    """

    code = "PG217"
    shown_by = (
        "the loss of one batch with the contents of two groups of rows exchanged: one group, the "
        "other, and both. It may be meant to be one of the rows of a part"
    )
    can_be_ignored = True

    def __init__(self, parts: str, before: float, one: float, other: float, both: float) -> None:
        self.parts = parts
        self.before, self.one, self.other, self.both = before, one, other, both
        super().__init__(
            "The loss of an example depends on the other rows of its batch. With other contents "
            f"in one half of the rows it changes from {before:.6g} to {one:.6g}, with others in "
            f"the other half to {other:.6g}, but with both to {both:.6g} instead of "
            f"{one + other - before:.6g}.",
            expected=f"a mean over rows, since a {parts} has only some of them.",
            fix="if it is divided by a number that depends on the data, such as the sum of a "
            "mask, return `pg.mean(values, weights)`; if rows are compared on purpose, let the "
            "step have all of them at once, or turn this off if those of a part are enough.",
        )
