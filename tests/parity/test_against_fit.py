"""`Supervised` trains as `keras.Model.fit` does: step by step the same losses and weights."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import perigee as pg

BATCH = 8
STEPS = 50
EPOCHS = 2
ROWS = BATCH * STEPS // EPOCHS

LOSS_TOLERANCE = 1e-6  # relative
WEIGHT_TOLERANCE = 1e-6  # absolute


@dataclass(frozen=True)
class Problem:
    """A model, its data, and what it is compiled with; two calls of `model` give twins."""

    model: Callable[[], keras.Model]
    data: Callable[[np.random.Generator], tuple[Any, ...]]
    loss: Callable[[], Any]
    options: dict[str, Any] = field(default_factory=dict)
    optimizer: Callable[[], Any] = lambda: keras.optimizers.Adam(1e-2)


def dense_classifier():
    inputs = keras.Input((6,))
    hidden = layers.Dense(16, activation="relu", kernel_regularizer="l2")(inputs)
    return keras.Model(inputs, layers.Dense(3)(hidden))


def noisy_classifier():
    inputs = keras.Input((6,))
    x = layers.Dense(16, activation="relu")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.3, seed=5)(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def classifier_data(random):
    return random.normal(size=(ROWS, 6)).astype("float32"), random.integers(0, 3, ROWS)


def two_outputs():
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="tanh")(inputs)
    outputs = [layers.Dense(1, name="price")(x), layers.Dense(3, name="kind")(x)]
    return keras.Model(inputs, outputs)


def two_outputs_data(random):
    x = random.normal(size=(ROWS, 6)).astype("float32")
    weights = random.uniform(0.1, 2, (2, ROWS)).astype("float32")
    return x, [x[:, :1] ** 2, random.integers(0, 3, ROWS)], list(weights)


@keras.saving.register_keras_serializable("tests")
class Autoencoder(keras.Model):
    def __init__(self):
        super().__init__()
        self.encoder = layers.Dense(3, activation="tanh", activity_regularizer="l1")
        self.decoder = layers.Dense(6)

    def call(self, x):
        code = self.encoder(x)
        self.add_loss(0.1 * ops.mean(ops.square(code)))
        return self.decoder(code)


def autoencoder():
    model = Autoencoder()
    model(np.zeros((1, 6), "float32"))
    return model


def autoencoder_data(random):
    x = random.normal(size=(ROWS, 6)).astype("float32")
    return x, x


def tagger():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(11, 4, mask_zero=True)(inputs)
    x = layers.LSTM(4, return_sequences=True, unroll=True)(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def tagger_data(random):
    words = random.integers(1, 11, (ROWS, 5))
    lengths = random.integers(1, 6, ROWS)
    words[np.arange(5) >= lengths[:, None]] = 0
    return words, words % 3


def sparse():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


PROBLEMS = {
    "dense classifier": Problem(dense_classifier, classifier_data, sparse),
    "BatchNormalization and Dropout": Problem(noisy_classifier, classifier_data, sparse),
    "two outputs, loss and sample weights": Problem(
        two_outputs,
        two_outputs_data,
        lambda: {"price": "mse", "kind": sparse()},
        {"loss_weights": {"price": 0.3, "kind": 2.0}},
    ),
    "subclass with add_loss": Problem(autoencoder, autoencoder_data, lambda: "mse"),
    # Keras spreads a mask over the weights and divides by all places, Perigee divides by the valid
    # ones: the same number, rounded otherwise, which Adam would amplify.
    "masked sequences": Problem(
        tagger,
        tagger_data,
        sparse,
        optimizer=lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    ),
}


class Losses(keras.callbacks.Callback):
    """Keep the loss of each single step: `fit` reports means since the last reset."""

    def __init__(self):
        super().__init__()
        self.values = []

    def on_train_batch_end(self, batch, logs=None):
        self.values.append(logs["loss"])
        self.model.reset_metrics()


class Records(pg.Hook):
    """Keep the loss of each record of one step."""

    def __init__(self):
        self.values = []

    def on_record(self, event):
        if event.scope == "steps":
            self.values.append(event.values["loss"])


def twin(problem):
    keras.utils.set_random_seed(3)
    return problem.model()


def by_fit(problem, data):
    """Return the losses of the steps and the model, trained by Keras."""
    model, losses = twin(problem), Losses()
    # Without compiling, `fit` on JAX gives other numbers each time where layers add losses.
    is_jax = keras.backend.backend() == "jax"
    model.compile(problem.optimizer(), problem.loss(), jit_compile=is_jax, **problem.options)
    x, y, *weights = data
    model.fit(
        x,
        y,
        sample_weight=weights[0] if weights else None,
        batch_size=BATCH,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[losses],
    )
    return losses.values, model


def by_perigee(problem, data, directory, **options):
    """Return the losses of the steps and the model, trained by Perigee."""
    model, losses = twin(problem), Records()
    step = pg.Supervised(model, problem.optimizer(), problem.loss(), **(problem.options | options))
    pg.fit(
        step,
        data,
        batch_size=BATCH,
        epochs=EPOCHS,
        shuffle=False,
        progress="off",
        callbacks=[losses],
        run=pg.Run(directory, record_every=pg.Every(steps=1)),
    )
    return losses.values, model


def furthest(model, other):
    """Return the largest difference of two models' variables, seeds and statistics included."""
    pairs = zip(model.variables, other.variables, strict=True)
    return max(np.abs(np.subtract(*map(ops.convert_to_numpy, pair))).max() for pair in pairs)


@pytest.mark.spread(2)
@pytest.mark.parametrize("name", PROBLEMS)
def test_fifty_steps_equal_those_of_fit(name, tmp_path):
    problem = PROBLEMS[name]
    data = problem.data(np.random.default_rng(1))

    expected, theirs = by_fit(problem, data)
    losses, ours = by_perigee(problem, data, tmp_path / "run")

    assert len(losses) == len(expected) == STEPS
    np.testing.assert_allclose(losses, expected, rtol=LOSS_TOLERANCE)
    assert furthest(ours, theirs) <= WEIGHT_TOLERANCE
    assert furthest(ours, twin(problem)) > 100 * WEIGHT_TOLERANCE, "nothing was trained"


def test_a_slightly_wrong_loss_weight_would_be_seen(tmp_path):
    problem = PROBLEMS["two outputs, loss and sample weights"]
    data = problem.data(np.random.default_rng(1))

    expected, theirs = by_fit(problem, data)
    wrong = {"price": 0.3, "kind": 2.01}
    losses, ours = by_perigee(problem, data, tmp_path / "run", loss_weights=wrong)

    assert np.max(np.abs(np.divide(losses, expected) - 1)) > 10 * LOSS_TOLERANCE
    assert furthest(ours, theirs) > 10 * WEIGHT_TOLERANCE
