"""Ordinary programs, and the ways of entering a strategy of one device around them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

import perigee as pg
from tests.backends.problems._problem import clusters

ROWS, BATCH = 22, 8
"""Three batches an epoch, the last one of 6 rows."""


def classifier() -> keras.Model:
    """Return a model with statistics, random draws and weight penalties."""
    layers = [
        keras.layers.Dense(6, kernel_regularizer=keras.regularizers.L2(0.01)),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.25, seed=3),
        keras.layers.Dense(3),
    ]
    return keras.Sequential([keras.Input((4,)), *layers], name="classes")


class Minimized(pg.Step):
    """A step with `minimize` and a metric, which evaluates and predicts."""

    def __init__(self, model):
        self.model = model
        self.optimizer = keras.optimizers.Adam(0.01, clipnorm=1.0)
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def train_step(self, batch):
        x, y = batch

        def objective():
            logits = self.model(x, training=True)
            return self.loss(y, logits), logits

        loss, logits = self.update(objective)
        self.accuracy.update_state(y, logits)
        return {"loss": loss}

    def update(self, objective):
        return self.minimize(objective, self.optimizer, self.model)

    def test_step(self, batch):
        x, y = batch
        logits = self.model(x, training=False)
        self.accuracy.update_state(y, logits)
        return {"loss": self.loss(y, logits)}

    def predict_step(self, batch):
        return self.model(batch[0] if isinstance(batch, tuple) else batch, training=False)


class Taped(Minimized):
    """The same with TensorFlow's own tape."""

    def train_step(self, batch):
        import tensorflow as tf

        x, y = batch
        with tf.GradientTape() as tape:
            logits = self.model(x, training=True)
            loss = self.loss(y, logits)
        gradients = tape.gradient(loss, self.model.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))
        self.accuracy.update_state(y, logits)
        return {"loss": loss}


class Conditional(Minimized):
    """Updates only if the loss is high, and counts in a variable."""

    def __init__(self, model):
        super().__init__(model)
        self.updates = keras.Variable(0, dtype="int32", trainable=False, name="updates")

    def update(self, objective):
        gradients = self.gradients(objective, self.model)
        high = ops.greater(gradients.loss, 1.0)
        self.apply(self.optimizer, gradients, when=high)
        self.updates.assign_add(ops.cast(high, "int32"))
        return gradients.returned


class Alternating(Minimized):
    """Two optimizers that take turns."""

    train_step = pg.alternate(head_step=2, body_step=1)

    def __init__(self, model):
        super().__init__(model)
        self.body = keras.optimizers.SGD(0.1, momentum=0.9)

    def head_step(self, batch):
        return {"head_loss": self._of(batch, self.optimizer, self.model.layers[-1:])}

    def body_step(self, batch):
        return {"body_loss": self._of(batch, self.body, self.model.layers[:-1])}

    def _of(self, batch, optimizer, layers):
        x, y = batch
        chosen = [layer.trainable_variables for layer in layers]
        return self.minimize(lambda: self.loss(y, self.model(x, training=True)), optimizer, chosen)


class Lazy(Minimized):
    """Builds its model in the first step, and draws from a generator of its own."""

    def __init__(self, model):
        del model
        super().__init__(keras.Sequential([keras.layers.Dense(6), keras.layers.Dense(3)]))
        self.seed = keras.random.SeedGenerator(5)

    def train_step(self, batch):
        x, y = batch
        return super().train_step((x + keras.random.normal(ops.shape(x), seed=self.seed), y))


def supervised(model):
    """Return the Step of what `compile` offers, with averaged weights."""
    return pg.Supervised(
        model,
        keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )


def compiled(model):
    """Compile a model by names."""
    model.add(keras.layers.Softmax())
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def wrapped(model):
    """Return the Step of a model that is compiled by names."""
    return pg.KerasStep(compiled(model))


def half(model):
    """Return a Step in half precision."""
    del model
    policy = keras.DTypePolicy("mixed_float16")
    layers = [keras.layers.Dense(6, dtype=policy), keras.layers.Dense(3, dtype=policy)]
    return Minimized(keras.Sequential([keras.Input((4,)), *layers], name="half"))


def weights(held):
    """Return the weights of a Step's model, or of a model."""
    return [np.asarray(w) for w in getattr(held, "model", held).get_weights()]


def fitted(**arguments: Any) -> Callable[[Any], Any]:
    """Return a function that fits a Step, with validation."""

    def use(step):
        settings = {"epochs": 2, "batch_size": BATCH, "seed": 7, "progress": "off", **arguments}
        history = pg.fit(step, clusters(ROWS), validation=clusters(9), **settings)
        return history.history, weights(step)

    return use


def from_tf_data(step):
    """Fit on a `tf.data.Dataset`."""
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(clusters(ROWS)).shuffle(ROWS, seed=3).batch(BATCH)
    history = pg.fit(step, data, epochs=2, validation=data, progress="off", seed=7)
    return history.history, weights(step)


def measured(step):
    """Evaluate and predict, before and after training."""
    found = []
    for _ in range(2):
        found.append(pg.evaluate(step, clusters(ROWS), batch_size=BATCH))
        found.append(np.asarray(pg.predict(step, clusters(ROWS)[0], batch_size=BATCH)))
        pg.fit(step, clusters(ROWS), batch_size=BATCH, progress="off", seed=7)
    return found


def checked(step):
    """Check the Step; its findings are those of one device."""
    return [finding.code for finding in pg.check(step, clusters(ROWS))], weights(step)


def by_hand(step):
    """Train in a loop of the user's own."""
    x, y = clusters(BATCH)
    found = []
    with pg.prepare(step) as loop:
        for _ in range(2):
            found.append(dict(loop.train_step((x, y))))
            loop.end_epoch()
        found += [dict(loop.test_step((x, y))), np.asarray(loop.predict_step((x, y)))]
    return found, weights(step)


def as_keras(model):
    """Fit a compiled model, with class weights, validation and callbacks."""
    lines = []

    class Lines(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            lines.append([epoch, sorted(logs)])

    x, y = clusters(ROWS)
    plateau = keras.callbacks.ReduceLROnPlateau(patience=0, min_delta=10.0)
    stopping = keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True)
    history = pg.keras_fit(
        model,
        x,
        y,
        batch_size=BATCH,
        epochs=3,
        shuffle=False,
        class_weight={0: 1.0, 1: 2.0, 2: 0.5},
        validation_data=clusters(9),
        callbacks=[Lines(), plateau, stopping],
        verbose=0,
    )
    later = pg.evaluate(pg.KerasStep(model), (x, y), batch_size=BATCH)
    return history.history, lines, later, weights(model)


@dataclass(frozen=True, slots=True)
class Program:
    """An ordinary program.

    Attributes:
        make: Makes a Step, or a compiled model, of the classifier.
        use: Trains it; returns numbers.
    """

    make: Callable[[Any], Any]
    use: Callable[[Any], Any]


def _held(step_class):
    return lambda model: step_class(model)


PROGRAMS = {
    "minimize": Program(_held(Minimized), fitted()),
    "a raw tape": Program(_held(Taped), fitted()),
    "a raw tape, eager": Program(_held(Taped), fitted(execution="eager")),
    "apply(when=)": Program(_held(Conditional), fitted()),
    "apply(when=), eager": Program(_held(Conditional), fitted(execution="eager")),
    "accumulate": Program(_held(Minimized), fitted(accumulate=2)),
    "accumulate(when=)": Program(_held(Conditional), fitted(accumulate=2)),
    "alternate": Program(_held(Alternating), fitted(epochs=3)),
    "XLA": Program(_held(Minimized), fitted(execution="xla")),
    "a raw tape, XLA": Program(_held(Taped), fitted(execution="xla")),
    "apply(when=), XLA": Program(_held(Conditional), fitted(execution="xla")),
    "eager": Program(_held(Minimized), fitted(execution="eager")),
    "single steps": Program(_held(Minimized), fitted(execution=pg.Execution("graph", 1))),
    "blocks": Program(_held(Minimized), fitted(execution=pg.Execution("graph", 16))),
    "nonfinite skip": Program(_held(Minimized), fitted(nonfinite="skip")),
    "a lazy model": Program(_held(Lazy), fitted()),
    "Supervised": Program(supervised, fitted()),
    "float16": Program(half, fitted()),
    "tf.data": Program(_held(Minimized), from_tf_data),
    "evaluate and predict": Program(_held(Minimized), measured),
    "check": Program(_held(Minimized), checked),
    "check of a raw tape": Program(_held(Taped), checked),
    "check of conditions": Program(_held(Conditional), checked),
    "prepare": Program(_held(Minimized), by_hand),
    "KerasStep": Program(wrapped, fitted()),
    "keras_fit": Program(compiled, as_keras),
}


def _set(strategy: Any) -> Any:
    import tensorflow as tf

    @contextlib.contextmanager
    def whole_program() -> Generator[None]:
        tf.distribute.experimental_set_strategy(strategy)
        try:
            yield
        finally:
            tf.distribute.experimental_set_strategy(None)

    return whole_program()


WAYS = {
    "model": {"model"},
    "step": {"step"},
    "make": {"model", "step"},
    "fit": {"fit"},
    "both": {"model", "step", "fit"},
    "step and fit": {"step", "fit"},
    "model and fit": {"model", "fit"},
    "whole program": {"all"},
}
"""What is done inside the scope: the model is made, or the Step and its other parts, or both; it
is fitted; or the strategy is set for the whole program."""


STRATEGIES = ("OneDevice", "Mirrored")


@functools.cache
def _made(kind: str, device: str) -> Any:
    import tensorflow as tf

    if kind == "OneDevice":
        return tf.distribute.OneDeviceStrategy(device)
    return tf.distribute.MirroredStrategy([device], tf.distribute.ReductionToOneDevice())


def strategy_of(kind: str, name: str, way: str) -> Any:
    """Return a strategy for a program.

    It is that of another device than TensorFlow's own choice, unless XLA is to read variables that
    are made outside the scope too: it cannot read those of two devices.
    """
    is_split = "XLA" in name and way not in ("make", "both", "whole program")
    return _made(kind, "CPU:0" if is_split else "CPU:1")


def ran(name: str, strategy: Any = None, way: str = "none") -> Any:
    """Run a program, with the weights and names of a new process."""
    inside = WAYS.get(way, set())

    def scope(part: str) -> Any:
        return strategy.scope() if part in inside else contextlib.nullcontext()

    keras.utils.clear_session()
    keras.utils.set_random_seed(7)
    program = PROGRAMS[name]
    with _set(strategy) if "all" in inside else contextlib.nullcontext():
        with scope("model"):
            model = classifier()
        with scope("step"):
            step = program.make(model)
        with scope("fit"):
            return program.use(step)
