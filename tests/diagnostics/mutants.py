"""Mutants: healthy programs with exactly one fault of the taxonomy in them.

An operator changes one part of a program. Its class names a row of the taxonomy of silent faults
(A output and labels, B shapes and reduction, C gradients, D modes, E metrics, F data,
G optimization and numerics, H tracing, I counters); `certainty` is how sure the row's detector is
said to be: `certain` where a probe gives a value that no correct program gives, `low` where false
alarms are rare, `medium` and `high` where they are not, so that only a hint is asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import keras
import numpy as np
from keras import layers as kl
from keras import losses, metrics, ops

from tests.diagnostics.healthy import PROGRAMS, Own, Parts, Program
from tests.diagnostics.split import digest, is_held_out

Certainty = Literal["certain", "low", "medium", "high"]
Change = Literal["training", "predictions", "evaluation", "logs", "validation"]


@dataclass(frozen=True, slots=True)
class Operator:
    """One fault, and where it can be put.

    Attributes:
        name: Of its own; a mutant is called `{operator}: {program}`.
        fault: Row of the taxonomy.
        certainty: How sure the row's detector is.
        rule: What is to find it.
        apply: Makes faulty parts of healthy ones.
        applies: Whether it can be put into a program.
        changes: Where the fault shows: in what is trained, only in an evaluation or in what is
            logged, or only in the data to validate on.
    """

    name: str
    fault: str
    certainty: Certainty
    rule: str
    apply: Callable[[Parts], Parts]
    applies: Callable[[Program], bool]
    changes: Change = "training"


@dataclass(frozen=True, slots=True)
class Mutant:
    """A program with one fault.

    Attributes:
        operator: What was done.
        program: The healthy one.
    """

    operator: Operator
    program: Program

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.operator.name}: {self.program.name}"

    @property
    def parts(self) -> Parts:
        """What it is made of."""
        return self.operator.apply(self.program.parts)


OPERATORS: dict[str, Operator] = {}


def operator(
    fault: str,
    certainty: Certainty,
    rule: str,
    applies: str | Callable[[Program], bool],
    changes: Change = "training",
) -> Callable[[Callable[[Parts], Parts]], Callable[[Parts], Parts]]:
    """Register a function from parts to parts under its name.

    Args:
        fault: Row of the taxonomy.
        certainty: How sure its detector is.
        rule: What is to find it.
        applies: Traits that a program must have, `-trait` for what it must not have; or a test.
        changes: Where the fault shows.
    """
    test = has(applies) if isinstance(applies, str) else applies

    def register(apply: Callable[[Parts], Parts]) -> Callable[[Parts], Parts]:
        name = apply.__name__.replace("_", " ")
        assert name not in OPERATORS
        OPERATORS[name] = Operator(name, fault, certainty, rule, apply, test, changes)
        return apply

    return register


def has(words: str) -> Callable[[Program], bool]:
    """Return the test for traits."""
    wanted = {word for word in words.split() if not word.startswith("-")}
    unwanted = {word[1:] for word in words.split() if word.startswith("-")}
    return lambda program: wanted <= program.traits and not unwanted & program.traits


def either(*tests: str) -> Callable[[Program], bool]:
    return lambda program: any(has(words)(program) for words in tests)


def with_layers(parts: Parts, edit: Callable[[list[Any]], Any]) -> Parts:
    """Edit the list of layers before the model is made of it."""

    def make() -> list[Any]:
        made = parts.layers()
        edited = edit(made)
        return made if edited is None else edited

    return replace(parts, layers=make)


def with_head(parts: Parts, activation: str | Callable[..., Any]) -> Parts:
    def edit(made: list[Any]) -> None:
        last = [layer for layer in made if hasattr(layer, "units")][-1]
        last.activation = keras.activations.get(activation)

    return with_layers(parts, edit)


def with_data(parts: Parts, edit: Callable[..., Any]) -> Parts:
    """Edit the arrays; `edit` takes copies of them."""

    def make() -> Any:
        data = keras.tree.map_structure(np.array, parts.data())
        return edit(*data) if isinstance(data, tuple) else edit(data)

    return replace(parts, data=make)


def with_step(parts: Parts, mixin: type) -> Parts:
    """Override methods of a step that is written by hand."""
    return replace(parts, step=type(mixin.__name__, (mixin, parts.step), {}))


def with_model(parts: Parts, wrap: Callable[[Any], Any]) -> Parts:
    return replace(parts, model=lambda p: wrap(parts.model(p)))


def with_loss(parts: Parts, wrap: Callable[[Any], Any]) -> Parts:
    return replace(parts, loss=lambda: wrap(parts.loss()))


def values_of(loss: Any) -> Callable[[Any, Any], Any]:
    """Return the function behind a loss, of one value an example."""
    return loss.call if isinstance(loss, losses.Loss) else loss


def with_values(parts: Parts, change: Callable[[Any], Callable[[Any, Any], Any]]) -> Parts:
    """Change the function behind the loss; a Keras loss stays one of its kind."""

    def wrap(loss: Any) -> Any:
        changed = change(values_of(loss))
        if not isinstance(loss, losses.Loss):
            return changed
        call = {"call": lambda self, y, y_pred: changed(y, y_pred)}
        return type(type(loss).__name__, (type(loss),), call).from_config(loss.get_config())

    return with_loss(parts, wrap)


def with_optimizer(parts: Parts, edit: Callable[[Any], Any]) -> Parts:
    def make() -> Any:
        optimizer = parts.optimizer()
        edit(optimizer)
        return optimizer

    return replace(parts, optimizer=make)


def _is_own(program: Program) -> bool:
    step = program.parts.step
    return isinstance(step, type) and issubclass(step, Own)


def _own(words: str) -> Callable[[Program], bool]:
    return lambda program: _is_own(program) and has(words)(program)


def _of_values(words: str) -> Callable[[Program], bool]:
    """Return the test for steps by hand whose loss gives one value an example."""
    by_hand = _own(words)
    return lambda p: by_hand(p) and not (p.parts.loss and isinstance(p.parts.loss(), losses.Loss))


def _flat_metrics(parts: Parts) -> list[Any]:
    return keras.tree.flatten(parts.metrics())


# A. Output, loss, labels.


@operator(
    "A1",
    "certain",
    "logits as probabilities",
    lambda p: "logits" in p.traits and hasattr(p.parts.loss and p.parts.loss(), "get_config"),
)
def logits_as_probabilities(parts: Parts) -> Parts:
    def wrap(loss: Any) -> Any:
        return type(loss).from_config({**loss.get_config(), "from_logits": False})

    return with_loss(parts, wrap)


@operator("A1", "certain", "logits as probabilities", _own("sparse logits -in-batch -norm"))
def logits_as_probabilities_by_hand(parts: Parts) -> Parts:
    return with_loss(
        parts, lambda loss: lambda y, y_pred: ops.sparse_categorical_crossentropy(y, y_pred)
    )


@operator(
    "A2", "certain", "softmax twice", either("sparse logits chain -words", "one-hot logits chain")
)
def softmax_twice(parts: Parts) -> Parts:
    return with_layers(parts, lambda made: [*made, kl.Softmax()])


@operator("A2", "certain", "softmax twice", either("binary logits", "multi-label logits"))
def sigmoid_twice(parts: Parts) -> Parts:
    return with_head(parts, "sigmoid")


@operator(
    "A3",
    "low",
    "not normalized",
    either("sparse probabilities", "one-hot probabilities", "words probabilities"),
    "predictions",  # Keras losses take the hidden logits on TensorFlow
)
def sigmoids_for_one_of_several(parts: Parts) -> Parts:
    return with_head(parts, "sigmoid")


@operator("A4", "certain", "constant output", either("binary probabilities", "counts"))
def softmax_over_one_unit(parts: Parts) -> Parts:
    return with_head(parts, "softmax")


@operator(
    "A5",
    "certain",
    "head of wrong range",
    either("binary probabilities", "multi-label probabilities"),
)
def no_activation_before_probabilities(parts: Parts) -> Parts:
    return with_head(parts, "linear")


@operator(
    "A5",
    "certain",
    "head of wrong range",
    either("sparse probabilities", "one-hot probabilities", "binary probabilities"),
)
def relu_before_probabilities(parts: Parts) -> Parts:
    return with_head(parts, "relu")


@operator("A5", "low", "head of wrong range", either("sparse logits chain", "binary logits chain"))
def relu_before_logits(parts: Parts) -> Parts:
    return with_layers(parts, lambda made: [*made, kl.ReLU()])


@operator("A6", "low", "softmax over wrong axis", "time-classes")
def softmax_over_time(parts: Parts) -> Parts:
    return with_head(parts, lambda x: ops.softmax(x, axis=1))


@operator("A7", "certain", "label encoding", lambda p: "sparse" in p.traits and not _is_own(p))
def one_hot_labels_for_ids(parts: Parts) -> Parts:
    return with_data(parts, lambda x, y: (x, np.eye(y.max() + 1, dtype="float32")[y]))


@operator("A7", "certain", "label encoding", "one-hot")
def ids_for_one_hot_labels(parts: Parts) -> Parts:
    return with_data(parts, lambda x, y: (x, y.argmax(axis=1).astype("int32")))


@operator("A8", "certain", "label range", "sparse")
def a_label_too_high(parts: Parts) -> Parts:
    def edit(x: Any, y: Any) -> Any:
        y[5] = y.max() + 1
        return x, y

    return with_data(parts, edit)


@operator("A8", "certain", "label range", "sparse")
def labels_from_one(parts: Parts) -> Parts:
    return with_data(parts, lambda x, y: (x, y + 1))


@operator("A9", "certain", "label range", "binary")
def labels_of_minus_one_and_one(parts: Parts) -> Parts:
    return with_data(parts, lambda x, y: (x, 2 * y - 1))


@operator("A9", "certain", "label range", "binary")
def three_classes_for_one_unit(parts: Parts) -> Parts:
    def edit(x: Any, y: Any) -> Any:
        y[::3] += 1
        return x, y

    return with_data(parts, edit)


@operator("A10", "low", "unreachable targets", "regression chain")
def sigmoid_for_any_number(parts: Parts) -> Parts:
    return with_head(parts, "sigmoid")


@operator("A10", "low", "unreachable targets", "regression chain")
def relu_for_any_number(parts: Parts) -> Parts:
    return with_head(parts, "relu")


@operator("A11", "medium", "classes as numbers", "sparse vector chain")
def class_ids_as_numbers(parts: Parts) -> Parts:
    def edit(made: list[Any]) -> list[Any]:
        return [*made[:-1], kl.Dense(1)]

    parts = with_layers(with_data(parts, lambda x, y: (x, y[:, None].astype("float32"))), edit)
    if isinstance(parts.step, type):
        return replace(parts, loss=_mean_squares, metrics=list)
    return replace(parts, loss=losses.MeanSquaredError, metrics=list)


def _mean_squares() -> Any:
    return lambda y, y_pred: ops.mean(ops.square(y - y_pred), axis=-1)


@operator("A12", "low", "unreachable targets", "regression several")
def softmax_for_numbers(parts: Parts) -> Parts:
    return with_head(parts, "softmax")


@operator("A13", "medium", "exclusive labels", "one-hot logits -own")
def tags_for_one_of_several(parts: Parts) -> Parts:
    return replace(parts, loss=lambda: losses.BinaryCrossentropy(from_logits=True))


@operator(
    "A14",
    "certain",
    "labels ignored",
    either("sparse logits vector", "sparse logits image", "sparse logits sequence"),
)
def own_answers_as_labels(parts: Parts) -> Parts:
    def wrap(loss: Any) -> Any:
        return lambda y, y_pred: loss(ops.argmax(y_pred, axis=-1), y_pred)

    return with_values(parts, wrap)


@operator("A14", "certain", "labels ignored", "regression mse vector")
def a_loss_without_labels(parts: Parts) -> Parts:
    return with_values(parts, lambda loss: lambda y, y_pred: loss(ops.zeros_like(y), y_pred))


def _negative(loss: Any) -> Any:
    return lambda y, y_pred: -loss(y, y_pred)


@operator(
    "A15", "certain", "loss of wrong sign", lambda p: not _is_own(p) and "outputs" not in p.traits
)
def loss_of_wrong_sign(parts: Parts) -> Parts:
    return with_values(parts, _negative)


class WrongSign:
    def reduce(self, values: Any) -> Any:
        return -super().reduce(values)


@operator("A15", "certain", "loss of wrong sign", _own("-words -weighted -own-form -gan"))
def loss_of_wrong_sign_by_hand(parts: Parts) -> Parts:
    return with_step(parts, WrongSign)


# B. Shapes, pairing, reduction.


@operator("B1", "certain", "broadcast", "regression mse vector -several -weighted")
def column_against_row(parts: Parts) -> Parts:
    def wrap(loss: Any) -> Any:
        return lambda y, y_pred: ops.mean(ops.square(y[:, 0] - y_pred))

    return with_loss(parts, wrap)


@operator("B1", "certain", "broadcast", "regression mse vector -several -weighted")
def absolute_column_against_row(parts: Parts) -> Parts:
    def wrap(loss: Any) -> Any:
        return lambda y, y_pred: ops.mean(ops.abs(y - y_pred[:, 0]))

    return with_loss(parts, wrap)


@operator("B2", "certain", "broadcast", "regression several")
def one_label_for_three_outputs(parts: Parts) -> Parts:
    return with_data(parts, lambda x, y: (x, y[:, :1]))


@operator("B2", "certain", "broadcast", "regression mse vector -several -weighted")
def three_outputs_for_one_label(parts: Parts) -> Parts:
    if parts.layers is None:
        return with_model(parts, lambda model: keras.Sequential([model, kl.Dense(3)]))
    return with_layers(parts, lambda made: [*made[:-1], kl.Dense(3)])


class Centered(kl.Layer):
    """Takes the mean of the batch away."""

    def call(self, x: Any) -> Any:
        return x - ops.mean(x, axis=0, keepdims=True)


@operator("B3", "certain", "examples mixed", "vector chain -in-batch -norm")
def mean_of_the_batch_taken_away(parts: Parts) -> Parts:
    return with_layers(parts, lambda made: [*made[:-1], Centered(), made[-1]])


@operator(
    "B3", "certain", "examples mixed", either("sparse probabilities", "one-hot probabilities")
)
def softmax_over_the_batch(parts: Parts) -> Parts:
    return with_head(parts, lambda x: ops.softmax(x, axis=0))


class SummedUp:
    def reduce(self, values: Any) -> Any:
        return ops.sum(super().reduce(values))


@operator("B4", "low", "loss not a mean", _of_values("-words -weighted -gan"))
def sum_over_the_batch_by_hand(parts: Parts) -> Parts:
    return with_step(parts, SummedUp)


@operator("B4", "low", "loss not a mean", lambda p: not _is_own(p) and "outputs" not in p.traits)
def sum_over_the_batch(parts: Parts) -> Parts:
    return with_loss(parts, lambda loss: _reduced(loss, "sum"))


def _reduced(loss: Any, reduction: str) -> Any:
    if not hasattr(loss, "get_config"):
        return lambda y, y_pred: ops.sum(loss(y, y_pred))
    return type(loss).from_config({**loss.get_config(), "reduction": reduction})


@operator("B6", "medium", "mask ignored", "masked")
def padding_counts(parts: Parts) -> Parts:
    class PaddingCounts:
        def average(self, values: Any, mask: Any) -> Any:
            return super().average(values, ops.ones_like(mask))

    return with_step(parts, PaddingCounts)


@operator("B7", "medium", "weights unused", _own("weighted"))
def weights_unused(parts: Parts) -> Parts:
    class Unweighted:
        def weigh(self, weights: Any) -> Any:
            return ops.ones_like(weights)

    return with_step(parts, Unweighted)


@operator("B8", "high", "mean of means", "masked", "logs")
def mean_over_words_of_a_batch(parts: Parts) -> Parts:
    class OfABatch:
        def average(self, values: Any, mask: Any) -> Any:
            return ops.sum(values * mask) / ops.sum(mask)

    return with_step(parts, OfABatch)


class TimesBatch:
    def reduce(self, values: Any) -> Any:
        values = super().reduce(values)
        return values * ops.cast(ops.shape(values)[0], values.dtype)


@operator("B9", "low", "loss not a mean", _of_values("-words -weighted -gan"))
def loss_times_batch_size(parts: Parts) -> Parts:
    return with_step(parts, TimesBatch)


class OverBatch:
    def reduce(self, values: Any) -> Any:
        values = super().reduce(values)
        return values / ops.cast(ops.shape(values)[0], values.dtype)


@operator("B9", "low", "loss not a mean", _of_values("-words -weighted -gan"))
def loss_divided_twice(parts: Parts) -> Parts:
    return with_step(parts, OverBatch)


@operator("B10", "medium", "heads swapped", "like-outputs")
def labels_of_heads_swapped(parts: Parts) -> Parts:
    return with_data(parts, lambda x, y: (x, {"low": y["high"], "high": y["low"]}))


# C. Gradients and variables.


class Detached(kl.Layer):
    """Lets no gradient through."""

    def call(self, x: Any) -> Any:
        return ops.stop_gradient(x)


@operator("C1", "certain", "no gradient", "sparse chain logits")
def answers_rounded(parts: Parts) -> Parts:
    def wrap(loss: Any) -> Any:
        return lambda y, y_pred: loss(y, ops.cast(ops.cast(y_pred, "int32"), "float32"))

    return with_values(parts, wrap)


class WithUnused(kl.Layer):
    """Has a layer that it does not call."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer, self.unused = layer, kl.Dense(2)

    def build(self, shape: Any) -> None:
        self.layer.build(shape)
        self.unused.build(shape)
        self.built = True

    def call(self, x: Any) -> Any:
        return self.layer(x)

    def compute_output_shape(self, shape: Any) -> Any:
        return self.layer.compute_output_shape(shape)


@operator("C2", "certain", "variable not reached", "vector chain -frozen -groups -gan -outputs")
def a_layer_never_called(parts: Parts) -> Parts:
    return with_layers(parts, lambda made: [*made[:-1], WithUnused(made[-1])])


class Box:
    """Holds a layer out of Keras's sight."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer


class Hiding(kl.Layer):
    """Holds a layer in an object that Keras does not look into."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.box = Box(layer)

    def build(self, shape: Any) -> None:
        self.box.layer.build(shape)
        self.built = True

    def call(self, x: Any) -> Any:
        return self.box.layer(x)

    def compute_output_shape(self, shape: Any) -> Any:
        return self.box.layer.compute_output_shape(shape)


@operator("C4", "certain", "variable not tracked", "vector chain -frozen -groups -own -gan -norm")
def a_layer_in_a_plain_object(parts: Parts) -> Parts:
    return with_layers(parts, lambda made: [Hiding(made[0]), *made[1:]])


@operator("C4", "certain", "variable not tracked", "own vector chain -norm -ema -teacher")
def a_layer_in_a_plain_object_by_hand(parts: Parts) -> Parts:
    return with_layers(parts, lambda made: [Hiding(made[0]), *made[1:]])


class LastOnly:
    def chosen(self, *models: Any) -> list[Any]:
        return super().chosen(*models)[-2:]


class NotTheLast:
    def chosen(self, *models: Any) -> list[Any]:
        return super().chosen(*models)[:-1]


@operator("C5", "low", "variable not updated", _own(""))
def last_layer_only_updated(parts: Parts) -> Parts:
    return with_step(parts, LastOnly)


@operator("C5", "low", "variable not updated", _own("-factors"))
def last_variable_forgotten(parts: Parts) -> Parts:
    return with_step(parts, NotTheLast)


@operator("C6", "low", "two optimizers", _own("chain -in-batch -teacher -ema"))
def two_optimizers_for_a_variable(parts: Parts) -> Parts:
    class Twice:
        def __init__(self, parts: Parts) -> None:
            super().__init__(parts)
            self.second = keras.optimizers.SGD(1e-2)

        def update(self, objective: Any, optimizer: Any, *models: Any) -> Any:
            super().update(objective, optimizer, *models)
            return super().update(objective, self.second, *models)

    return with_step(parts, Twice)


@operator("C7", "certain", "gradients exchanged", "halves deep")
def gradients_exchanged(parts: Parts) -> Parts:
    class Exchanged:
        def paired(self, values: Any, variables: Any) -> list[Any]:
            values = list(values)
            shapes = [tuple(v.shape) for v in variables]
            for i in reversed(range(len(shapes))):
                if shapes[i] in shapes[:i]:
                    j = shapes.index(shapes[i])
                    values[i], values[j] = values[j], values[i]
                    break
            return super().paired(values, variables)

    return with_step(parts, Exchanged)


@operator("C8", "low", "wrong model trained", "gan")
def generator_step_trains_the_judge(parts: Parts) -> Parts:
    class Both:
        def for_generator(self) -> Any:
            return (self.generator, self.discriminator)

    return with_step(parts, Both)


@operator("C8", "low", "wrong model trained", "gan")
def judge_trained_in_place_of_the_generator(parts: Parts) -> Parts:
    class Wrong:
        def for_generator(self) -> Any:
            return (self.discriminator,)

    return with_step(parts, Wrong)


@operator("C8", "low", "frozen variable changed", _own("chain -teacher -ema -in-batch"))
def frozen_and_yet_updated(parts: Parts) -> Parts:
    class Shrinking:
        def update(self, objective: Any, optimizer: Any, *models: Any) -> Any:
            models[0].layers[0].trainable = False
            returned = super().update(objective, optimizer, *models)
            for variable in models[0].layers[0].weights:
                variable.assign(0.99 * variable)
            return returned

    return with_step(parts, Shrinking)


@operator("C11", "low", "optimizer begins anew", _own("-gan -half"))
def optimizer_begins_anew(parts: Parts) -> Parts:
    class Forgetful:
        def update(self, objective: Any, optimizer: Any, *models: Any) -> Any:
            returned = super().update(objective, optimizer, *models)
            for variable in optimizer.variables:
                if variable is not optimizer.learning_rate:
                    variable.assign(ops.zeros_like(variable))
            return returned

    return with_step(parts, Forgetful)


@operator("C12", "medium", "no gradient", "chain -words -in-batch -groups -gan -outputs")
def hidden_values_detached(parts: Parts) -> Parts:
    return with_layers(parts, lambda made: [*made[:-1], Detached(), made[-1]])


@operator("C12", "medium", "no gradient", "encoder")
def encoder_detached(parts: Parts) -> Parts:
    class Apart:
        def encode(self, x: Any) -> Any:
            return ops.stop_gradient(super().encode(x))

    return with_step(parts, Apart)


@operator("C15", "low", "skipped step moves", "skipping")
def zeroed_in_place_of_skipped(parts: Parts) -> Parts:
    class Zeroed:
        def apply_where(self, is_calm: Any, optimizer: Any, gradients: Any) -> None:
            factor = ops.cast(is_calm, "float32")
            values = [factor * value for value in gradients.values]
            self.apply(optimizer, list(zip(values, gradients.variables, strict=True)))

    return with_step(parts, Zeroed)


@operator("C16", "medium", "layer called twice", "deep")
def one_layer_twice(parts: Parts) -> Parts:
    return with_layers(parts, lambda made: [made[0], made[1], made[1], *made[2:]])


# D. Modes and other state.


class InferenceMode:
    def call(self, model: Any, x: Any, training: bool = True) -> Any:
        return super().call(model, x, training=False)


class TrainingMode:
    def call(self, model: Any, x: Any, training: bool = True) -> Any:
        return super().call(model, x, training=True)


@operator(
    "D1",
    "certain",
    "inference mode in training",
    lambda p: _is_own(p) and bool({"dropout", "norm"} & p.traits),
)
def training_flag_missing(parts: Parts) -> Parts:
    return with_step(parts, InferenceMode)


class Unmoved(kl.BatchNormalization):
    """Always runs in inference mode."""

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return super().call(inputs, training=False, mask=mask)


@operator("D1", "certain", "inference mode in training", "norm chain")
def statistics_do_not_move(parts: Parts) -> Parts:
    def edit(made: list[Any]) -> list[Any]:
        return [Unmoved() if isinstance(m, kl.BatchNormalization) else m for m in made]

    return with_layers(parts, edit)


@operator(
    "D2",
    "low",
    "evaluation draws",
    lambda p: _is_own(p) and bool({"dropout", "norm"} & p.traits) and "sparse" in p.traits,
    "evaluation",
)
def evaluation_in_training_mode(parts: Parts) -> Parts:
    return with_step(parts, TrainingMode)


@operator("D2", "low", "evaluation draws", "vector chain sparse -own", "evaluation")
def dropout_that_never_stops(parts: Parts) -> Parts:
    class Always(kl.Dropout):
        def call(self, inputs: Any, training: Any = None) -> Any:
            return super().call(inputs, training=True)

    return with_layers(parts, lambda made: [*made[:-1], Always(0.3), made[-1]])


class WithoutPenalties:
    def minimize(self, objective: Any, optimizer: Any, variables: Any = None, **_: Any) -> Any:
        return super().minimize(objective, optimizer, variables, add_losses=False)


@operator("D4", "certain", "penalty dropped", _own("penalty"))
def penalties_dropped(parts: Parts) -> Parts:
    return with_step(parts, WithoutPenalties)


@operator("D4", "certain", "penalty twice", _own("penalty -calls-twice"))
def penalties_twice(parts: Parts) -> Parts:
    class PenaltiesTwice:
        def reduce(self, values: Any) -> Any:
            return super().reduce(values) + sum(self.model.losses)

    return with_step(parts, PenaltiesTwice)


@operator("D8", "low", "dropout rate", "vector chain -words -ema -gan -outputs")
def nearly_all_dropped(parts: Parts) -> Parts:
    return with_layers(parts, lambda made: [*made[:-1], kl.Dropout(0.95), made[-1]])


@operator(
    "D8", "medium", "dropout last", either("sparse vector chain logits", "regression vector chain")
)
def dropout_after_the_last_layer(parts: Parts) -> Parts:
    return with_layers(parts, lambda made: [*made, kl.Dropout(0.5)])


# E. Metrics.


def _with_metrics(parts: Parts, *made: Callable[[], Any]) -> Parts:
    return replace(parts, metrics=lambda: [make() for make in made])


@operator("E-1", "certain", "metric does not fit", either("sparse -words", "one-hot"), "logs")
def exact_accuracy_of_scores(parts: Parts) -> Parts:
    class OfScores(metrics.Accuracy):
        """Keras's own takes only what has the shape of the labels."""

        def update_state(self, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            y = y if len(y.shape) == len(y_pred.shape) else y[:, None]
            return super().update_state(y * ops.ones_like(y_pred, y.dtype), y_pred, sample_weight)

    return _with_metrics(parts, lambda: OfScores(name="accuracy"))


@operator("E-1", "certain", "metric does not fit", "one-hot", "logs")
def binary_accuracy_of_classes(parts: Parts) -> Parts:
    return _with_metrics(parts, lambda: metrics.BinaryAccuracy(threshold=0.5, name="accuracy"))


@operator(
    "E-2", "certain", "metric of logits", either("binary logits", "multi-label logits"), "logs"
)
def threshold_of_probabilities_on_logits(parts: Parts) -> Parts:
    return _with_metrics(parts, lambda: metrics.BinaryAccuracy(name="accuracy"))


@operator(
    "E-2",
    "certain",
    "metric of logits",
    either("binary logits -words", "multi-label logits"),
    "logs",
)
def area_under_curve_of_logits(parts: Parts) -> Parts:
    return _with_metrics(parts, lambda: metrics.AUC(name="auc"))


@operator("E-4", "low", "mean of means", _own("chain sparse -teacher -ema"), "logs")
def mean_of_batch_means(parts: Parts) -> Parts:
    class OfBatches:
        def __init__(self, parts: Parts) -> None:
            super().__init__(parts)
            self.largest = metrics.Mean(name="largest")

        def measure(self, y: Any, y_pred: Any) -> None:
            super().measure(y, y_pred)
            self.largest.update_state(ops.mean(ops.max(y_pred, axis=-1)))

    return with_step(parts, OfBatches)


@operator(
    "E-5",
    "certain",
    "metric never updated",
    lambda p: _is_own(p) and bool(_flat_metrics(p.parts)),
    "logs",
)
def metric_never_updated(parts: Parts) -> Parts:
    class Unmeasured:
        def measure(self, y: Any, y_pred: Any) -> None:
            pass

    return with_step(parts, Unmeasured)


# F. Data.


def _floats(program: Program) -> bool:
    return "vector" in program.traits and "gan" not in program.traits


def _of_inputs(parts: Parts, edit: Callable[[Any], Any]) -> Parts:
    return with_data(parts, lambda x, *rest: (edit(x), *rest) if rest else edit(x))


@operator("F1", "certain", "not finite", _floats)
def a_missing_value(parts: Parts) -> Parts:
    def edit(x: Any) -> Any:
        x[7, 1] = np.nan
        return x

    return _of_inputs(parts, edit)


@operator("F1", "certain", "not finite", "regression vector")
def an_infinite_target(parts: Parts) -> Parts:
    def edit(x: Any, y: Any, *rest: Any) -> Any:
        y[7] = np.inf
        return x, y, *rest

    return with_data(parts, edit)


@operator(
    "F2",
    "medium",
    "inputs far from unit scale",
    either("sparse vector chain -norm", "binary vector -norm", "regression vector"),
)
def inputs_up_to_thousands(parts: Parts) -> Parts:
    return _of_inputs(parts, lambda x: 255 * x + 100)


@operator("F3", "medium", "targets of large scale", "regression vector")
def targets_in_ten_thousands(parts: Parts) -> Parts:
    return with_data(parts, lambda x, y, *rest: (x, 1e4 * y, *rest))


@operator(
    "F5",
    "certain",
    "constant labels",
    either("sparse vector", "binary vector", "regression vector"),
)
def all_labels_alike(parts: Parts) -> Parts:
    return with_data(parts, lambda x, y, *rest: (x, np.full_like(y, y[0]), *rest))


@operator("F5", "low", "constant feature", either("regression vector", "binary vector"))
def a_feature_that_is_constant(parts: Parts) -> Parts:
    def edit(x: Any) -> Any:
        x[:, 0] = 3.0
        return x

    return _of_inputs(parts, edit)


@operator("F6", "medium", "labels sorted", either("sparse vector", "binary vector"))
def labels_sorted_and_not_shuffled(parts: Parts) -> Parts:
    def edit(x: Any, y: Any) -> Any:
        order = np.argsort(y.reshape(len(y)), kind="stable")
        return x[order], y[order]

    return replace(with_data(parts, edit), fit={**parts.fit, "shuffle": False})


@operator(
    "F12", "low", "validation in training", lambda p: p.parts.validation is not None, "validation"
)
def validation_seen_in_training(parts: Parts) -> Parts:
    return replace(parts, validation=lambda: tuple(a[:100] for a in parts.data()))


@operator(
    "F13",
    "medium",
    "target in inputs",
    either(
        "regression vector chain -several", "binary vector chain", "sparse vector chain -teacher"
    ),
)
def target_among_the_inputs(parts: Parts) -> Parts:
    def edit(x: Any, y: Any, *rest: Any) -> Any:
        return np.concatenate([x, y.reshape(len(y), 1).astype("float32")], axis=1), y, *rest

    validation = parts.validation
    if validation is not None:
        parts = replace(parts, validation=lambda: edit(*validation()))
    return with_data(parts, edit)


@operator("F14", "certain", "id beyond embedding", either("words chain", "factors"))
def a_word_too_high(parts: Parts) -> Parts:
    def edit(x: Any) -> Any:
        x[3, 0] = 12
        return x

    return _of_inputs(parts, edit)


@operator("F16", "high", "misaligned", either("sparse vector", "regression vector"))
def labels_shuffled_apart(parts: Parts) -> Parts:
    def edit(x: Any, y: Any, *rest: Any) -> Any:
        return x, y[np.random.default_rng(3).permutation(len(y))], *rest

    return with_data(parts, edit)


@operator("F17", "medium", "imbalanced", "binary vector")
def one_class_is_rare(parts: Parts) -> Parts:
    def edit(x: Any, y: Any) -> Any:
        rare = np.flatnonzero(y[:, 0] == 0)[:4]
        kept = np.sort(np.concatenate([rare, np.flatnonzero(y[:, 0] == 1)]))
        return x[kept], y[kept]

    return with_data(parts, edit)


# G. Optimization and numerics.


def _one_optimizer(program: Program) -> bool:
    return not {"groups", "gan"} & program.traits and program.name != "digits scheduled"


def _rate(parts: Parts, factor: float) -> Parts:
    def edit(optimizer: Any) -> None:
        optimizer.learning_rate = float(optimizer.learning_rate) * factor

    return with_optimizer(parts, edit)


@operator("G1", "low", "learning rate too high", _one_optimizer)
def learning_rate_far_too_high(parts: Parts) -> Parts:
    return _rate(parts, 1e4)


@operator("G2", "low", "learning rate too low", _one_optimizer)
def learning_rate_far_too_low(parts: Parts) -> Parts:
    return _rate(parts, 1e-6)


@operator("G3", "medium", "vanishing gradients", "vector chain -frozen -groups")
def many_sigmoids(parts: Parts) -> Parts:
    def edit(made: list[Any]) -> list[Any]:
        return [*made[:-1], *(kl.Dense(8, activation="sigmoid") for _ in range(8)), made[-1]]

    return with_layers(parts, edit)


@operator("G4", "medium", "exploding gradients", "vector chain deep")
def many_wide_weights(parts: Parts) -> Parts:
    def edit(made: list[Any]) -> list[Any]:
        wide = keras.initializers.RandomNormal(stddev=4.0, seed=1)
        inner = [kl.Dense(32, activation="relu", kernel_initializer=wide) for _ in range(4)]
        return [*made[:-1], *inner, made[-1]]

    return with_layers(parts, edit)


def _first_dense(made: list[Any]) -> Any:
    return next(layer for layer in made if isinstance(layer, kl.Dense | kl.Conv1D | kl.Conv2D))


@operator("G5", "certain", "dead units", "relu chain -norm -outputs")
def dead_from_the_start(parts: Parts) -> Parts:
    def edit(made: list[Any]) -> None:
        _first_dense(made).bias_initializer = keras.initializers.Constant(-100.0)

    return with_layers(parts, edit)


@operator("G6", "low", "no nonlinearity", "vector chain relu -norm")
def no_nonlinearity(parts: Parts) -> Parts:
    def edit(made: list[Any]) -> None:
        for layer in made[:-1]:
            if isinstance(layer, kl.Dense):
                layer.activation = keras.activations.linear

    return with_layers(parts, edit)


class Tiny:
    def reduce(self, values: Any) -> Any:
        return 1e-12 * super().reduce(values)


@operator("G7", "certain", "float16 underflow", "half own")
def loss_too_small_for_float16(parts: Parts) -> Parts:
    return with_step(parts, Tiny)


@operator(
    "G10",
    "medium",
    "initial loss",
    either("sparse logits vector chain", "binary logits vector chain"),
)
def last_layer_begins_large(parts: Parts) -> Parts:
    def edit(made: list[Any]) -> None:
        wide = keras.initializers.RandomNormal(stddev=20.0, seed=1)
        [m for m in made if isinstance(m, kl.Dense)][-1].kernel_initializer = wide

    return with_layers(parts, edit)


@operator(
    "G14",
    "medium",
    "constant output",
    either("sparse vector chain -norm", "regression vector chain"),
)
def all_weights_begin_at_zero(parts: Parts) -> Parts:
    def edit(made: list[Any]) -> None:
        for layer in made:
            if isinstance(layer, kl.Dense):
                layer.kernel_initializer = keras.initializers.Zeros()

    return with_layers(parts, edit)


@operator("G16", "medium", "penalty overwhelms", "penalty vector chain")
def penalty_overwhelms(parts: Parts) -> Parts:
    def edit(made: list[Any]) -> None:
        _first_dense(made).kernel_regularizer = keras.regularizers.L2(10.0)

    return with_layers(parts, edit)


@operator("G17", "medium", "initial scale", "vector chain relu -norm -outputs")
def first_weights_tiny(parts: Parts) -> Parts:
    def edit(made: list[Any]) -> None:
        tiny = keras.initializers.RandomNormal(stddev=1e-6, seed=1)
        _first_dense(made).kernel_initializer = tiny

    return with_layers(parts, edit)


# H. Tracing. Compiled: a step that runs as plain Python does what it says.


class DrawsOnce:
    def call(self, model: Any, x: Any, training: bool = True) -> Any:
        noise = np.random.default_rng().normal(scale=0.1, size=int(x.shape[-1]))
        return super().call(model, x + noise.astype("float32") if training else x, training)


@operator("H3", "low", "drawn once", _own("vector chain sparse -teacher -ema"))
def noise_of_numpy(parts: Parts) -> Parts:
    return with_step(parts, DrawsOnce)


class CountsInPython:
    turns = 0

    def reduce(self, values: Any) -> Any:
        self.turns += 1
        return super().reduce(values) * 0.5**self.turns


@operator("H3", "low", "counted once", _own("vector chain sparse -teacher -ema"))
def a_counter_of_python(parts: Parts) -> Parts:
    return with_step(parts, CountsInPython)


# I. Counters.


@operator("I5", "low", "counter advances twice", _own("-gan"))
def counter_advances_twice(parts: Parts) -> Parts:
    class Hasty:
        def update(self, objective: Any, optimizer: Any, *models: Any) -> Any:
            returned = super().update(objective, optimizer, *models)
            optimizer.iterations.assign(optimizer.iterations + 1)
            return returned

    return with_step(parts, Hasty)


PROGRAMS_AN_OPERATOR = 8


def _mutants_of(operator: Operator) -> list[Mutant]:
    """Return an operator's mutants: as many of each way of training, drawn by their names.

    A held-out program has no mutants but those that are held out themselves, so that it is not
    seen through them.
    """
    by_way: dict[str, list[Mutant]] = {"own": [], "supervised": [], "keras": []}
    for program in PROGRAMS.values():
        mutant = Mutant(operator, program)
        if not operator.applies(program):
            continue
        if is_held_out(program.name) and not is_held_out(mutant.name):
            continue
        by_way[next(way for way in by_way if way in program.traits)].append(mutant)
    for mutants in by_way.values():
        mutants.sort(key=lambda mutant: digest(mutant.name))
    turns = itertools.zip_longest(*by_way.values())
    return [m for turn in turns for m in turn if m is not None][:PROGRAMS_AN_OPERATOR]


MUTANTS: dict[str, Mutant] = {
    mutant.name: mutant for operator in OPERATORS.values() for mutant in _mutants_of(operator)
}
