"""Faults that are put into programs of strangers, by seed: `python -m tests.examination.score`.

An operator changes what a program trains, where it would train: its data, its loss, its metrics,
its optimizer, its last layer or its first weights. It returns nothing where it does not apply.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from tests.examination.programs import CATEGORIES, SEED, Examination, Examined
from tests.strangers import corpus

SPARSE, ROWS = "sparse_categorical_crossentropy", "categorical_crossentropy"
BINARY, SQUARED = "binary_crossentropy", "mean_squared_error"
_SHORT = {"mse": SQUARED, "meansquarederror": SQUARED}


class NotApplicable(Exception):
    """An operator does not apply to a program."""


@dataclass(frozen=True)
class Trained:
    """What a program trains: a built model with one input and one output, and arrays."""

    model: keras.Model
    x: np.ndarray
    y: np.ndarray
    given: dict[str, Any]

    @property
    def loss(self) -> str:
        """The loss, in Keras's long name, such as `"mean_squared_error"`; empty for others."""
        loss = self.model.loss
        if isinstance(loss, keras.losses.Loss) and not getattr(loss, "from_logits", False):
            config = loss.get_config()
            is_plain = not config.get("from_logits") and not config.get("label_smoothing")
            loss = type(loss).__name__ if is_plain else ""
        loss = loss if isinstance(loss, str) else getattr(loss, "__name__", "")
        plain = loss.replace("_", "").lower()
        longs = {long.replace("_", ""): long for long in (SPARSE, ROWS, BINARY, SQUARED)}
        return longs.get(plain, _SHORT.get(plain, ""))

    @property
    def head(self) -> keras.layers.Dense | None:
        """The last layer, if it is dense."""
        last = self.model.layers[-1]
        return last if type(last) is keras.layers.Dense else None

    @property
    def activation(self) -> str:
        """The activation of the last layer."""
        return "" if self.head is None else self.head.activation.__name__

    def compiled(self, **changed: Any) -> Trained:
        """Compile the model with another loss, metrics or optimizer."""
        optimizer = changed.pop("optimizer", None) or self._optimizer()
        self.model.compile(optimizer, **{"loss": self.model.loss, **changed})
        return self

    def with_head(self, **changed: Any) -> Trained:
        """Return it with another last layer."""
        return self.with_layers(lambda layer: changed if layer is self.head else {})

    def with_layers(self, changes: Callable[[Any], dict[str, Any]]) -> Trained:
        """Return it with other settings of layers."""

        def again(layer: Any) -> Any:
            return type(layer).from_config({**layer.get_config(), **changes(layer)})

        try:
            model = keras.models.clone_model(self.model, clone_function=again)
        except (TypeError, NotImplementedError) as error:  # a layer that has no configuration
            raise NotApplicable from error
        model.compile(self._optimizer(), loss=self.model.loss)
        return replace(self, model=model)

    def _optimizer(self) -> Any:
        try:
            return type(self.model.optimizer).from_config(self.model.optimizer.get_config())
        except TypeError as error:
            raise NotApplicable from error

    def hidden(self) -> list[Any]:
        """Return its layers with a kernel, but the last."""
        return [layer for layer in self.model.layers[:-1] if hasattr(layer, "kernel")]


Apply = Callable[[Trained], Trained | None]


@dataclass(frozen=True)
class Operator:
    """A fault, and where it lies; `is_last` if no rule was developed on it."""

    name: str
    category: str
    apply: Apply
    is_last: bool


OPERATORS: dict[str, Operator] = {}


def operator(category: str, *, is_last: bool = False) -> Callable[[Apply], Apply]:
    """Register an operator under the name of its function."""
    assert category in CATEGORIES, category

    def register(apply: Apply) -> Apply:
        name = apply.__name__
        OPERATORS[name] = Operator(name, category, apply, is_last)
        return apply

    return register


# Labels.


@operator("labels")
def ids_from_one(it: Trained) -> Trained | None:
    return replace(it, y=it.y + 1) if it.loss == SPARSE else None


@operator("labels", is_last=True)
def minus_one_for_no(it: Trained) -> Trained | None:
    return replace(it, y=it.y * 2 - 1) if it.loss == BINARY and _is_binary(it.y) else None


@operator("labels")
def masks_of_255(it: Trained) -> Trained | None:
    return replace(it, y=it.y * 255) if it.loss == BINARY and _is_binary(it.y) else None


# Scores and probabilities, and the last layer.


@operator("logits")
def activation_forgotten(it: Trained) -> Trained | None:
    is_one = it.loss in (SPARSE, ROWS, BINARY) and it.activation in ("softmax", "sigmoid")
    return it.with_head(activation="linear") if is_one else None


@operator("head")
def softmax_over_one_unit(it: Trained) -> Trained | None:
    is_one = it.loss == BINARY and it.activation == "sigmoid" and it.head.units == 1
    return it.with_head(activation="softmax") if is_one else None


@operator("head")
def relu_before_crossentropy(it: Trained) -> Trained | None:
    is_one = it.loss in (SPARSE, ROWS, BINARY) and it.activation in ("softmax", "sigmoid")
    return it.with_head(activation="relu") if is_one else None


@operator("head")
def bounded_head(it: Trained) -> Trained | None:
    if it.loss != SQUARED or it.activation != "linear" or np.abs(it.y).max() <= 1.2:
        return None
    return it.with_head(activation="sigmoid")


# Tasks.


@operator("task")
def squared_error_of_ids(it: Trained) -> Trained | None:
    if it.loss != SPARSE or it.y.ndim != 1 or it.head is None or len(np.unique(it.y)) < 3:
        return None
    return it.with_head(units=1, activation="linear").compiled(loss="mse", metrics=["accuracy"])


@operator("task")
def squared_error_of_yes_and_no(it: Trained) -> Trained | None:
    if it.loss != BINARY or it.activation != "sigmoid" or not _is_binary(it.y):
        return None
    return it.with_head(activation="linear").compiled(loss="mse", metrics=["accuracy"])


@operator("task")
def one_hot_as_independent(it: Trained) -> Trained | None:
    if it.loss != SPARSE or it.y.ndim != 1 or it.activation != "softmax" or it.head.units < 3:
        return None
    rows = keras.utils.to_categorical(it.y, it.head.units)
    return replace(it, y=rows).with_head(activation="sigmoid").compiled(loss="binary_crossentropy")


@operator("task")
def amounts_as_classes(it: Trained) -> Trained | None:
    if it.loss != SQUARED or it.activation != "linear" or len(np.unique(it.y)) < 20:
        return None
    return it.with_head(activation="sigmoid").compiled(
        loss="binary_crossentropy", metrics=["accuracy"]
    )


# Metrics.


@operator("metric")
def categorical_accuracy_of_ids(it: Trained) -> Trained | None:
    if it.loss != SPARSE or it.y.ndim != 1:
        return None
    return it.compiled(metrics=[keras.metrics.CategoricalAccuracy()])


@operator("metric")
def accuracy_of_amounts(it: Trained) -> Trained | None:
    if it.loss != SQUARED or it.activation != "linear" or len(np.unique(it.y)) < 20:
        return None
    return it.compiled(metrics=["accuracy"])


@operator("metric", is_last=True)
def threshold_on_logits(it: Trained) -> Trained | None:
    if it.loss != BINARY or it.activation != "sigmoid":
        return None
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    return it.with_head(activation="linear").compiled(loss=loss, metrics=["binary_accuracy"])


# Inputs.


@operator("inputs")
def pixels_of_255(it: Trained) -> Trained | None:
    is_image = it.x.ndim == 4 and _copes_with_nothing(it) and 0 <= it.x.min() and it.x.max() <= 1
    return replace(it, x=it.x * 255) if is_image else None


@operator("inputs", is_last=True)
def a_column_in_another_unit(it: Trained) -> Trained | None:
    if not _is_table(it):
        return None
    x = it.x.copy()
    x[:, 0] *= 1e4
    return replace(it, x=x)


@operator("inputs")
def a_row_in_another_unit(it: Trained) -> Trained | None:
    if not _is_table(it) or len(it.x) < 50:
        return None
    x = it.x.copy()
    x[7] *= 1e5
    return replace(it, x=x)


# The examples.


@operator("data")
def nan_in_a_row(it: Trained) -> Trained | None:
    if not _is_table(it):
        return None
    x = it.x.copy()
    x[len(x) // 2, 1] = np.nan
    return replace(it, x=x)


@operator("data", is_last=True)
def one_label(it: Trained) -> Trained | None:
    return replace(it, y=np.zeros_like(it.y)) if it.loss in (SPARSE, BINARY) else None


@operator("data")
def labels_apart(it: Trained) -> Trained | None:
    is_large = it.loss in (SPARSE, BINARY) and _is_table(it) and len(it.x) > 150
    return replace(it, y=np.random.default_rng(0).permutation(it.y)) if is_large else None


@operator("data")
def validation_of_trained_rows(it: Trained) -> Trained | None:
    if not _is_table(it) or it.given.get("sample_weight") is not None:
        return None
    given = {k: v for k, v in it.given.items() if k != "validation_split"}
    return replace(it, given=given | {"validation_data": (it.x[:40], it.y[:40])})


# Learning rates.


@operator("rate")
def rate_far_too_high(it: Trained) -> Trained | None:
    if it.loss not in (SPARSE, ROWS, SQUARED) or not it.hidden():
        return None
    return it.compiled(optimizer=keras.optimizers.Adam(30.0))


@operator("rate")
def rate_far_too_low(it: Trained) -> Trained | None:
    return it.compiled(optimizer=keras.optimizers.Adam(1e-9)) if it.loss else None


@operator("rate", is_last=True)
def rate_that_decays_at_once(it: Trained) -> Trained | None:
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-3, 1, 0.1)
    return it.compiled(optimizer=keras.optimizers.Adam(schedule)) if it.loss else None


# First weights, and activations.


@operator("initial weights")
def hidden_kernels_of_zero(it: Trained) -> Trained | None:
    return _kernels(it, lambda kernel: kernel * 0)


@operator("initial weights", is_last=True)
def kernels_a_hundred_times_as_large(it: Trained) -> Trained | None:
    return _kernels(it, lambda kernel: kernel * 100)


@operator("activations")
def biases_below_all_inputs(it: Trained) -> Trained | None:
    layers = [
        layer
        for layer in it.hidden()
        if getattr(layer, "use_bias", False)
        and getattr(layer, "activation", None) is not None
        and layer.activation.__name__ == "relu"
    ]
    if not layers or not _is_table(it) or np.abs(it.x).max() > 20:
        return None
    for layer in layers:
        layer.bias.assign(ops.zeros_like(layer.bias) - 300.0)
    return it


@operator("activations", is_last=True)
def no_activation_between(it: Trained) -> Trained | None:
    layers = [layer for layer in it.hidden() if type(layer) is keras.layers.Dense]
    if len(layers) < 1 or len(it.model.layers) > len(layers) + 2 or not it.loss:
        return None
    if not all(layer.activation.__name__ == "relu" for layer in layers):
        return None
    return it.with_layers(lambda layer: {"activation": "linear"} if layer in layers else {})


@operator("activations", is_last=True)
def dropout_of_nearly_all(it: Trained) -> Trained | None:
    if not any(type(layer) is keras.layers.Dropout for layer in it.model.layers):
        return None
    changed = lambda layer: {"rate": 0.98} if type(layer) is keras.layers.Dropout else {}
    return it.with_layers(changed)


# The gradient.


@operator("gradient")
def loss_of_the_wrong_sign(it: Trained) -> Trained | None:
    if not it.loss:
        return None
    right = keras.losses.get(it.loss)

    def likelihood(y_true: Any, y_pred: Any) -> Any:
        return -right(y_true, y_pred)

    return it.compiled(loss=likelihood)


@operator("gradient", is_last=True)
def sum_over_the_batch(it: Trained) -> Trained | None:
    if not it.loss:
        return None
    right = keras.losses.get(it.loss)

    def loss(y_true: Any, y_pred: Any) -> Any:
        return ops.sum(right(y_true, y_pred))

    return it.compiled(loss=loss)


@operator("pairing", is_last=True)
def loss_without_labels(it: Trained) -> Trained | None:
    if it.loss != SQUARED:
        return None

    def deviation(y_true: Any, y_pred: Any) -> Any:
        return ops.mean(ops.square(y_pred - ops.mean(y_pred, axis=0)), axis=-1)

    return it.compiled(loss=deviation)


def _is_binary(y: np.ndarray) -> bool:
    return set(np.unique(y)) == {0, 1}


def _copes_with_nothing(it: Trained) -> bool:
    names = ("Normalization", "Rescaling", "Embedding", "Discretization", "Hashing")
    return not any(name in type(layer).__name__ for layer in it.model.layers for name in names)


def _is_table(it: Trained) -> bool:
    return it.x.ndim == 2 and it.x.dtype.kind == "f" and _copes_with_nothing(it)


def _kernels(it: Trained, changed: Callable[[Any], Any]) -> Trained | None:
    layers = it.hidden()
    if not layers or not it.loss or any("Normalization" in type(la).__name__ for la in layers):
        return None
    for layer in layers:
        layer.kernel.assign(changed(layer.kernel))
    return it


# Programs of strangers with an operator.


class WithFault(Examination):
    """Examines what a program trains, with an operator applied."""

    def __init__(self, applied: Operator | None) -> None:
        super().__init__()
        self.applied = applied

    def fit(self, model: Any, x: Any = None, y: Any = None, **given: Any) -> Any:
        """Change what is trained, and examine it."""
        if not _is_plain(model, x, y):
            raise NotApplicable
        if not model.built:
            model.build(x.shape)
        changed = Trained(model, x, y, given)
        if self.applied is not None:
            changed = self.applied.apply(changed)
        if changed is None:
            raise NotApplicable
        super().fit(changed.model, changed.x, changed.y, **changed.given)


def _is_plain(model: Any, x: Any, y: Any) -> bool:
    return (
        isinstance(x, np.ndarray)
        and isinstance(y, np.ndarray)
        and (isinstance(model, keras.Sequential) or type(model).__name__ == "Functional")
        and type(model).train_step is keras.Model.train_step
        and isinstance(model.optimizer, keras.optimizers.Optimizer)
        and len(model.outputs if model.built else [0]) == 1
    )


def with_fault(case: corpus.Case, applied: Operator | None) -> pg.diagnostics.Report | None:
    """Return what is found in a program with a fault; nothing where it does not apply."""
    keras.utils.set_random_seed(SEED)
    keras.utils.clear_session()
    try:
        case.run(WithFault(applied))
    except Examined as end:
        return end.report
    except (NotApplicable, AttributeError, pytest.skip.Exception):
        return None
    return None


def drawn(seed: int = SEED) -> list[tuple[corpus.Case, Operator]]:
    """Return all pairs of programs and operators, in an order drawn by a seed."""
    cases = [case for case in corpus.cases() if not (case.finds or case.raises)]
    pairs = [(case, each) for case in cases for each in OPERATORS.values()]
    random.Random(seed).shuffle(pairs)
    return pairs
