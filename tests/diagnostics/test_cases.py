"""Small programs that users wrote: of each, what is right is said, and no more."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import losses, ops

import perigee as pg

ROWS, FEATURES = 256, 5

pytestmark = [pytest.mark.once]


def inputs(seed=0):
    return np.random.default_rng(seed).normal(size=(ROWS, FEATURES)).astype("float32")


def network(*layers):
    return keras.Sequential([keras.Input((FEATURES,)), *layers])


def compiled(model, loss, **options):
    model.compile("adam", loss, **options)
    return model


def codes(report):
    return [finding.code for finding in report]


class Classifier(pg.Step):
    def __init__(self, loss=None, optimizer=None, first=0):
        self.model = network(kl.Dense(16, activation="relu"), kl.Dense(3))
        self.optimizer = optimizer or keras.optimizers.Adam(1e-2)
        self.loss = loss or losses.SparseCategoricalCrossentropy(from_logits=True)
        self.first = first

    def train_step(self, batch):
        x, y, *_ = batch
        values = lambda: self.loss(y, self.model(x, training=True))  # noqa: E731
        return {"loss": self.minimize(values, self.optimizer, self.model)}


# Programs that are right.


@pytest.mark.spread(2)
@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        losses.sparse_categorical_crossentropy,
        losses.SparseCategoricalCrossentropy(),
    ],
    ids=["name", "function", "object"],
)
@pytest.mark.parametrize("column", [False, True])
def test_ids_fit_a_sparse_loss_however_it_is_given(loss, column):
    x = inputs()
    y = x[:, :3].argmax(axis=1)[:, None] if column else x[:, :3].argmax(axis=1)
    head = kl.Dense(3, activation="softmax")
    model = compiled(network(kl.Dense(16, activation="relu"), head), loss, metrics=["accuracy"])

    assert codes(pg.check(model, (x, y))) == []
    assert pg.keras_fit(model, x, y, verbose=0).history["loss"]


def test_classes_that_a_loss_leaves_out_are_no_wrong_labels():
    x = inputs()
    y = np.where(np.arange(ROWS) % 4, x[:, :3].argmax(axis=1), -1)
    head = kl.Dense(3, activation="softmax")
    model = network(kl.Dense(8, activation="relu"), head)
    loss = losses.SparseCategoricalCrossentropy(ignore_class=-1)

    assert codes(pg.check(pg.Supervised(model, "sgd", loss), (x, y))) == []


def test_void_pixels_are_no_wrong_labels():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(16, 8, 8, 3)).astype("float32")
    y = draw.choice([0, 1, 2, 255], size=(16, 8, 8))
    head = kl.Conv2D(3, 3, padding="same", activation="softmax")
    loss = losses.SparseCategoricalCrossentropy(ignore_class=255)
    model = compiled(keras.Sequential([keras.Input((8, 8, 3)), head]), loss)

    assert codes(pg.check(model, (x, y))) == []


class Weighted(Classifier):
    def train_step(self, batch):
        x, y, weights = batch
        values = lambda: pg.mean(self.loss(y, self.model(x, training=True)), weights)  # noqa: E731
        return {"loss": self.minimize(values, self.optimizer, self.model)}


@pytest.mark.parametrize("kind", [Classifier, Weighted])
def test_a_loss_that_reduces_nothing_is_right(kind):
    x, weights = inputs(), np.ones(ROWS, "float32")
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    data = x, x[:, :3].argmax(axis=1), weights

    assert codes(pg.check(kind(loss), data)) == []
    assert pg.fit(kind(loss), data, progress="off").findings == []


class TwoKinds(pg.Step):
    """An actor and a critic, trained by batches of two structures."""

    def __init__(self):
        self.actor, self.critic = network(kl.Dense(1)), network(kl.Dense(1))
        self.slow, self.fast = keras.optimizers.Adam(3e-4), keras.optimizers.Adam(1e-3)

    def train_step(self, batch):
        def error(model, target):
            return ops.square(target - model(batch["seen"], training=True))[:, 0]

        if "advantage" in batch:
            values = lambda: error(self.actor, batch["advantage"])  # noqa: E731
            return {"actor": self.minimize(values, self.slow, self.actor)}
        values = lambda: error(self.critic, batch["return"])  # noqa: E731
        return {"critic": self.minimize(values, self.fast, self.critic)}


def test_batches_of_two_structures_are_judged_together():
    seen = inputs()[:8]
    with pg.prepare(TwoKinds(), steps_per_epoch=4, progress="off") as trainer:
        for _ in range(2):
            trainer.train_step({"seen": seen, "advantage": seen[:, :1]})
            trainer.train_step({"seen": seen, "return": seen[:, 1:2]})

    assert trainer.history.findings == []
    rates = trainer.history.history
    assert rates["slow/learning_rate"] == pytest.approx([3e-4])
    assert rates["fast/learning_rate"] == pytest.approx([1e-3])


class OfAnySize(pg.Step):
    def __init__(self):
        layers = [kl.Conv2D(2, 3, padding="same"), kl.GlobalMaxPooling2D(), kl.Dense(1)]
        self.model = keras.Sequential([keras.Input((None, None, 1)), *layers])
        self.optimizer = keras.optimizers.SGD(0.01)

    def train_step(self, batch):
        x, y = batch
        values = lambda: ops.square(y - self.model(x, training=True))[:, 0]  # noqa: E731
        return {"loss": self.minimize(values, self.optimizer, self.model)}


@pytest.mark.only_tensorflow
def test_sizes_that_cost_no_compilation_are_not_told():
    draw, y = np.random.default_rng(0), np.zeros((4, 1), "float32")
    sizes = [(width, height) for width in (8, 12, 16, 20) for height in (3, 5, 6)]
    with pg.prepare(OfAnySize(), progress="off") as trainer:
        for size in sizes:
            trainer.train_step((draw.normal(size=(4, *size, 1)).astype("float32"), y))

    assert trainer.history.findings == []


# Programs with a fault, or several.


@pytest.mark.filterwarnings("ignore:In loss categorical_crossentropy:SyntaxWarning")
def test_what_would_be_hidden_by_a_refusal_is_told_as_well():
    x = 255 * inputs()
    layers = [kl.Dense(8), kl.Dense(8), kl.Dense(1, activation="softmax")]
    model = compiled(network(*layers), losses.CategoricalCrossentropy(), metrics=["accuracy"])

    first, *others = pg.check(model, (x, (x[:, 0] > 0).astype("int32")))

    assert first.code == "PG204" and "`BinaryCrossentropy`" in first.fix
    assert [each.partition(" ")[0] for each in first.explains] == ["PG224", "PG221"]
    assert codes(others) == ["PG321", "PG123"]


@pytest.mark.parametrize("classes", [3, 100])
def test_sigmoids_before_a_categorical_loss_have_no_wrong_sign(classes):
    y = np.eye(classes, dtype="float32")[np.random.default_rng(0).integers(0, classes, ROWS)]
    initial = {"kernel_initializer": "random_uniform"}
    head = kl.Dense(classes, activation="sigmoid", **initial)
    model = network(kl.Dense(16, activation="relu", **initial), head)

    report = pg.check(compiled(model, losses.CategoricalCrossentropy()), (inputs(), y))

    # The labels are of chance, as a hint says.
    assert [f.code for f in report if f.severity != "hint"] == ["PG223"]


TARGETS = {
    "a column": lambda t: t[:, None].astype("float32"),
    "a vector": lambda t: t.astype("float32"),
    "in float64": lambda t: t.astype("float64"),
    "integers": lambda t: np.round(3 * t[:, None]).astype("int64"),
}


@pytest.mark.spread(3)
@pytest.mark.parametrize("shape", TARGETS)
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_targets_of_any_shape_and_dtype_are_compared_with_the_head(activation, shape):
    x = inputs()
    y = TARGETS[shape](3 * x[:, 0] - 2 * x[:, 1])
    head = kl.Dense(1, activation=activation)
    model = compiled(network(kl.Dense(16, activation="relu"), head), "mse")

    assert "PG226" in codes(pg.check(model, (x, y)))


@pytest.mark.spread(2)
@pytest.mark.parametrize("shape", TARGETS)
def test_targets_of_any_shape_and_dtype_may_be_too_large(shape):
    x = inputs()
    y = TARGETS[shape](5e3 * (3 * x[:, 0] - 2 * x[:, 1]))
    model = compiled(network(kl.Dense(16, activation="relu"), kl.Dense(1)), "mse")

    assert "PG325" in codes(pg.check(model, (x, y)))


def test_an_activation_in_a_layer_of_a_model_within_the_model_is_seen():
    x = inputs()
    head = keras.Sequential([kl.Dense(1), kl.Activation("sigmoid")])
    model = compiled(network(kl.Dense(16, activation="relu"), head), "mse")

    assert codes(pg.check(model, (x, 3 * x[:, :1]))) == ["PG226"]


class Nothing(Classifier):
    """Forgets `minimize`."""

    def train_step(self, batch):
        x, y = batch
        return {"loss": self.loss(y, self.model(x, training=True))}


@pytest.mark.filterwarnings("ignore::perigee.PerigeeWarning")
def test_a_step_that_trains_nothing_is_told_by_fit_and_by_check():
    x = inputs()
    data = x, x[:, :3].argmax(axis=1)

    assert codes(pg.fit(Nothing(), data, progress="off").findings) == ["PG112"]
    assert codes(pg.check(Nothing(), data)) == ["PG112"]


class OfATape(Classifier):
    def train_step(self, batch):
        import tensorflow as tf

        x, y = batch
        with tf.GradientTape() as tape:
            loss = self.loss(y, self.model(x, training=True))
        variables = self.model.trainable_variables[self.first :]
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


@pytest.mark.only_tensorflow
@pytest.mark.filterwarnings("ignore::perigee.PerigeeWarning")
def test_a_tape_of_half_of_the_variables_is_told():
    x = inputs()
    data = x, x[:, :3].argmax(axis=1)

    assert codes(pg.check(OfATape(first=2), data)) == ["PG110"]
    assert codes(pg.fit(OfATape(first=2), data, progress="off").findings) == ["PG110"]


@pytest.mark.only_tensorflow
def test_a_loss_that_a_tape_does_not_scale_is_refused():
    x = inputs()
    data = x, x[:, :3].argmax(axis=1)

    def step():
        return OfATape(optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)))

    assert codes(pg.check(step(), data)) == ["PG411"]
    with pytest.raises(pg.PerigeeError, match="PG411"):
        pg.fit(step(), data, progress="off")


# Values that are not finite.


def test_a_nan_that_a_relu_swallows_is_found_in_the_weights():
    x = inputs()
    y = (x[:, 0] > 0).astype("int32")
    x[200, 3] = np.nan

    with pytest.raises(FloatingPointError, match=r"it began in the data: batch\[0\] holds nan"):
        pg.fit(Classifier(), (x, y), progress="off")


class Root(pg.Step):
    """A root has no gradient at 0."""

    def __init__(self):
        last = kl.Dense(1, activation="relu")
        self.model = network(kl.Dense(16, activation="relu"), last)
        self.optimizer = keras.optimizers.Adam(1e-2)

    def train_step(self, x):
        values = lambda: ops.mean(ops.sqrt(self.model(x, training=True)))  # noqa: E731
        return {"loss": self.minimize(values, self.optimizer, self.model)}


def test_weights_that_become_nan_under_a_finite_loss_end_the_training():
    with pytest.raises(FloatingPointError, match="in the gradients of step 1, whose loss was fin"):
        pg.fit(Root(), inputs(), progress="off")


def test_keras_fit_advises_what_it_has():
    model = network(kl.Dense(1))
    model.compile(keras.optimizers.SGD(1e6), "mse")
    x, y = np.ones((64, FEATURES), "float32"), np.ones((64, 1), "float32")

    with pytest.raises(FloatingPointError, match=r"keras\.callbacks\.TerminateOnNaN\(\)"):
        pg.keras_fit(model, x, y, batch_size=4, epochs=3, verbose=0)
