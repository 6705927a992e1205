"""`Supervised`: a Step with the options of `keras.Model.compile`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from perigee import _backends
from perigee._errors import ArgumentError, did_you_mean, door
from perigee._step.averages import Average
from perigee._step.frame import current_frame
from perigee._step.losses import as_loss, as_metric, check_loss, is_loss, names_in, shown
from perigee._step.masks import mask_of, masked
from perigee._step.step import Step
from perigee._typing import Batch, Tensor, Tree
from perigee.steps._groups import Groups
from perigee.steps._outputs import Outputs
from perigee.steps._reductions import average_loss, class_weights, product

_plain = _backends.current().plain


_COMPILE_WORDS = {
    "jit_compile": 'leave it out, and pass `execution="xla"` to `pg.fit`.',
    "run_eagerly": 'leave it out, and pass `execution="eager"` to `pg.fit`.',
    "steps_per_execution": "leave it out: how many steps go into one call is measured.",
    "auto_scale_loss": "leave it out: losses are scaled where a model computes in float16.",
    "learning_rate": "pass `optimizer=keras.optimizers.Adam(learning_rate)`.",
    "epochs": "it is an argument of `pg.fit`.",
    "batch_size": "it is an argument of `pg.fit`.",
}
"""What to write instead of other arguments of `compile` and `fit`."""


class Supervised(Step):
    """A ready-made Step for supervised training.

    It takes the arguments of `keras.Model.compile`, gives the results of `keras.Model.fit`, and is
    exact where `fit` is not: with a ragged last batch, masks or micro-batches each value is the
    mean over everything that it covers. On TensorFlow, rows of an `Embedding` that a batch uses
    several times train by the sum of their gradients, as the formulas of Adam and the like say and
    as on the other frameworks; `fit` there squares each use. Several optimizers can share the
    model.

    A batch is `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`. With several outputs, `y` and the
    weights are lists or dicts like the outputs; one array of weights, of shape `(batch,)`, applies
    to all of them. The logs are `loss` (including weight penalties and `add_loss` terms), with
    several losses also `{output}_loss`, and the metrics: `accuracy`, or `{output}_accuracy`.
    Outputs are named by the keys of the dict that the model returns, else by its `output_names`,
    else `output_0`, `output_1`, ...

    >>> step = pg.Supervised(
    ...     model, keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", ["accuracy"]
    ... )
    >>> history = pg.fit(step, (images, labels), epochs=10)

    Two optimizers, one for a backbone with a low learning rate:

    >>> step = pg.Supervised(
    ...     model,
    ...     [(keras.optimizers.SGD(1e-4), model.backbone), (keras.optimizers.Adam(), "head/")],
    ...     keras.losses.CategoricalCrossentropy(from_logits=True),
    ... )

    Args:
        model: Maps `x` to one tensor, or to a flat list, tuple or dict of tensors. It is called
            with `training=True` or `training=False`.
        optimizer: An optimizer or its name; or pairs of (optimizer, group). A group is a layer, a
            model, a (nested) list of layers and variables, or a regular expression that is
            searched in the paths of the variables. Each trainable variable must be in exactly
            one group.
        loss: A `keras.losses.Loss`, its name, or a function of `(y_true, y_pred)` that returns
            one value per example (or more, or their mean). One for all outputs, or a list or dict
            of them; `None` skips an output. `None` alone trains on `add_loss` terms.
        metrics: `keras.Metric`s, names or functions of `(y_true, y_pred)`. For one output a list;
            for several a list or dict with one metric, or a list of them, or `None` for each.
            Sample weights do not affect them.
        weighted_metrics: The same, for metrics that use sample and class weights.
        loss_weights: The factor of each loss in `loss`: numbers or scalar
            `keras.Variable`s, as a list or dict like the losses; for one output a number.
            `None` counts each as 1. The `{output}_loss` values are not multiplied.
        class_weight: For a model with one output, weights by class id, which multiply the weight of
            each label in `train_step`. Labels are class ids or one-hot; other classes have weight
            1.

    Raises:
        ArgumentError: If an argument has an invalid value. Once the outputs are known, at the first
            batch: `OutputsError` if losses, metrics, weights or labels do not match them,
            `OptimizerGroupsError` if groups do not cover the variables.
    """

    @door(words=_COMPILE_WORDS)
    def __init__(
        self,
        model: keras.Layer,
        optimizer: Any,
        loss: Any,
        metrics: Any = (),
        *,
        weighted_metrics: Any = (),
        loss_weights: Any = None,
        class_weight: Mapping[int, float] | None = None,
    ) -> None:
        if not isinstance(model, keras.Layer):
            raise ArgumentError(
                "model",
                shown(model),
                "a `keras.Model` or a layer.",
                "the order is `pg.Supervised(model, optimizer, loss)`.",
            )
        self.model = model
        pairs = _pairs(optimizer)
        self.optimizer: Any = (
            _optimizer(optimizer) if pairs is None else [_optimizer(each) for each, _ in pairs]
        )
        self._groups = None if pairs is None else Groups([group for _, group in pairs])
        check_loss(loss)
        self.loss = loss
        self.loss_weights = loss_weights
        self.metrics: Any = _metrics(metrics)
        self.weighted_metrics: Any = _metrics(weighted_metrics)
        self.class_weight: dict[int, float] | None = _checked_class_weight(class_weight)
        _refuse_shared([*_flat(self.metrics), *_flat(self.weighted_metrics)])

    @_plain
    def train_step(self, batch: Batch) -> dict[str, Any]:
        """Take one step of each optimizer.

        Args:
            batch: `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`.

        Returns:
            The losses to log.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)

        @_plain
        def objective() -> tuple[Any, Any]:
            y_pred = self.model(x, training=True)
            targets = self._targets(y_pred, y, sample_weight, is_training=True)
            losses = _losses(targets)
            masks = [mask_of(tensor) for tensor in keras.tree.flatten(y_pred)]
            return _total(targets, losses), (y_pred, masks, losses)

        if self._groups is None:
            loss, (y_pred, masks, losses) = self.minimize(objective, self.optimizer, self.model)
        else:
            gradients = self.gradients(objective, self.model)
            parts = self._groups.of(self.model)
            for optimizer, part in zip(self.optimizer, parts, strict=True):
                if part:
                    self.apply(optimizer, gradients.of(part))
            loss, (y_pred, masks, losses) = gradients.returned
        # Masks are lost if a framework returns new tensors.
        tensors = zip(keras.tree.flatten(y_pred), masks, strict=True)
        y_pred = keras.tree.pack_sequence_as(y_pred, [masked(t, mask) for t, mask in tensors])
        targets = self._targets(y_pred, y, sample_weight, is_training=True)
        self._update_metrics(targets)
        return {"loss": loss, **_named(losses)}

    @_plain
    def test_step(self, batch: Batch) -> dict[str, Any]:
        """Measure the model on one batch.

        Args:
            batch: As for `train_step`; class weights do not apply here.

        Returns:
            The losses to log.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        y_pred = self.model(x, training=False)
        targets = self._targets(y_pred, y, sample_weight, is_training=False)
        losses = _losses(targets)
        loss = _total(targets, losses)
        for term in self.model.losses:
            loss = loss + ops.cast(ops.sum(term), "float32")
        self._update_metrics(targets)
        return {"loss": loss, **_named(losses)}

    @_plain
    def predict_step(self, batch: Batch) -> Tree:
        """Return the model's outputs for `x`.

        Args:
            batch: As for `train_step`; only `x` is used.
        """
        x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
        return self.model(x, training=False)

    def _targets(
        self, y_pred: Tree, y: Any, sample_weight: Any, is_training: bool
    ) -> list[_Target]:
        """Collect what belongs to each output.

        Raises:
            OutputsError: If something does not match the outputs.
        """
        outputs = Outputs.of(self.model, y_pred)
        losses = _for_each(outputs, "loss", self.loss)
        metrics = _metrics_for_each(outputs, "metrics", self.metrics)
        weighted = _metrics_for_each(outputs, "weighted_metrics", self.weighted_metrics)
        factors = _for_each(outputs, "loss_weights", self.loss_weights)
        if self.class_weight and len(outputs.names) > 1:
            raise ArgumentError(
                "class_weight",
                f"<weights for a model with the outputs {list(outputs.names)}>",
                "a model with one output.",
                "put weights into the batch, one array for each output.",
            )
        has_loss = [loss is not None for loss in losses]
        wanted = [
            any((has, *parts)) for has, *parts in zip(has_loss, metrics, weighted, strict=True)
        ]
        labels = _labels(outputs, y, wanted, has_loss)
        weights = _weights(outputs, sample_weight, has_loss)
        targets: list[_Target] = []
        for index, name in enumerate(outputs.names):
            y_true, tensor, weight = labels[index], outputs.tensors[index], weights[index]
            loss = losses[index]
            if self.class_weight and is_training and y_true is not None:
                weight = product(class_weights(y_true, tensor, self.class_weight), weight)
            targets.append(
                _Target(
                    name=name,
                    is_only=len(outputs.names) == 1,
                    y_true=y_true,
                    y_pred=tensor,
                    weight=weight,
                    loss=None if loss is None else as_loss(loss, y_true, tensor),
                    factor=factors[index],
                    metrics=metrics[index],
                    weighted_metrics=weighted[index],
                )
            )
        return targets

    def _update_metrics(self, targets: Sequence[_Target]) -> None:
        frame = current_frame()
        if frame is not None and frame.recorder is not None:
            for name, metric in _metric_names(targets).items():
                frame.recorder.names(metric, name)
        for target in targets:
            for metric in target.metrics:
                metric.update_state(target.y_true, target.y_pred)
            for metric in target.weighted_metrics:
                metric.update_state(target.y_true, target.y_pred, sample_weight=target.weight)


@dataclass(frozen=True, slots=True)
class _Target:
    """One output, with its labels, weights, loss and metrics.

    Attributes:
        name: The name of the output.
        is_only: Whether it is the model's only output.
        y_true: Labels, `None` if nothing needs them.
        y_pred: The output.
        weight: Weights of the examples, or `None`.
        loss: The loss, or `None`.
        factor: The factor of the loss, or `None`.
        metrics: Metrics without weights.
        weighted_metrics: Metrics with weights.
    """

    name: str
    is_only: bool
    y_true: Tensor | None
    y_pred: Tensor
    weight: Tensor | None
    loss: keras.losses.Loss | None
    factor: Any
    metrics: Sequence[keras.Metric]
    weighted_metrics: Sequence[keras.Metric]


# Losses.


def _losses(targets: Sequence[_Target]) -> dict[str, Average]:
    """Return the loss of each output that has one, by the output's name."""
    return {
        target.name: average_loss(target.loss, target.y_true, target.y_pred, target.weight)
        for target in targets
        if target.loss is not None
    }


def _total(targets: Sequence[_Target], losses: Mapping[str, Average]) -> Any:
    """Return the sum of the losses, each times its weight."""
    total: Any = None
    for target in targets:
        if target.loss is not None:
            loss = losses[target.name]
            weighted = loss if target.factor is None else loss * _number(target.factor)
            total = weighted if total is None else total + weighted
    return ops.zeros((), "float32") if total is None else total


def _number(factor: Any) -> Any:
    return ops.cast(factor, "float32") if isinstance(factor, keras.Variable) else float(factor)


def _named(losses: Mapping[str, Average]) -> dict[str, Average]:
    """Return each loss by the name under which it is logged, if there are several."""
    return {f"{name}_loss": loss for name, loss in losses.items()} if len(losses) > 1 else {}


# Metrics.


def _metrics(given: Any) -> Any:
    """Return metrics as given, as lists and dicts of metric objects."""
    if given is None:
        return []
    if isinstance(given, Mapping):
        return {name: _metrics(entry) for name, entry in given.items()}
    if isinstance(given, list | tuple):
        return [
            _metrics(e) if e is None or isinstance(e, list | tuple) else as_metric(e) for e in given
        ]
    return [as_metric(given)]


def _flat(metrics: Any) -> Iterator[keras.Metric]:
    if isinstance(metrics, keras.Metric):
        yield metrics
    elif metrics is not None:
        for entry in metrics.values() if isinstance(metrics, Mapping) else metrics:
            yield from _flat(entry)


def _refuse_shared(metrics: Sequence[keras.Metric]) -> None:
    for index, metric in enumerate(metrics):
        if any(metric is other for other in metrics[:index]):
            raise ArgumentError(
                "metrics",
                f"<{metric.name!r} twice>",
                "a separate metric object at each place: one that is updated from two outputs "
                "averages both.",
                "create a second one.",
            )


def _metric_names(targets: Sequence[_Target]) -> dict[str, keras.Metric]:
    """Return each metric by the name under which Keras's `fit` logs it."""
    names: dict[str, keras.Metric] = {}
    for is_weighted in (False, True):
        for target in targets:
            prefix = "" if target.is_only else f"{target.name}_"
            for metric in target.weighted_metrics if is_weighted else target.metrics:
                name = f"{prefix}{metric.name}"
                if is_weighted and name in names:
                    name = f"{prefix}weighted_{metric.name}"
                base, number = name, 1
                while name in names:
                    name, number = f"{base}_{number}", number + 1
                names[name] = metric
    return names


# Arguments for each output.


def _for_each(outputs: Outputs, what: str, given: Any) -> list[Any]:
    """Return one entry for each output; a value that is not a list or dict applies to all."""
    if isinstance(given, Mapping | list | tuple):
        return outputs.each(what, given)
    if what == "loss_weights" and given is not None and len(outputs.names) > 1:
        raise outputs.mismatch(what, [given])
    return [given] * len(outputs.names)


def _metrics_for_each(outputs: Outputs, what: str, given: Any) -> list[list[keras.Metric]]:
    if not given:
        return [[] for _ in outputs.names]
    if len(outputs.names) == 1 and not isinstance(given, Mapping):
        return [list(_flat(given))]
    return [list(_flat(entry)) for entry in outputs.each(what, given)]


def _labels(
    outputs: Outputs, y: Any, wanted: Sequence[bool], has_loss: Sequence[bool]
) -> list[Any]:
    """Return the labels of each output; every wanted output has some."""
    if isinstance(y, Mapping | list | tuple):
        labels = outputs.each("y", y, has_loss)
    elif len(outputs.names) == 1:
        labels = [y]
    elif y is not None and sum(has_loss) == 1:
        labels = outputs.placed([y], has_loss)
    else:
        labels = [None] * len(outputs.names)
    if any(label is None for label, is_wanted in zip(labels, wanted, strict=True) if is_wanted):
        is_nested = isinstance(y, Mapping | list | tuple)
        raise outputs.mismatch("y", y if is_nested else [] if y is None else [y])
    return labels


def _weights(outputs: Outputs, weight: Any, has_loss: Sequence[bool]) -> list[Any]:
    """Return the sample weights of each output."""
    if isinstance(weight, Mapping | list | tuple):
        return outputs.each("sample_weight", weight, has_loss)
    return [weight] * len(outputs.names)


# Arguments.


def _optimizer(given: Any) -> keras.optimizers.Optimizer:
    try:
        return keras.optimizers.get(given)
    except ValueError:
        fix = "pass one of Keras's, such as `keras.optimizers.Adam(1e-3)`."
        if isinstance(given, type) and issubclass(given, keras.optimizers.Optimizer):
            fix = f"pass an instance: `keras.optimizers.{given.__name__}()`."
        elif is_loss(given):
            fix = "the order is `pg.Supervised(model, optimizer, loss)`."
        elif isinstance(given, str):
            known = [name.replace("_", "") for name in names_in(keras.optimizers)]
            fix = did_you_mean(given, known, form='`"{}"`') or fix
        raise ArgumentError("optimizer", shown(given), "an optimizer, or its name.", fix) from None


def _pairs(optimizer: Any) -> list[tuple[Any, Any]] | None:
    """Return (optimizer, group) pairs, or `None` if one optimizer was given."""
    if not isinstance(optimizer, list | tuple):
        return None
    pairs = [pair for pair in optimizer if isinstance(pair, list | tuple) and len(pair) == 2]
    if not optimizer or len(pairs) != len(optimizer):
        raise ArgumentError(
            "optimizer",
            f"<a {type(optimizer).__name__} of items other than pairs>",
            "an optimizer, or a list of (optimizer, group) pairs.",
            'pass `[(keras.optimizers.Adam(), model.head), (keras.optimizers.SGD(), "body/")]`.',
        )
    return [(optimizer, group) for optimizer, group in pairs]


def _checked_class_weight(given: Mapping[int, float] | None) -> dict[int, float] | None:
    if given is None:
        return None
    if any(int(key) != key or key < 0 for key in given):
        raise ArgumentError(
            "class_weight",
            repr(dict(given)),
            "a dict from class ids (integers, at least 0) to weights.",
            "number the classes from 0, as the labels do.",
        )
    return {int(key): float(weight) for key, weight in given.items()}
