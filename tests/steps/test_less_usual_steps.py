"""Steps that few trainings need, and that those cannot do without, each against plain arithmetic.

A model called with given weights, averaged weights in a validation, a model that grows, a stop that
depends on the data, several updates a batch. The code of `docs/advanced_recipes.md` runs here too.
"""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from tests.project.pages import run_page

BATCH, RATE = 8, 0.05
X = np.random.default_rng(1).normal(size=(4 * BATCH + 3, 3)).astype("float32")  # the last is short
Y = (np.sin(X[:, :1]) - 0.5 * X[:, 1:2]).astype("float32")


def network(*widths, name="model"):
    layers = [keras.layers.Dense(width, activation="tanh") for width in widths]
    return keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1)], name=name)


class Fitting(pg.Step):
    """Least squares, with any number of updates a batch."""

    def __init__(self, model, optimizer=None, updates=1):
        self.model, self.updates = model, updates
        self.optimizer = optimizer or keras.optimizers.SGD(RATE)

    def train_step(self, batch):
        x, y = batch

        def objective():
            return ops.mean(ops.square(y - self.model(x, training=True)), axis=-1)

        losses = [self.minimize(objective, self.optimizer, self.model) for _ in range(self.updates)]
        return {"first_loss": losses[0], "loss": losses[-1]}

    def test_step(self, batch):
        x, y = batch
        return {"loss": ops.mean(ops.square(y - self.model(x)), axis=-1)}


def twins(make):
    """Return two of what `make` makes, equal to the bit."""
    made = []
    for _ in range(2):
        keras.utils.set_random_seed(5)
        made.append(make())
    return made


def fit(step, data=(X, Y), **options):
    options = {"shuffle": False, "progress": "off"} | options
    if isinstance(data, tuple):
        options = {"batch_size": BATCH} | options
    else:
        del options["shuffle"]
    return pg.fit(step, data, **options)


def batches():
    return [(X[i : i + BATCH], Y[i : i + BATCH]) for i in range(0, len(X), BATCH)]


def assert_same(model, other, atol=1e-6):
    for weight, expected in zip(model.weights, other.weights, strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=atol, err_msg=weight.path)


# A model called with given weights.


class Sharp(pg.Step):
    """Descend by the gradient at a neighboring point, where the loss is larger (SAM)."""

    def __init__(self, model, radius=0.2):
        self.model, self.radius = model, radius
        self.optimizer = keras.optimizers.SGD(RATE)

    def train_step(self, batch):
        x, y = batch

        def error(*weights):
            rest = [v.value for v in self.model.non_trainable_variables]
            y_pred, _ = self.model.stateless_call(list(weights), rest, x)
            return ops.mean(ops.square(y - y_pred))

        weights = [ops.copy(v) for v in self.model.trainable_variables]
        slopes = self.gradients(error, weights)
        norm = ops.sqrt(sum(ops.sum(ops.square(slope)) for slope in slopes))
        pairs = zip(weights, slopes, strict=True)
        moved = [weight + self.radius * slope / norm for weight, slope in pairs]
        pairs = zip(self.gradients(error, moved), self.model.trainable_variables, strict=True)
        self.apply(self.optimizer, list(pairs))
        return {"loss": error(*weights)}


def test_a_model_is_called_with_given_weights():
    step = Sharp(network())
    w, b = (w.astype("float64") for w in step.model.get_weights())
    losses, sizes = [], []

    history = fit(step)

    for x, y in batches():
        slope = lambda w, b, x=x, y=y: [  # noqa: E731
            2 * x.T @ (x @ w + b - y) / len(x),
            2 * np.mean(x @ w + b - y, axis=0),
        ]
        losses.append(np.mean((x @ w + b - y) ** 2))
        sizes.append(len(x))
        dw, db = slope(w, b)
        norm = np.sqrt((dw**2).sum() + (db**2).sum())
        dw, db = slope(w + step.radius * dw / norm, b + step.radius * db / norm)
        w, b = w - RATE * dw, b - RATE * db
    for weight, expected in zip(step.model.get_weights(), (w, b), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-6)
    assert history.history["loss"] == pytest.approx([np.average(losses, weights=sizes)])
    assert history.findings == []


# Averaged weights in a validation.


def averaged():
    optimizer = keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=0.9)
    return Fitting(network(4), optimizer)


@pytest.mark.slow
def test_averaged_weights_are_swapped_in_for_a_validation():
    step, plain = twins(averaged)
    theirs = twins(averaged)[0]
    theirs.model.compile(theirs.optimizer, "mse")
    options = {"validation_data": (X, Y), "batch_size": BATCH, "epochs": 3, "verbose": 0}

    swap = [keras.callbacks.SwapEMAWeights()]
    expected = theirs.model.fit(X, Y, callbacks=swap, shuffle=False, **options)
    swap = [keras.callbacks.SwapEMAWeights()]
    history = fit(step, validation=(X, Y), callbacks=swap, epochs=3)
    without = fit(plain, validation=(X, Y), epochs=3)

    assert history.history["val_loss"] == pytest.approx(expected.history["val_loss"], rel=1e-5)
    assert history.history["val_loss"] != pytest.approx(without.history["val_loss"], rel=1e-2)
    assert_same(step.model, theirs.model)
    assert_same(step.model, plain.model)


# A model that grows between phases.


def grow(step):
    """Put a layer in before the last one; a new optimizer knows its weights."""
    *layers, last = step.model.layers
    added = keras.layers.Dense(4, activation="tanh", kernel_initializer="identity", name="added")
    step.model = keras.Sequential([keras.Input((3,)), *layers, added, last])
    step.optimizer = keras.optimizers.Adam(0.01)


def test_a_model_grows_between_phases():
    step, twin = twins(lambda: Fitting(network(4)))
    for each in (step, twin):
        fit(each)
        keras.utils.set_random_seed(3)
        grow(each)
    fresh = Fitting(twin.model, twin.optimizer)

    fit(step, epochs=2)
    fit(fresh, epochs=2)

    assert len(step.model.layers) == 3
    assert_same(step.model, fresh.model)


def phases(directory, epochs=2):
    keras.utils.set_random_seed(5)
    step = Fitting(network(4))
    fit(step, epochs=2, run=directory / "small")
    keras.utils.set_random_seed(3)
    grow(step)
    return step, fit(step, epochs=epochs, run=directory / "grown")


@pytest.mark.slow
def test_phases_in_runs_of_their_own_go_on_exactly(tmp_path):
    straight, _ = phases(tmp_path / "straight", epochs=4)
    phases(tmp_path / "stopped", epochs=2)

    step, history = phases(tmp_path / "stopped", epochs=4)

    assert history.resumed_from.step > 0
    for weight, expected in zip(step.model.weights, straight.model.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert len(history.history["loss"]) == 4


# A stop that depends on the data.


class Stop(pg.Hook):
    """Look at every third step, and stop where the mean of the epoch so far is low enough."""

    every = pg.Every(steps=3)

    def __init__(self, loss):
        self.loss, self.seen = loss, {}

    def on_steps(self, event):
        self.seen[event.clock.step] = event.read()["loss"]
        if self.seen[event.clock.step] <= self.loss:
            event.stop("low enough")


def test_a_training_stops_where_a_value_is_reached():
    step, twin = twins(lambda: Fitting(network()))
    whole = Stop(0.0)
    fit(twin, callbacks=[whole], epochs=10)
    level = whole.seen[15] * 1.00001
    first = min(number for number, loss in whole.seen.items() if loss <= level)

    history = fit(step, callbacks=[Stop(level)], epochs=10)

    assert (history.stop_reason, history.clock.step) == ("low enough", first)


class Settling(pg.Step):
    """Find the point where a map stands still, in as many rounds as the batch needs."""

    def __init__(self, model):
        self.model = model

    def predict_step(self, x):
        def goes_on(point, moved, rounds):
            return ops.logical_and(moved > 1e-4, rounds < 100)

        def turn(point, moved, rounds):
            new = 0.5 * self.model(ops.concatenate([point, x[:, 1:]], axis=-1), training=False)
            return new, ops.max(ops.abs(new - point)), rounds + 1

        start = ops.zeros_like(x[:, :1]), ops.ones(()), ops.zeros((), "int32")
        point, _, rounds = ops.while_loop(goes_on, turn, start)
        return {"point": point, "rounds": ops.broadcast_to(rounds, (ops.shape(x)[0],))}


def test_a_step_holds_a_loop_that_ends_when_the_data_says_so():
    step = Settling(network(4))

    x = np.concatenate([np.zeros((BATCH, 3), "float32"), X])  # the first batch stands still at 0

    found = pg.predict(step, x, batch_size=BATCH)

    again = 0.5 * step.model.predict(np.concatenate([found["point"], x[:, 1:]], -1), verbose=0)
    np.testing.assert_allclose(found["point"], again, atol=1e-4)
    assert set(found["rounds"][:BATCH]) == {1}
    assert min(found["rounds"][BATCH:]) > 1


# Several updates a batch.


def test_a_batch_may_be_used_for_several_updates():
    updates = 3
    step, _ = twins(lambda: Fitting(network(4), keras.optimizers.Adam(0.01), updates))
    twin, _ = twins(lambda: Fitting(network(4), keras.optimizers.Adam(0.01)))

    fit(step)
    fit(twin, [batch for batch in batches() for _ in range(updates)])

    assert int(step.optimizer.iterations.value) == updates * len(batches())
    assert_same(step.model, twin.model)


@pytest.mark.slow
def test_the_code_on_the_page_runs():
    run_page("advanced_recipes.md")
