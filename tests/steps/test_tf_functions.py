"""Functions that the user compiles by `tf.function` in and around a Step change no number."""

import warnings

import keras
import numpy as np
import pytest

import perigee as pg

pytestmark = pytest.mark.only_tensorflow

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    compiled, signature = tf.function, tf.TensorSpec
else:  # the module is imported with every framework
    compiled = signature = lambda *args, **kwargs: lambda function: function
    tf = None

ROWS, FEATURES, CLASSES, BATCH_SIZE = 24, 4, 3, 10
cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def data():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(ROWS, FEATURES)).astype("float32")
    return x, draw.integers(0, CLASSES, ROWS)


def seeded(make):
    """Return a model with the same weights, whoever makes it."""
    keras.utils.set_random_seed(3)
    model = make()
    model(np.zeros((1, FEATURES), "float32"))
    kernel = np.random.default_rng(1).normal(size=(FEATURES, CLASSES))
    model.set_weights([kernel, np.zeros(CLASSES)])
    return model


def dense():
    return keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)])


class Base(pg.Step):
    def __init__(self, make=dense):
        self.model = seeded(make)
        self.optimizer = keras.optimizers.Adam(0.01)

    def objective(self, batch):
        return cross_entropy(batch[1], self.model(batch[0], training=True))


class Plain(Base):
    def train_step(self, batch):
        return {"loss": self.minimize(lambda: self.objective(batch), self.optimizer)}


class Whole(Base):
    @compiled
    def train_step(self, batch):
        return {"loss": self.minimize(lambda: self.objective(batch), self.optimizer)}

    @compiled
    def test_step(self, batch):
        return {"loss": self.objective(batch)}

    @compiled(reduce_retracing=True)
    def predict_step(self, batch):
        return self.model(batch[0])


class ByXLA(Base):
    @compiled(jit_compile=True)
    def train_step(self, batch):
        return {"loss": self.minimize(lambda: self.objective(batch), self.optimizer)}


class Tutorial(Base):
    """As the guides write it."""

    @compiled
    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = cross_entropy(y, self.model(x, training=True))
        weights = self.model.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}


class Signed(Base):
    @compiled(
        input_signature=[
            signature([None, FEATURES], "float32"),
            signature([None], "int64"),
            signature([], "float32"),
        ]
    )
    def _update(self, x, y, factor):
        self.factor_type = factor.dtype  # a Python number became a tensor
        return self.minimize(lambda: self.objective((x, y)) * factor, self.optimizer)

    def train_step(self, batch):
        return {"loss": self._update(*batch, 1.0)}


class Held(Base):
    """Holds a compiled function, with a condition that is rewritten."""

    def __init__(self):
        super().__init__()
        self.update = compiled(self._update)

    def _update(self, x, y):
        if tf.reduce_mean(x) > 100.0:
            x = x * 2.0
        return self.minimize(lambda: self.objective((x, y)), self.optimizer)

    def train_step(self, batch):
        return {"loss": self.update(*batch)}


@compiled
def update(step, batch):
    losses = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    return step.minimize(lambda: losses(batch[1], step.model(batch[0])), step.optimizer)


class Outside(Base):
    """Its verbs are called in a function of the module, traced by several programs."""

    def train_step(self, batch):
        return {"loss": update(self, batch)}

    def test_step(self, batch):
        return {"loss": update(self, batch)}


@compiled
def loss_of(y, logits):
    if tf.reduce_mean(logits) > 1000.0:
        logits = logits / 2.0
    return cross_entropy(y, logits)


class LossOutside(Plain):
    def objective(self, batch):
        return loss_of(batch[1], self.model(batch[0]))


class ByRows(Plain):
    """Calls its model for each row, and control flow of TensorFlow besides."""

    def objective(self, batch):
        x, y = batch
        logits = tf.vectorized_map(lambda row: self.model(row[None])[0], x)
        squares = tf.map_fn(lambda row: tf.reduce_sum(tf.square(row)), logits)
        one = tf.cond(tf.reduce_sum(squares) > 0.0, lambda: 1.0, lambda: 2.0)
        three = tf.while_loop(lambda i: i < 3.0, lambda i: (i + 1.0,), [0.0])[0]
        return cross_entropy(y, logits) * one * three / 3.0


@compiled
def slope(model, x):
    return tf.reduce_mean(tf.gradients(tf.reduce_sum(model(x)), x)[0])


class InGraphsOnly(Plain):
    def objective(self, batch):
        return super().objective(batch) + 0.0 * slope(self.model, batch[0])


class CalledCompiled(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(CLASSES)
        self.mean = keras.metrics.Mean(name="loss")

    @compiled
    def call(self, x, training=False):
        return self.dense(x)


class Compiled(CalledCompiled):
    @compiled
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self.mean.update_state(loss, sample_weight=tf.shape(x)[0])
        return {"loss": self.mean.result()}


def of_keras():
    model = seeded(Compiled)
    model.compile(keras.optimizers.Adam(0.01), cross_entropy)
    return pg.KerasStep(model)


STEPS = {
    "whole": Whole,
    "by XLA": ByXLA,
    "tutorial": Tutorial,
    "signed": Signed,
    "held": Held,
    "outside": Outside,
    "loss outside": LossOutside,
    "by rows": ByRows,
    "in graphs only": InGraphsOnly,
    "call": lambda: Plain(CalledCompiled),
    "model": of_keras,
}


def losses(make, execution="graph", epochs=2, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error", pg.PerigeeWarning)
        history = pg.fit(
            make(),
            data(),
            epochs=epochs,
            batch_size=BATCH_SIZE,
            shuffle=False,
            execution=execution,
            progress="off",
            **settings,
        )
    return history.history["loss"]


@pytest.fixture(scope="module")
def plain():
    return losses(Plain)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_with_compiled_functions_trains_as_without(name, plain):
    assert losses(STEPS[name]) == pytest.approx(plain, rel=2e-6)


@pytest.mark.parametrize("execution", ["xla", "eager"])
@pytest.mark.parametrize("name", ["whole", "signed", "outside", "by rows"])
def test_however_it_is_executed(name, execution, plain):
    assert losses(STEPS[name], execution) == pytest.approx(plain, rel=2e-6)


def test_micro_batches_are_accumulated():
    assert losses(Whole, accumulate=2) == pytest.approx(losses(Plain, accumulate=2), rel=2e-6)


@pytest.mark.parametrize("name", ["whole", "signed", "outside", "by rows", "in graphs only"])
def test_check_finds_nothing(name):
    assert pg.check(STEPS[name](), data()).findings == ()


def test_wrong_labels_are_seen_inside_a_compiled_function():
    x, y = data()
    with pytest.raises(pg.PerigeeError, match="PG205"):
        pg.fit(STEPS["loss outside"](), (x, y + CLASSES), progress="off")


def test_evaluate_predict_and_prepare_take_compiled_methods():
    step, (x, y) = Whole(), data()
    measured = pg.evaluate(step, (x, y))["loss"]
    expected = float(cross_entropy(y, step.model(x)))
    assert measured == pytest.approx(expected, rel=1e-5)
    assert pg.predict(step, (x, y)).shape == (ROWS, CLASSES)
    with pg.prepare(step) as trainer:
        while trainer.goes_on(steps=4):
            trainer.train_step((x[:8], y[:8]))
            trainer.train_step((x[:5], y[:5]))
    assert int(step.optimizer.iterations) == 4


def test_functions_run_compiled_again_after_a_rehearsal():
    losses(Whole)
    assert not tf.config.functions_run_eagerly()


def test_a_compiled_method_that_ran_before_still_has_its_object():
    class Trainer:
        def __init__(self):
            self.model = seeded(lambda: keras.Sequential([keras.layers.Dense(CLASSES)]))
            self.optimizer = keras.optimizers.SGD(0.1)

        @compiled
        def step(self, x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(cross_entropy(y, self.model(x, training=True)))
            gradients = tape.gradient(loss, self.model.trainable_variables)
            self.optimizer.apply(gradients, self.model.trainable_variables)

    trainer = Trainer()
    trainer.step(*data())
    pg.fit(pg.FunctionStep(trainer.step), data(), epochs=1, batch_size=BATCH_SIZE, progress="off")

    assert int(trainer.optimizer.iterations) == 1 + -(-ROWS // BATCH_SIZE)
