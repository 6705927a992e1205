"""A training of a design by Keras and Perigee."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

import perigee as pg
from tests.oracle.interpreter import Course, Design, Optimizer, Outcome, Rows

BACKEND = keras.backend.backend()


class Kept(keras.Layer):
    """Dropout of one half, by a given mask."""

    def call(self, given: Any, training: bool = False) -> Any:
        values, keep = given
        return values * keep * 2.0 if training else values


class Pool(keras.Layer):
    """The mean over ids that are not 0."""

    def call(self, given: Any) -> Any:
        values, ids = given
        mask = ops.cast(ops.not_equal(ids, 0), values.dtype)
        mask = mask / ops.maximum(ops.sum(mask, 1, keepdims=True), 1.0)
        return ops.sum(values * ops.expand_dims(mask, -1), 1)


class Activity(keras.Layer):
    """Adds the mean square of its input to the loss."""

    def __init__(self, factor: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor, self.supports_masking = factor, True

    def call(self, values: Any) -> Any:
        self.add_loss(self.factor * ops.mean(ops.square(values)))
        return values


def model_of(design: Design, data: Rows) -> keras.Model:
    """Return the model, its layers named by their numbers."""
    needed = [name for name in ("x", "keep") if name in data]
    inputs = {k: keras.Input(data[k].shape[1:], dtype=data[k].dtype, name=k) for k in needed}
    h = inputs["x"]
    for number, layer in enumerate(design.layers):
        name = f"layer{number}"
        if layer.kind == "embedding":
            masks = design.masks and design.way.startswith("keras")
            h = layers.Embedding(*layer.size, mask_zero=masks, name=name)(h)
        elif layer.kind == "pool":
            h = Pool(name=name)([h, inputs["x"]])
        elif layer.kind == "dense":
            l2 = keras.regularizers.L2(layer.penalty) if layer.penalty else None
            h = layers.Dense(
                layer.size[0],
                layer.activation,
                layer.has_bias,
                kernel_regularizer=l2,
                name=name,
            )(h)
        elif layer.kind == "batchnorm":
            h = layers.BatchNormalization(momentum=layer.momentum, name=name)(h)
        elif layer.kind == "dropout":
            h = Kept(name=name)([h, inputs["keep"]])
        else:
            h = Activity(layer.penalty, name=name)(h)
    return keras.Model(inputs, h)


def optimizer_of(given: Optimizer) -> keras.optimizers.Optimizer:
    """Return the optimizer."""
    rate: Any = given.rate
    if given.schedule == "staircase":
        rate = keras.optimizers.schedules.ExponentialDecay(rate, 3, 0.5, staircase=True)
    elif given.schedule == "pieces":
        values = [rate, rate * 0.25, rate * 2.0]
        rate = keras.optimizers.schedules.PiecewiseConstantDecay([2, 5], values)
    options: dict[str, Any] = {} if given.clip is None else dict([given.clip])
    options["weight_decay"] = given.weight_decay
    if given.ema is not None:
        options |= {"use_ema": True, "ema_momentum": given.ema}
        options["ema_overwrite_frequency"] = given.overwrites_every
    if given.betas is None:
        return keras.optimizers.SGD(rate, given.momentum, given.nesterov, **options)
    return keras.optimizers.Adam(
        rate, *given.betas, epsilon=given.epsilon, amsgrad=given.amsgrad, **options
    )


LOSSES = {
    "mse": lambda: keras.losses.MeanSquaredError(),
    "bce": lambda: keras.losses.BinaryCrossentropy(from_logits=True),
    "classes": lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
}
METRICS = {
    "mse": lambda name: keras.metrics.MeanSquaredError(name=name),
    "bce": lambda name: keras.metrics.BinaryAccuracy(name=name, threshold=0.0),
    "classes": lambda name: keras.metrics.SparseCategoricalAccuracy(name=name),
}


def groups_of(model: keras.Model) -> list[list[Any]]:
    """Return the variables of the first layer, and the others."""
    first = model.get_layer("layer0").trainable_variables
    return [first, [v for v in model.trainable_variables if all(v is not f for f in first)]]


class Own(pg.Step):
    """A step as a user writes it."""

    def __init__(self, design: Design, model: keras.Model, optimizers: Any) -> None:
        self.design, self.model, self.optimizer = design, model, optimizers
        self.loss = LOSSES[design.loss]()
        self.loss.reduction = None
        self.plain, self.weighted = METRICS[design.loss]("plain"), METRICS[design.loss]("weighted")

    def weights(self, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        if not self.design.masks:
            return None, batch["weight"]
        mask = ops.cast(ops.not_equal(batch["x"], 0), batch["weight"].dtype)
        return mask, batch["weight"] * mask

    def measure(self, batch: Mapping[str, Any], training: bool) -> tuple[Any, Any]:
        inputs = {name: batch[name] for name in ("x", "keep") if name in batch}
        output = self.model(inputs, training=training)
        values = self.loss(batch["y"], output)
        if self.design.way == "scalar":
            return ops.mean(values), output
        if self.design.way == "vector":
            return values if len(values.shape) == 1 else ops.mean(values, -1), output
        loss = pg.mean(values, self.weights(batch)[1])
        if self.design.way == "two averages":
            loss = loss + 0.5 * pg.mean(ops.square(output))
        return loss, output

    def update_metrics(self, batch: Mapping[str, Any], output: Any) -> None:
        plain, weighted = self.weights(batch)
        self.plain.update_state(batch["y"], output, sample_weight=plain)
        self.weighted.update_state(batch["y"], output, sample_weight=weighted)

    def train_step(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        def objective() -> Any:
            return self.measure(batch, True)

        if isinstance(self.optimizer, list) or self.design.gated:
            when = ops.max(batch["gate"]) > 0 if self.design.gated else None
            gradients = self.gradients(objective, self.model)
            pairs = [(self.optimizer, self.model.trainable_variables)]
            if isinstance(self.optimizer, list):
                pairs = zip(self.optimizer, groups_of(self.model), strict=True)
            for optimizer, group in pairs:
                self.apply(optimizer, gradients.of(group), when=when)
            loss, output = gradients.returned
        else:
            loss, output = self.minimize(objective, self.optimizer, self.model)
        self.update_metrics(batch, output)
        return {"loss": loss}

    def test_step(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        loss, output = self.measure(batch, False)
        self.update_metrics(batch, output)
        return {"loss": loss}


class Heard(pg.Hook):
    """Keeps what is recorded."""

    def __init__(self) -> None:
        self.records: list[tuple[str, int, dict[str, float]]] = []

    def on_record(self, event: Any) -> None:
        self.records.append((event.scope, event.clock.step, dict(event.values)))


class Trained:
    """A design, made once, and trained from given weights as often as asked."""

    def __init__(self, design: Design, data: Rows, feed: str, execution: Any) -> None:
        self.design, self.feed, self.execution = design, feed, execution
        self.model = model_of(design, data)
        made = [optimizer_of(given) for given in design.optimizers]
        groups = [self.model.trainable_variables] if len(made) == 1 else groups_of(self.model)
        for optimizer, group in zip(made, groups, strict=True):
            optimizer.build(group)
        self.optimizers = dict(enumerate(made))
        if design.way.startswith("keras"):
            pairs = list(zip(made, groups, strict=True))
            metric = METRICS[design.loss]
            self.step: pg.Step = pg.Supervised(
                self.model,
                made[0] if len(made) == 1 else pairs,
                LOSSES[design.loss](),
                [metric("plain")],
                weighted_metrics=[metric("weighted")],
            )
        else:
            self.step = Own(design, self.model, made[0] if len(made) == 1 else made)

    def variables(self) -> dict[str, Any]:
        """Return weights and slots by the names that the interpreter gives them."""
        found = {}
        for layer in self.model.layers:
            number = layer.name.removeprefix("layer")
            found |= {f"{number}/{weight.name}": weight for weight in layer.weights}
        of = {weight.path.replace("/", "_"): name for name, weight in found.items()}
        for index, optimizer in self.optimizers.items():
            for variable in optimizer.variables:
                name = variable.name
                if name == "iteration":
                    found[f"{index}/iteration"] = variable
                elif name != "learning_rate":
                    path = max((p for p in of if name.startswith(p)), key=len)
                    found[f"{index}/{of[path]}/{name[len(path) + 1 :]}"] = variable
        return found

    def train(
        self, weights: Rows, data: Rows, validation: Rows | None, course: Course, cut: int | None
    ) -> Outcome:
        """Train from the start, or to a cut and on from there."""
        for name, variable in self.variables().items():
            variable.assign(weights.get(name, np.zeros(variable.shape)))
        heard = Heard()
        options: dict[str, Any] = {
            "epochs": course.epochs,
            "steps": course.steps,
            "steps_per_epoch": course.steps_per_epoch,
            "accumulate": self.design.accumulate,
            "nonfinite": "skip" if self.design.skips else "raise",
            "execution": self.execution,
            "callbacks": [heard],
            "progress": "off",
            "guards": "off",
        }
        if self.feed == "arrays":
            options |= {"batch_size": course.batch_size, "shuffle": False}
        if validation is not None:
            kind, every = course.validate_every
            options["validation"] = self._batches(validation, 4)
            options["validate_every"] = pg.Every(**{kind: every})
        with tempfile.TemporaryDirectory() as folder:
            if course.record_every or cut:
                every = pg.Every(steps=course.record_every or 10**6)
                options["run"] = pg.Run(Path(folder) / "run", record_every=every)
            if cut:
                first = {"steps": cut, "epochs": None}
                pg.fit(self.step, self._fed(data, course), **options | first)
                per_epoch = course.steps_per_epoch or -(-len(data["y"]) // course.batch_size)
                if cut % per_epoch or not course.knows_length:  # what the epoch so far came to
                    heard.records.pop()
                # As a new process would have it: nothing of the first part is left.
                for variable in self.variables().values():
                    variable.assign(np.zeros(variable.shape))
            pg.fit(self.step, self._fed(data, course), **options)
        held = {name: keras.ops.convert_to_numpy(v) for name, v in self.variables().items()}
        return Outcome(heard.records, held)

    def _fed(self, data: Rows, course: Course) -> Any:
        if self.feed == "arrays":
            return self._batch(data)
        batches = self._batches(data, course.batch_size)
        return batches if self.feed == "list" else lambda: iter(batches)

    def _batches(self, data: Rows, size: int) -> list[Any]:
        starts = range(0, len(data["y"]), size)
        return [self._batch({k: v[at : at + size] for k, v in data.items()}) for at in starts]

    def _batch(self, data: Rows) -> Any:
        data = {
            k: v.astype(keras.config.floatx()) if v.dtype.kind == "f" else v
            for k, v in data.items()
        }
        if not self.design.way.startswith("keras"):
            return data
        inputs = {name: data[name] for name in ("x", "keep") if name in data}
        pair = inputs, data["y"]
        return pair if self.design.way == "keras" else (*pair, data["weight"])
