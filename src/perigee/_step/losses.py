"""Identifies what a loss or a metric computes, however it was given.

Keras accepts a loss as a name, a function, an object or a config, and wraps some of them, so the
class of the called object says little. Everything that depends on the loss uses this module.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import keras
from keras import ops

from perigee import _backends
from perigee._errors import ArgumentError, did_you_mean
from perigee._typing import Tensor

SPARSE = frozenset({"sparse_categorical_crossentropy"})
CATEGORICAL = frozenset({"categorical_crossentropy", "categorical_focal_crossentropy"})
BINARY = frozenset({"binary_crossentropy", "binary_focal_crossentropy"})

NOT_NEGATIVE = (
    SPARSE
    | CATEGORICAL
    | BINARY
    | {
        "mean_squared_error",
        "mean_absolute_error",
        "mean_absolute_percentage_error",
        "mean_squared_logarithmic_error",
        "huber",
        "log_cosh",
        "hinge",
        "squared_hinge",
        "categorical_hinge",
    }
)
"""Losses that are never below 0, for labels in their range."""

_CLASSES = {
    "binary_crossentropy": "BinaryCrossentropy",
    "binary_focal_crossentropy": "BinaryFocalCrossentropy",
    "categorical_crossentropy": "CategoricalCrossentropy",
    "categorical_focal_crossentropy": "CategoricalFocalCrossentropy",
    "categorical_generalized_cross_entropy": "CategoricalGeneralizedCrossEntropy",
    "categorical_hinge": "CategoricalHinge",
    "circle": "Circle",
    "cosine_similarity": "CosineSimilarity",
    "ctc": "CTC",
    "dice": "Dice",
    "hinge": "Hinge",
    "huber": "Huber",
    "kl_divergence": "KLDivergence",
    "log_cosh": "LogCosh",
    "mean_absolute_error": "MeanAbsoluteError",
    "mean_absolute_percentage_error": "MeanAbsolutePercentageError",
    "mean_squared_error": "MeanSquaredError",
    "mean_squared_logarithmic_error": "MeanSquaredLogarithmicError",
    "poisson": "Poisson",
    "sparse_categorical_crossentropy": "SparseCategoricalCrossentropy",
    "squared_hinge": "SquaredHinge",
    "tversky": "Tversky",
}
"""Keras's functions, which name a kind of computation, and the readable class of each."""

ELEMENTWISE = (
    frozenset(_CLASSES) - SPARSE - {"categorical_generalized_cross_entropy", "circle", "ctc"}
)
"""Losses that compare element by element; the others take labels of another shape."""

_FUNCTIONS: dict[Any, str] = {
    function: name
    for room in (keras.losses, keras.ops)
    for name in _CLASSES
    # Not every release of Keras has all; `keras.ops` has other kinds of functions too.
    if (room is keras.losses or name.endswith("_crossentropy"))
    and (function := getattr(room, name, None)) is not None
} | {
    getattr(keras.metrics, name): name
    for name in (
        "binary_accuracy",
        "categorical_accuracy",
        "sparse_categorical_accuracy",
        "top_k_categorical_accuracy",
        "sparse_top_k_categorical_accuracy",
    )
}

_METRICS = {"accuracy": keras.metrics.Accuracy, "auc": keras.metrics.AUC}
"""Metrics that no public Keras function computes."""

_CALL, _UPDATE = keras.losses.MeanSquaredError.call, keras.metrics.MeanMetricWrapper.update_state
"""Keras classes that wrap a function as a loss or a metric."""


@dataclass(frozen=True, slots=True)
class Computation:
    """The computation of a loss or a metric.

    Attributes:
        kind: The name of Keras's function for it; `"own"` for a user's own.
        name: Its readable name: Keras's class for it, or the user's own name.
        settings: Values of the function's further arguments, by name.
        is_aligned: Whether labels and predictions are brought to one rank first if one has an
            additional last axis of size 1, as `keras.Model.compile` does for functions.
        function: Computes it from labels and predictions; `None` if only the object can.
    """

    kind: str
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    is_aligned: bool = False
    function: Callable[..., Any] | None = None

    @property
    def is_own(self) -> bool:
        """Whether the user wrote it, so that only its author knows what it accepts."""
        return self.kind == "own"

    @property
    def from_logits(self) -> bool | None:
        """Whether it expects logits as predictions; `None` if that does not apply."""
        return self.settings.get("from_logits")

    @property
    def axis(self) -> int:
        """The axis of the classes, usually the last."""
        axis = self.settings.get("axis", -1)
        return axis if isinstance(axis, int) else -1

    def values(self, y_true: Tensor, y_pred: Tensor, **changed: Any) -> Tensor:
        """Return its values, with some settings changed.

        Args:
            y_true: Labels.
            y_pred: Predictions.
            **changed: Settings with other values.
        """
        assert self.function is not None
        return self.function(*_one_rank(y_true, y_pred), **{**self.settings, **changed})

    def mean(self, y_true: Any, y_pred: Any) -> float:
        """Return the mean over all values, as a Keras loss object would.

        Args:
            y_true: Labels, on the host.
            y_pred: Predictions, on the host.
        """
        assert self.function is not None
        loss = FunctionLoss(partial(self.function, **self.settings))
        return float(ops.convert_to_numpy(loss(y_true, y_pred)))


def computation_of(given: Any) -> Computation:
    """Return the computation of a loss or a metric.

    Args:
        given: What `compile` accepts for one loss or metric: an object, a class, a function, a
            `functools.partial` of one, a name, or a config.
    """
    if isinstance(given, FunctionLoss):
        return replace(computation_of(given.function), is_aligned=True)
    if isinstance(given, str | Mapping | type):
        given = _looked_up(given)
    if isinstance(given, partial):
        if given.args:  # other arguments come before the labels
            return _own(given.func)
        return _with(computation_of(given.func), given.keywords)
    if isinstance(given, keras.losses.Loss) and type(given).call is _CALL:
        # The function has a public name, but its settings have none.
        settings = getattr(given, "_fn_kwargs", {})
        return replace(_with(computation_of(vars(given)["fn"]), settings), is_aligned=True)
    if isinstance(given, keras.Metric):
        return _of_metric(given)
    kind = _FUNCTIONS.get(given) if inspect.isroutine(given) else None
    if kind is None:
        return _own(given)
    _, _, *others = inspect.signature(given).parameters.values()
    settings = {p.name: p.default for p in others if p.default is not p.empty}
    return Computation(kind, _CLASSES.get(kind, kind), settings, function=given)


def _of_metric(metric: keras.Metric) -> Computation:
    for kind, known in _METRICS.items():
        if isinstance(metric, known):
            settings = {"from_logits": bool(metric.get_config().get("from_logits"))}
            return Computation(kind, type(metric).__name__, settings)
    function = getattr(metric, "_fn", None)  # Keras has no public name for it
    if function is _accuracy:
        return Computation("accuracy_by_shape", "accuracy")
    if function is None or type(metric).update_state is not _UPDATE:
        return _own(metric)
    found = _with(computation_of(function), getattr(metric, "_fn_kwargs", {}))
    return _own(metric) if found.is_own else found


def _looked_up(given: Any) -> Any:
    """Return the function or object for a name, a class or a config."""
    for room in (keras.losses, keras.metrics):
        try:
            return room.get(given)
        except (TypeError, ValueError):  # not of this kind, or a class that needs arguments
            continue
    return given


def _with(found: Computation, settings: Mapping[str, Any]) -> Computation:
    return replace(found, settings={**found.settings, **settings})


def _own(given: Any) -> Computation:
    name = getattr(given, "__name__", None) or type(given).__name__
    return Computation("own", str(name))


BY_HAND = ("sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy")
"""Functions of `keras.ops` that compute the same as a loss object."""


def loss_like(name: str, arguments: Mapping[str, Any]) -> keras.losses.Loss | None:
    """Return the loss object equal to a call of a function of `keras.ops`."""
    if arguments.get("axis", -1) != -1:
        return None
    return getattr(keras.losses, _CLASSES[name])(from_logits=arguments.get("from_logits", False))


# Objects for what `compile` accepts.


class FunctionLoss(keras.losses.Loss):
    """A function of `(y_true, y_pred)` as a loss object.

    Labels `(batch,)` and predictions `(batch, 1)`, or the reverse, are brought to one rank first,
    as in `keras.Model.compile`.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(name=name_of(function))
        self.function = function

    @_backends.current().plain
    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the values of the function."""
        pairs = keras.tree.map_structure(_one_rank, y_true, y_pred)
        y_true = keras.tree.map_structure_up_to(y_true, lambda pair: pair[0], pairs)
        y_pred = keras.tree.map_structure_up_to(y_pred, lambda pair: pair[1], pairs)
        if getattr(self.function, "__name__", "") == "<lambda>":
            # Nothing to rewrite, and TensorFlow warns if it cannot distinguish two lambdas.
            return self.function(y_true, y_pred)
        return _backends.current().user_code(self.function)(y_true, y_pred)


def _one_rank(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    difference = len(a.shape) - len(b.shape)
    if difference == 1 and a.shape[-1] == 1:
        return (a, ops.expand_dims(b, -1)) if len(b.shape) == 1 else (ops.squeeze(a, -1), b)
    if difference == -1 and b.shape[-1] == 1:
        return (ops.expand_dims(a, -1), b) if len(a.shape) == 1 else (a, ops.squeeze(b, -1))
    return a, b


def name_of(function: Any) -> str:
    """Return the name under which Keras logs a function, in snake case."""
    name: Any = getattr(function, "name", None) or getattr(function, "__name__", None)
    name = re.sub(r"\W+", "", str(name or type(function).__name__))
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])", "_", name).lower()


def as_loss(given: Any, y_true: Tensor, y_pred: Tensor) -> keras.losses.Loss:
    """Return a loss object for what `compile` accepts as a loss.

    Args:
        given: A loss object or class, a function, a name, or the config of one; `"crossentropy"`
            is the binary, categorical or sparse one, by the shapes.
        y_true: Labels of the first batch.
        y_pred: Predictions for it.

    Raises:
        ValueError: If Keras has no such loss.
    """
    if isinstance(given, str) and given.lower() in ("crossentropy", "ce"):
        kind = kind_of_labels(y_true, y_pred)
        given = "sparse_categorical_crossentropy" if kind == "sparse" else f"{kind}_crossentropy"
    loss = keras.losses.get(given)
    return loss if isinstance(loss, keras.losses.Loss) else FunctionLoss(loss)


def check_loss(given: Any) -> None:
    """Reject what is not a loss, before there are labels.

    Args:
        given: What `compile` accepts as a loss, or a list or dict of it.

    Raises:
        ArgumentError: If it is a metric, whose result covers all batches so far, or unknown.
    """
    if isinstance(given, Mapping | list | tuple):
        for one in given.values() if isinstance(given, Mapping) else given:
            check_loss(one)
        return
    kind: Any = given if isinstance(given, type) else type(given)
    if issubclass(kind, keras.Metric) and kind.__call__ is keras.Metric.__call__:
        name = kind.__name__ if hasattr(keras.losses, kind.__name__) else "MeanSquaredError"
        raise ArgumentError(
            "loss",
            f"<the metric {kind.__name__}>",
            "a loss, which has a value for each example; the result of a metric covers all "
            "batches so far.",
            f"pass `keras.losses.{name}()`, and the metric in `metrics=[...]`.",
        )
    if given is None or (isinstance(given, str) and given.lower() in ("crossentropy", "ce")):
        return
    if is_loss(given):
        return
    fix = "pass a name, a `keras.losses.Loss` or a function of `(y_true, y_pred)`."
    if isinstance(given, str):
        fix = did_you_mean(given, names_in(keras.losses), form='`"{}"`') or fix
        if given.lower() in (*names_in(keras.metrics), "accuracy", "acc"):
            fix = f'it is a metric: pass `metrics=["{given}"]`, and as the loss one such as '
            fix += '`"sparse_categorical_crossentropy"`.'
    raise ArgumentError("loss", shown(given), "a loss, or its name.", fix)


def names_in(room: Any) -> list[str]:
    """Return the names by which Keras knows the losses, metrics or optimizers of a module."""
    names = [name for name in dir(room) if not name.startswith("_")]
    found = {name if name.islower() else name_of(getattr(room, name)) for name in names}
    return sorted(found - {"get", "serialize", "deserialize", "loss", "metric", "optimizer"})


def is_loss(given: Any) -> bool:
    """Return whether `compile` accepts something as a loss."""
    try:
        keras.losses.get(given)
    except ValueError:
        return False
    return given is not None


def shown(given: Any) -> str:
    """Return how a message shows an argument: a name as written, anything else by its kind."""
    if isinstance(given, str):
        return repr(given)
    if isinstance(given, type):
        return f"<the class {given.__name__}>"
    shape = getattr(given, "shape", None)
    kind = type(given).__name__
    return f"<{kind} of shape {shape}>" if isinstance(shape, tuple) else kind


def as_metric(given: Any) -> keras.Metric:
    """Return a metric object for what `compile` accepts as a metric, named as Keras logs it.

    Args:
        given: A metric object or class, a function, a name, or the config of one; `"accuracy"` is
            the binary, categorical or sparse one, by the shapes of each batch.

    Raises:
        ArgumentError: If Keras has no such metric.
    """
    if isinstance(given, str) and given.lower() in ("accuracy", "acc"):
        return keras.metrics.MeanMetricWrapper(_accuracy, name=given)
    try:
        metric: Any = keras.metrics.get(given)
    except ValueError:
        known = ["accuracy", *names_in(keras.metrics)]
        fix = "pass a name, a `keras.Metric` or a function of `(y_true, y_pred)`."
        if isinstance(given, str):
            fix = did_you_mean(given, known, form='`"{}"`') or fix
        raise ArgumentError("metrics", shown(given), "metrics, or their names.", fix) from None
    if not isinstance(metric, keras.Metric):
        metric = keras.metrics.MeanMetricWrapper(metric, name=name_of(metric))
    if isinstance(given, str):
        metric.name = given
    return metric


def _accuracy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Return whether each prediction is right; the shapes determine the kind of classification."""
    kind = kind_of_labels(y_true, y_pred)
    if kind == "binary":
        return keras.metrics.binary_accuracy(y_true, y_pred)
    if kind == "sparse":
        return keras.metrics.sparse_categorical_accuracy(y_true, y_pred)
    return keras.metrics.categorical_accuracy(y_true, y_pred)


def kind_of_labels(y_true: Tensor, y_pred: Tensor) -> str:
    """Return the kind of classification that the shapes imply.

    Returns:
        `"binary"` for one prediction per example, `"sparse"` for class ids, else `"categorical"`.
    """
    if y_pred.shape[-1] == 1:
        return "binary"
    if len(y_true.shape) < len(y_pred.shape) or y_true.shape[-1] == 1:
        return "sparse"
    return "categorical"
