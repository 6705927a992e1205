"""What a Step may count on, whichever framework runs it."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import perigee as pg
from perigee import _backends
from perigee._errors import DataTypeError, KeptTensorError
from perigee._step.state import snapshot, track

ROWS, FEATURES, BATCH = 22, 3, 8

backend = _backends.current()


class Custom(pg.Step):
    """A step whose body is given: `body(step, x, y)` returns what to log."""

    def __init__(self, body, **held):
        self.body = body
        for name, value in held.items():
            setattr(self, name, value)

    def train_step(self, batch):
        return self.body(self, *batch)

    def test_step(self, batch):
        return self.body(self, *batch)


@pytest.fixture
def data():
    x = np.random.normal(size=(ROWS, FEATURES)).astype("float32")
    return x, x[:, :1]


def squared(y, y_pred):
    return ops.square(y - y_pred)[:, 0]


def line(**arguments):
    return keras.Sequential([keras.Input((FEATURES,)), layers.Dense(1, **arguments)])


def fit(step, data, **arguments):
    return pg.fit(step, data, **{"batch_size": BATCH, "progress": "off", "seed": 0, **arguments})


def bits(step):
    return [value.tobytes() for value in snapshot(track(step).variables)]


def on_host(tensor):
    return np.array(ops.convert_to_numpy(tensor))


# Sizes that compiled code leaves open


@pytest.mark.parametrize("feed", ["arrays", "batches"])
def test_a_step_that_needs_sizes_is_compiled_for_each_size(data, feed):
    def body(step, x, y):
        total = 0.0
        for row in range(x.shape[0]):  # None where a graph leaves the number of rows open
            total = total + ops.mean(x[row])
        return {"loss": total / x.shape[0]}

    x, y = data[0][: 2 * BATCH + 1], data[1][: 2 * BATCH + 1]
    cuts = [slice(at, at + BATCH) for at in range(0, len(x), BATCH)]
    given = (x, y) if feed == "arrays" else [(x[cut], y[cut]) for cut in cuts]
    arguments = {"batch_size": BATCH, "shuffle": False} if feed == "arrays" else {}

    history = pg.fit(Custom(body), given, epochs=2, progress="off", **arguments).history

    np.testing.assert_allclose(history["loss"], [x.mean()] * 2, rtol=1e-5)


@pytest.mark.only_tensorflow
def test_an_error_with_another_cause_than_sizes_is_raised(data):
    import tensorflow as tf

    def body(step, x, y):
        if tf.executing_eagerly():  # in the rehearsal
            return {"loss": ops.mean(x)}
        raise KeyError("missing")

    with pytest.raises(KeyError, match="missing"):
        fit(Custom(body), data)


# Tensors that would outlive the call


@pytest.mark.parametrize("held", ["attribute", "list"])
def test_a_tensor_kept_as_an_attribute_is_refused_where_steps_are_compiled(data, held):
    def body(step, x, y):
        value = ops.mean(x)
        if held == "list":
            step.seen.append(value)
        else:
            step.last = value
        return {"loss": value}

    step = Custom(body, seen=[])
    if backend.capabilities.modes[0] == "eager":
        fit(step, data)
        return
    with pytest.raises(KeptTensorError, match="PG410"):
        fit(step, data)


def test_tensors_made_in_init_are_used(data):
    offset = 3.0

    def body(step, x, y):
        return {"loss": ops.mean(x) + step.offset}

    step = Custom(body, offset=ops.ones(()) * offset)

    assert fit(step, data).history["loss"][0] == pytest.approx(data[0].mean() + offset, abs=1e-6)


# What happens inside an objective


def test_metrics_updated_inside_an_objective_count(data):
    def body(step, x, y):
        def objective():
            values = squared(y, step.model(x, training=True))
            step.error.update_state(values)
            return values

        return {"loss": step.minimize(objective, step.optimizer, step.model)}

    step = Custom(
        body,
        model=line(),
        optimizer=keras.optimizers.SGD(0.05),
        error=keras.metrics.Mean(name="error"),
    )
    history = fit(step, data, epochs=2).history

    np.testing.assert_allclose(history["error"], history["loss"], rtol=1e-5)


def test_draws_inside_an_objective_go_on(data):
    def body(step, x, y):
        def objective():
            step.drawn.assign(keras.random.uniform((), seed=step.seed))
            return squared(y, step.model(x, training=True))

        loss = step.minimize(objective, step.optimizer, step.model)
        return {"loss": loss, "drawn": ops.convert_to_tensor(step.drawn)}

    step = Custom(
        body,
        model=line(),
        optimizer=keras.optimizers.SGD(0.05),
        seed=keras.random.SeedGenerator(3),
        drawn=keras.Variable(np.float32(0), trainable=False),
    )
    generator = keras.random.SeedGenerator(3)
    expected = [float(keras.random.uniform((), seed=generator)) for _ in range(6)]

    drawn = fit(step, data, epochs=6, batch_size=ROWS).history["drawn"]

    np.testing.assert_allclose(drawn, expected, rtol=1e-6)


class Adds(layers.Layer):
    """Adds the mean of its squared input to the loss."""

    def call(self, x):
        self.add_loss(ops.mean(ops.square(x)))
        return x


@pytest.mark.parametrize("has_penalty", [False, True], ids=["alone", "beside a gradient penalty"])
@pytest.mark.parametrize("execution", ["auto", "eager"])
def test_losses_that_layers_add_are_not_lost(data, has_penalty, execution):
    def body(step, x, y):
        def objective():
            loss = ops.mean(squared(y, step.model(x, training=True)))
            if has_penalty:
                slopes = step.gradients(lambda a: ops.sum(step.model(a, training=True)), x)
                loss = loss + 0.0 * ops.mean(slopes)
            return loss, loss

        loss, bare = step.minimize(objective, step.optimizer, step.model)
        return {"loss": loss, "bare": bare}

    dense = layers.Dense(1, activity_regularizer=keras.regularizers.L2(0.5), use_bias=False)
    model = keras.Sequential([keras.Input((FEATURES,)), Adds(), dense])
    step = Custom(body, model=model, optimizer=keras.optimizers.SGD(0.0))
    history = fit(step, data, batch_size=ROWS, execution=execution).history

    x = data[0]
    # Keras divides activity penalties by the batch size.
    expected = (x**2).mean() + 0.5 * ((x @ on_host(dense.kernel)) ** 2).sum() / ROWS
    assert history["loss"][0] - history["bare"][0] == pytest.approx(expected, rel=1e-4)


def test_averages_are_returned_as_they_are(data):
    def body(step, x, y):
        weights = ops.cast(x[:, 0] > 0, "float32")
        return {"loss": pg.mean(y[:, 0], weights), "all": pg.mean(y)}

    history = fit(Custom(body), data).history

    chosen = data[0][:, 0] > 0
    assert history["loss"][0] == pytest.approx(data[1][chosen].mean(), abs=1e-6)
    assert history["all"][0] == pytest.approx(data[1].mean(), abs=1e-6)


# Random numbers


def noisy():
    return keras.Sequential([keras.Input((FEATURES,)), layers.Dropout(0.5), layers.Dense(1)])


def noisy_body(step, x, y):
    def objective():
        return squared(y, step.model(x, training=True))

    return {"loss": step.minimize(objective, step.optimizer, step.model)}


def noisy_step():
    return Custom(noisy_body, model=noisy(), optimizer=keras.optimizers.Adam(0.01))


def test_one_seed_repeats_a_training_bit_for_bit(data):
    runs = []
    for _ in range(2):
        keras.utils.clear_session()
        keras.utils.set_random_seed(5)
        step = noisy_step()
        history = fit(step, data, epochs=3, seed=None).history
        runs.append((history, bits(step)))

    assert runs[0] == runs[1]
    keras.utils.set_random_seed(6)
    assert fit(noisy_step(), data, epochs=3, seed=None).history != runs[0][0]


class Masked(pg.Step):
    """Logs how much of ones an unseeded Dropout leaves, in training and in measuring."""

    def __init__(self):
        self.dropout = layers.Dropout(0.5)

    def train_step(self, batch):
        return {"left": self.dropout(ops.ones_like(batch), training=True)[:, 0]}

    test_step = train_step


@pytest.mark.only_torch
def test_a_rehearsal_draws_nothing_from_the_global_generator_of_torch():
    import torch

    seed, x = 11, np.ones((1000, 1), "float32")
    torch.manual_seed(seed)
    expected = float(torch.nn.functional.dropout(torch.ones(1000, 1)).mean())

    torch.manual_seed(seed)
    left = fit(Masked(), x, batch_size=1000).history["left"][0]

    assert left == pytest.approx(expected, rel=1e-6)


def test_an_unseeded_dropout_draws_alike_in_each_evaluation():
    x = np.ones((1000, 1), "float32")
    step = Masked()

    first, again = (pg.evaluate(step, x)["left"] for _ in range(2))
    trained = fit(step, x).history["left"][0]

    assert first == again != trained


def test_measuring_with_random_draws_does_not_change_the_training(data):
    runs = []
    for validation in (None, data):
        keras.utils.set_random_seed(5)
        step = noisy_step()
        losses = fit(step, data, epochs=3, validation=validation).history["loss"]
        runs.append((losses, step.model.get_weights()))

    assert runs[0][0] == runs[1][0]
    for one, other in zip(runs[0][1], runs[1][1], strict=True):
        np.testing.assert_array_equal(one, other)


# Exceptions


class Own(Exception):
    """An exception of a user's."""


def test_a_step_goes_on_after_an_exception(data):
    fails = []

    def batches():
        yield data
        if fails:
            raise Own
        yield data

    step = Custom(noisy_body, model=line(), optimizer=keras.optimizers.Adam(0.01))
    fit(step, batches, batch_size=None, seed=None)
    fails.append(True)

    with pytest.raises(Own):
        fit(step, batches, batch_size=None, seed=None)

    assert int(on_host(step.optimizer.iterations)) == 3
    assert all(np.isfinite(value).all() for value in snapshot(track(step).variables))


def test_an_exception_of_the_step_comes_out_as_it_is(data):
    def body(step, x, y):
        def objective():
            step.model(x, training=True)
            raise Own("as it was")

        return {"loss": step.minimize(objective, step.optimizer, step.model)}

    step = Custom(body, model=line(), optimizer=keras.optimizers.SGD(0.1))
    before = bits(step)

    with pytest.raises(Own, match="as it was"):
        fit(step, data)

    assert bits(step)[: len(before)] == before


# Two of everything


def test_a_target_network_that_shares_arrays_stays_apart(data):
    def body(step, x, y):
        wanted = step.target(x, training=False)
        loss = step.minimize(
            lambda: squared(y + 0.0 * wanted, step.model(x, training=True)),
            step.optimizer,
            step.model,
        )
        return {"loss": loss}

    model, target = line(), line()
    for theirs, ours in zip(target.weights, model.weights, strict=True):
        theirs.assign(ours)
    kept = target.get_weights()
    step = Custom(body, model=model, target=target, optimizer=keras.optimizers.SGD(0.1))
    step.target.trainable = False

    fit(step, data, epochs=2)

    for one, other in zip(target.get_weights(), kept, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(model.get_weights()[0] - kept[0]).max() > 1e-3


class Named(pg.Step):
    """Gets strings with its numbers, one for each example."""

    def train_step(self, batch):
        assert {str(name) for name in batch["name"]} <= {"a", "b"}
        return {"mean": batch["x"]}


@pytest.mark.parametrize("execution", ["auto", "eager"])
def test_strings_stay_on_the_host_where_there_are_no_tensors_of_them(execution):
    if backend.name == "tensorflow":
        pytest.skip("TensorFlow has tensors of strings")
    data = {"x": np.arange(4, dtype="float32"), "name": np.array(["a", "b", "b", "a"])}

    if backend.capabilities.modes[0] == "eager" or execution == "eager":
        history = fit(Named(), data, execution=execution).history
        assert history["mean"] == [data["x"].mean()]
    else:  # what is no tensor would be part of the program
        with pytest.raises(DataTypeError, match="execution="):
            fit(Named(), data, execution=execution)
