"""Faults of published training loops that run without an error and train something else."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import UntrackedVariablesError, UnusedVariablesError

LEARNING_RATE = 0.1
ROWS, FEATURES, CLASSES = 6, 3, 4


def inputs():
    return np.random.default_rng(20).normal(size=(ROWS, FEATURES)).astype("float32")


def targets():
    return np.random.default_rng(21).normal(size=(ROWS, 1)).astype("float32")


def labels():
    return (np.arange(ROWS) % CLASSES).astype("int32")


def dense(units, features=FEATURES, **arguments):
    layer = keras.layers.Dense(units, **arguments)
    return keras.Sequential([keras.layers.Input((features,)), layer])


def fit(step, *batches, epochs=1):
    return pg.fit(step, list(batches), epochs=epochs, progress="off")


def has_moved(model, before):
    return any((a != b).any() for a, b in zip(model.get_weights(), before, strict=True))


class Regression(pg.Step):
    """Least squares by hand."""

    def __init__(self, model, optimizer=None):
        self.model = model
        self.optimizer = optimizer or keras.optimizers.SGD(LEARNING_RATE)

    def train_step(self, batch):
        x, y = batch

        def objective():
            return ops.mean(ops.square(y - ops.cast(self.model(x, training=True), "float32")))

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def mean_squared_error(weights):
    kernel, bias = weights
    return np.mean((inputs() @ kernel + bias - targets()) ** 2)


def test_fault_1_an_encoder_that_runs_outside_the_objective_is_refused():
    """Its output is a constant to the gradient, so it would never be trained."""

    class OutsideTheObjective(pg.Step):
        def __init__(self):
            self.encoder, self.decoder = dense(2), dense(FEATURES, features=2)
            self.optimizer = keras.optimizers.SGD(LEARNING_RATE)

        def train_step(self, batch):
            code = self.encoder(batch, training=True)

            def objective():
                return ops.mean(ops.square(batch - self.decoder(code, training=True)))

            both = [self.encoder, self.decoder]
            return {"loss": self.minimize(objective, self.optimizer, both)}

    step = OutsideTheObjective()
    before = step.decoder.get_weights()

    with pytest.raises(UnusedVariablesError, match="PG101") as raised:
        fit(step, inputs())

    assert [name.split("/")[0] for name in raised.value.unused] == ["encoder", "encoder"]
    assert not has_moved(step.decoder, before)


@pytest.mark.only_tensorflow
def test_fault_2_a_variable_of_the_framework_in_a_layer_is_refused():
    """Keras does not track it, so a codebook made of one would never learn."""
    import tensorflow as tf

    class Codebook(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.codes = tf.Variable(tf.ones((FEATURES,)), name="codes")

        def call(self, values):
            return values * self.codes

    step = Regression(
        keras.Sequential([keras.layers.Input((FEATURES,)), Codebook(), *dense(1).layers])
    )

    with pytest.raises(UntrackedVariablesError, match="PG102") as raised:
        fit(step, (inputs(), targets()))

    assert len(raised.value.untracked) == 1
    assert "codes" in raised.value.untracked[0]


def test_fault_3_a_teacher_is_not_trained_by_the_loss_of_its_student():
    """Only the variables that an update names move, although the gradient reaches others."""

    class Distill(pg.Step):
        def __init__(self):
            self.teacher, self.student = dense(CLASSES), dense(CLASSES)
            self.optimizer = keras.optimizers.Adam(LEARNING_RATE)

        def train_step(self, batch):
            def objective():
                soft = ops.softmax(self.teacher(batch, training=False))
                return keras.losses.kl_divergence(
                    soft, ops.softmax(self.student(batch, training=True))
                )

            return {"loss": self.minimize(objective, self.optimizer, self.student)}

    step = Distill()
    teacher, student = step.teacher.get_weights(), step.student.get_weights()

    with pytest.warns(UserWarning, match="PG110"):  # the teacher could have been frozen
        history = fit(step, inputs(), epochs=3)

    assert not has_moved(step.teacher, teacher)
    assert has_moved(step.student, student)
    assert history.history["loss"][-1] < history.history["loss"][0]


def test_fault_4_a_loss_that_is_only_returned_is_in_the_history():
    """It is not replaced by the 0.0 of a tracker that nobody updated."""
    step = Regression(dense(1))
    step.model.compile(optimizer="sgd", loss="mse")
    expected = mean_squared_error(step.model.get_weights())

    history = fit(step, (inputs(), targets())).history

    assert expected > 0.1
    np.testing.assert_allclose(history["loss"], [expected], rtol=1e-5)


def test_fault_5_predictions_never_reach_the_number_that_is_called_loss():
    """Metrics of a compiled model are not fed behind the user's back."""

    class Classify(pg.Step):
        def __init__(self):
            self.model = dense(CLASSES, activation="softmax")
            self.model.compile(
                optimizer="sgd", loss="sparse_categorical_crossentropy", metrics=["accuracy"]
            )
            self.optimizer = keras.optimizers.SGD(0.0)
            self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="hits")

        def train_step(self, batch):
            x, y = batch

            def objective():
                y_pred = self.model(x, training=True)
                return keras.losses.sparse_categorical_crossentropy(y, y_pred), y_pred

            loss, y_pred = self.minimize(objective, self.optimizer, self.model)
            self.accuracy.update_state(y, y_pred)
            return {"loss": loss}

    step = Classify()
    probabilities = ops.convert_to_numpy(step.model(inputs()))
    cross_entropy = -np.mean(np.log(probabilities[np.arange(ROWS), labels()]))
    hits = np.mean(probabilities.argmax(axis=-1) == labels())

    history = fit(step, (inputs(), labels()), epochs=2).history

    assert set(history) == {"loss", "hits", "learning_rate"}
    np.testing.assert_allclose(history["loss"], [cross_entropy] * 2, rtol=1e-5)
    np.testing.assert_allclose(history["hits"], [hits] * 2, rtol=1e-6)


def test_fault_8_declared_regularizers_are_part_of_loss_and_gradient():
    """Nobody has to add `model.losses` by hand."""
    strength = 0.5
    model = dense(1, kernel_regularizer=keras.regularizers.L2(strength))
    step = Regression(model)
    kernel, bias = model.get_weights()
    errors = inputs() @ kernel + bias - targets()
    loss = np.mean(errors**2) + strength * np.sum(kernel**2)
    gradient = 2 / ROWS * inputs().T @ errors + 2 * strength * kernel

    history = fit(step, (inputs(), targets())).history

    np.testing.assert_allclose(history["loss"], [loss], rtol=1e-5)
    np.testing.assert_allclose(
        model.get_weights()[0], kernel - LEARNING_RATE * gradient, rtol=1e-4, atol=1e-6
    )


@pytest.fixture
def policy():
    """Set Keras's global precision, and put it back."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def test_fault_9_the_optimizer_of_a_model_compiled_in_mixed_float16_trains_it(policy):
    """`compile` wraps it so that it divides gradients by a scale; the loss carries that scale."""
    epochs = 20
    moved = {}
    for precision in ("float32", "mixed_float16"):
        policy(precision)
        model = dense(1, kernel_initializer="zeros")
        model.compile(optimizer=keras.optimizers.SGD(LEARNING_RATE), loss="mse")
        wraps = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        assert wraps == (precision == "mixed_float16")

        fit(Regression(model, model.optimizer), (inputs(), targets()), epochs=epochs)
        moved[precision] = model.get_weights()[0]

    assert np.abs(moved["float32"]).max() > 0.1
    np.testing.assert_allclose(moved["mixed_float16"], moved["float32"], atol=0.02)


def test_fault_10_averaged_weights_begin_at_the_weights_and_not_at_other_random_ones():
    """A cloned model has new random weights; a copy has the same, and follows the average."""
    decay = 0.75

    class Averaged(Regression):
        def __init__(self, model):
            super().__init__(model)
            self.average = pg.copy_of(model)
            self.average.trainable = False

        def train_step(self, batch):
            logs = super().train_step(batch)
            for kept, new in zip(self.average.weights, self.model.weights, strict=True):
                kept.assign(decay * kept + (1.0 - decay) * new)
            return logs

    step = Averaged(dense(1))
    before = step.model.get_weights()
    for kept, weight in zip(step.average.get_weights(), before, strict=True):
        np.testing.assert_array_equal(kept, weight)

    fit(step, (inputs(), targets()))

    after = step.model.get_weights()
    assert has_moved(step.model, before)
    for kept, old, new in zip(step.average.get_weights(), before, after, strict=True):
        np.testing.assert_allclose(kept, decay * old + (1 - decay) * new, rtol=1e-6, atol=1e-7)


def test_fault_11_the_learning_rate_does_not_depend_on_the_size_of_the_batch():
    """One value an example is averaged: the same rows twice over make the same update."""
    times = 3

    class EachExample(pg.Step):
        def __init__(self):
            self.model = dense(1, kernel_initializer="ones")
            self.optimizer = keras.optimizers.SGD(LEARNING_RATE)

        def train_step(self, batch):
            x, y = batch

            def objective():
                return ops.square(y - self.model(x, training=True))[:, 0]

            return {"loss": self.minimize(objective, self.optimizer, self.model)}

    once, repeated = EachExample(), EachExample()

    one = fit(once, (inputs(), targets())).history["loss"]
    many = fit(repeated, (np.tile(inputs(), (times, 1)), np.tile(targets(), (times, 1))))

    assert (once.model.get_weights()[0] != 1.0).any()
    np.testing.assert_allclose(many.history["loss"], one, rtol=1e-5)
    np.testing.assert_allclose(
        repeated.model.get_weights()[0], once.model.get_weights()[0], rtol=1e-5, atol=1e-6
    )
