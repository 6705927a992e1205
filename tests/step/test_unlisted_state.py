"""State that Keras does not list: recurrent states, and variables where Keras does not look."""

import types
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import perigee as pg
from perigee._errors import UntrackedVariablesError
from perigee._step.state import track, variables_of
from perigee.testing import verify_resume

BATCH, TIME, FEATURES, UNITS = 4, 5, 2, 3
BATCHES = 6
EAGER = pg.Execution("eager")


def host(variable):
    return np.array(ops.convert_to_numpy(variable))


def sequences(rows=BATCH * BATCHES):
    """Return sequences and labels, the same ones each time."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(rows, TIME, FEATURES)).astype("float32")
    return x, rng.normal(size=(rows, 1)).astype("float32")


def rows():
    x = np.random.default_rng(2).normal(1.0, 1.0, (16, 3)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def model_of(recurrent, *more, batch=BATCH):
    return keras.Sequential(
        [keras.Input(batch_shape=(batch, TIME, FEATURES)), recurrent, *more, layers.Dense(1)]
    )


def states_of(model):
    listed = {id(v) for v in model.variables}
    return [host(v) for v in variables_of(model) if id(v) not in listed]


def supervised(model, rate=0.0):
    return pg.Supervised(model, keras.optimizers.SGD(rate), "mse")


def train(step, data, **arguments):
    arguments = {"batch_size": BATCH, "shuffle": False, "progress": "off", **arguments}
    return pg.fit(step, data, **arguments).history


class Hand(pg.Step):
    """A step as users write it."""

    def __init__(self, model):
        self.model, self.optimizer = model, keras.optimizers.Adam(0.01)

    def train_step(self, batch):
        x, y = batch

        def objective():
            return ops.mean((y - self.model(x, training=True)) ** 2)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


# NumPy decides.


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def simple_step(x, h, kernel, recurrent, bias):
    return np.tanh(x @ kernel + h @ recurrent + bias)


def gru_step(x, h, kernel, recurrent, bias):
    xz, xr, xh = np.split(x @ kernel + bias[0], 3, axis=-1)
    hz, hr, hh = np.split(h @ recurrent + bias[1], 3, axis=-1)
    z, candidate = sigmoid(xz + hz), np.tanh(xh + sigmoid(xr + hr) * hh)
    return z * h + (1 - z) * candidate


def loss_in_numpy(step, weights, x, y, carries=True):
    """Return the mean loss over the batches, states carried from one to the next, and the state."""
    *cell, kernel, bias = weights
    h, losses = np.zeros((BATCH, UNITS)), []
    for first in range(0, len(x), BATCH):
        h = h if carries else np.zeros((BATCH, UNITS))
        for t in range(TIME):
            h = step(x[first : first + BATCH, t], h, *cell)
        losses.append(np.mean((h @ kernel + bias - y[first : first + BATCH]) ** 2))
    return np.mean(losses), h


@pytest.mark.spread(2)
@pytest.mark.parametrize("way", ["keras_fit", "Supervised"])
@pytest.mark.parametrize(
    ("layer", "step"),
    [(layers.SimpleRNN, simple_step), (layers.GRU, gru_step)],
    ids=["SimpleRNN", "GRU"],
)
def test_recurrent_states_are_carried_from_batch_to_batch_as_in_numpy(layer, step, way):
    x, y = sequences()
    model = model_of(layer(UNITS, stateful=True))
    weights = model.get_weights()
    expected, state = loss_in_numpy(step, weights, x, y)
    assert abs(expected - loss_in_numpy(step, weights, x, y, carries=False)[0]) > 1e-4

    if way == "keras_fit":
        model.compile(keras.optimizers.SGD(0.0), "mse")
        history = pg.keras_fit(model, x, y, batch_size=BATCH, shuffle=False, verbose=0).history
    else:
        history = train(supervised(model), (x, y))

    np.testing.assert_allclose(history["loss"], [expected], rtol=1e-5)
    np.testing.assert_allclose(states_of(model)[0], state, rtol=1e-4, atol=1e-6)


class Cell(layers.Layer):
    """A cell as users write it."""

    def __init__(self, units):
        super().__init__()
        self.units = self.state_size = self.output_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units))

    def call(self, x, states):
        h = ops.tanh(ops.matmul(x, self.kernel) + states[0])
        return h, [h]


class Listed(layers.Layer):
    """A layer around a list of recurrent ones, of every kind."""

    def __init__(self):
        super().__init__()
        kept = {"stateful": True, "return_sequences": True}
        self.inner = [
            layers.Reshape((TIME, FEATURES, 1)),
            layers.ConvLSTM1D(2, 2, padding="same", **kept),
            layers.TimeDistributed(layers.Flatten()),
            layers.RNN([layers.LSTMCell(UNITS), layers.GRUCell(UNITS)], **kept),
            layers.Bidirectional(layers.GRU(UNITS, **kept)),
            layers.RNN(Cell(UNITS), stateful=True),
        ]

    def build(self, shape):
        for layer in self.inner:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)

    def call(self, x):
        for layer in self.inner:
            x = layer(x)
        return x


@pytest.mark.slow
def test_every_recurrent_layer_ends_in_the_states_that_calls_by_hand_leave():
    num_states = 2 + 3 + 2 + 1
    x, y = sequences(2 * BATCH)
    inner = keras.Sequential([keras.Input(batch_shape=(BATCH, TIME, FEATURES)), Listed()])
    model = model_of(inner)
    for first in range(0, len(x), BATCH):
        model(x[first : first + BATCH], training=True)
    expected = states_of(model)
    zero_states(model)

    train(supervised(model), (x, y), execution=EAGER)

    assert len(expected) == num_states
    for state, value in zip(states_of(model), expected, strict=True):
        assert np.any(value)
        np.testing.assert_allclose(state, value, rtol=1e-4, atol=1e-6)


def test_states_are_reset_by_callbacks_alone_and_validation_leaves_them():
    x, y = sequences()
    model = model_of(layers.SimpleRNN(UNITS, stateful=True))
    seen = []

    class Reset(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                self.model.layers[0].reset_states()

        def on_epoch_end(self, epoch, logs=None):
            seen.append(states_of(model)[0])

    expected, state = loss_in_numpy(simple_step, model.get_weights(), x, y)
    history = train(supervised(model), (x, y), epochs=3, validation=(x, y), callbacks=[Reset()])

    np.testing.assert_allclose([history["loss"][0], history["loss"][2]], expected, rtol=1e-5)
    assert history["loss"][1] != history["loss"][0]  # it went on from the states of the first
    np.testing.assert_allclose(seen[0], state, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(seen[2], state, rtol=1e-4, atol=1e-6)


def test_evaluate_and_predict_carry_states_within_a_pass_and_undo_them():
    x, y = sequences()
    model = model_of(layers.SimpleRNN(UNITS, stateful=True))
    step = supervised(model)
    expected, _ = loss_in_numpy(simple_step, model.get_weights(), x, y)

    measured = [pg.evaluate(step, (x, y), batch_size=BATCH)["loss"] for _ in range(2)]
    predicted = pg.predict(step, x, batch_size=BATCH)

    np.testing.assert_allclose(measured, expected, rtol=1e-5)
    np.testing.assert_allclose(np.mean((predicted - y) ** 2), expected, rtol=1e-5)
    assert not np.any(states_of(model)[0])


@pytest.mark.slow
def test_a_last_batch_of_one_row_is_refused_as_keras_does_where_it_knows_the_size():
    """Spread over all states it would give as many predictions, in silence."""
    x, y = sequences(BATCH + 1)
    step = supervised(model_of(layers.SimpleRNN(UNITS, stateful=True)))

    with pytest.raises(ValueError, match="Received batch size: 1"):
        train(step, (x, y))
    with pytest.raises(ValueError, match="Received batch size: 1"):
        pg.predict(step, x, batch_size=BATCH)


@pytest.mark.slow
@pytest.mark.only_tensorflow
def test_a_last_batch_of_one_row_from_tf_data_is_refused():
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(sequences(BATCH + 1)).batch(BATCH)
    step = supervised(model_of(layers.SimpleRNN(UNITS, stateful=True)))

    with pytest.raises(ValueError, match="Received batch size: 1"):
        pg.fit(step, data, progress="off")


class Doubled(layers.Layer):
    """A number that is drawn near 1, and doubled in each call."""

    def build(self, shape):
        near_1 = keras.initializers.RandomUniform(1.0, 1.001)
        self.number = self.add_weight(shape=(), initializer=near_1, trainable=False)

    def call(self, x):
        self.number.assign(2 * self.number)
        return x


class Two(keras.Model):
    """A model that is built when it is called."""

    def __init__(self):
        super().__init__()
        first = layers.SimpleRNN(UNITS, stateful=True, return_sequences=True)
        self.recurrent = [first, layers.SimpleRNN(UNITS, stateful=True)]
        self.doubled, self.dense = Doubled(), layers.Dense(1)

    def call(self, x):
        x = self.doubled(x)
        for layer in self.recurrent:
            x = layer(x)
        return self.dense(x)


def zero_states(model):
    for variable in variables_of(model)[len(model.variables) :]:
        variable.assign(np.zeros(variable.shape))


def test_states_that_are_made_in_the_rehearsal_begin_as_they_were_made():
    x, y = sequences(BATCH)
    model = Two()

    train(supervised(model), (x, y), execution=EAGER)

    trained = states_of(model)
    np.testing.assert_allclose(host(model.doubled.number), 2.0, rtol=1e-2)
    zero_states(model)
    model(x)
    for state, expected in zip(trained, states_of(model), strict=True):
        np.testing.assert_allclose(state, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_states_that_are_made_in_the_rehearsal_resume_exactly():
    def make():
        keras.utils.set_random_seed(3)
        return Hand(Two())

    arguments = {"batch_size": BATCH, "shuffle": False, "execution": EAGER}
    report = verify_resume(make, sequences, steps=4, arguments=arguments)

    assert "equal in" in str(report)


@pytest.mark.slow
def test_a_compiled_model_with_states_resumes_exactly():
    def make():
        keras.utils.set_random_seed(3)
        model = model_of(layers.SimpleRNN(UNITS, stateful=True))
        model.compile("sgd", "mse")
        return pg.KerasStep(model)

    arguments = {"batch_size": BATCH, "shuffle": False}
    report = verify_resume(make, sequences, steps=4, arguments=arguments)

    assert "equal in" in str(report)


def test_a_loop_of_the_users_own_carries_states():
    x, y = sequences()
    model = model_of(layers.SimpleRNN(UNITS, stateful=True))
    expected, _ = loss_in_numpy(simple_step, model.get_weights(), x, y)
    losses = []

    with pg.prepare(supervised(model), progress="off") as trainer:
        for first in range(0, len(x), BATCH):
            batch = x[first : first + BATCH], y[first : first + BATCH]
            losses.append(float(trainer.train_step(batch)["loss"]))

    np.testing.assert_allclose(np.mean(losses), expected, rtol=1e-5)


def test_a_copy_has_the_states_and_keys_of_listed_variables_are_as_before():
    model = model_of(layers.LSTM(UNITS, stateful=True))
    model(sequences(BATCH)[0])
    step = supervised(model)

    copy = pg.copy_of(model)

    for ours, theirs in zip(states_of(model), states_of(copy), strict=True):
        assert np.any(ours)
        np.testing.assert_array_equal(ours, theirs)
    keys = [entry.key for entry in track(step).entries]
    assert keys[:2] == ["model/0/kernel", "model/1/recurrent_kernel"]
    assert keys[-2:] == ["model/unlisted/0/rnn_state", "model/unlisted/1/rnn_state"]


def test_what_the_step_holds_itself_keeps_its_key():
    model = model_of(layers.SimpleRNN(UNITS, stateful=True))
    step = supervised(model)
    step.states = list(model.layers[0].states)

    keys = [entry.key for entry in track(step).entries]

    assert "states/0/0/rnn_state" in keys
    assert not any("unlisted" in key for key in keys)


# Programs of strangers.


class Memory:
    """A class of the user's, which is no layer."""

    def __init__(self, size):
        self.mean = keras.Variable(np.zeros(size, "float32"), trainable=False)
        self.count = keras.Variable(0, dtype="int32", trainable=False)

    def update(self, x):
        self.count.assign(self.count + 1)
        gap = ops.mean(x, axis=0) - self.mean
        self.mean.assign(self.mean + gap / ops.cast(self.count, "float32"))


class Whiten(layers.Layer):
    def __init__(self, size):
        super().__init__()
        self.memory = Memory(size)

    def call(self, x, training=None):
        if training:
            self.memory.update(x)
        return x - ops.convert_to_tensor(self.memory.mean)


@pytest.mark.spread(1)
@pytest.mark.parametrize("way", ["keras_fit", "Supervised"])
def test_a_running_mean_in_an_object_of_a_layer_counts_each_batch_once(way):
    x, y = rows()
    whiten = Whiten(3)
    model = keras.Sequential([keras.Input((3,)), whiten, layers.Dense(1)])

    if way == "keras_fit":
        model.compile("sgd", "mse")
        pg.keras_fit(model, x, y, batch_size=BATCH, verbose=0, validation_data=(x, y))
    else:
        train(supervised(model), (x, y), validation=(x, y))

    assert int(host(whiten.memory.count)) == len(x) // BATCH
    np.testing.assert_allclose(host(whiten.memory.mean), x.mean(axis=0), rtol=1e-4)


class Queue(layers.Layer):
    """Keys of the last batches, to compare with."""

    def __init__(self, size):
        super().__init__()
        keys = keras.Variable(np.zeros((size, 3), "float32"), trainable=False)
        self.held = types.SimpleNamespace(keys=keys)

    def call(self, z):
        keys = ops.convert_to_tensor(self.held.keys)
        self.held.keys.assign(ops.concatenate([keys[BATCH:], ops.stop_gradient(z)], axis=0))
        return z + ops.mean(ops.matmul(z, ops.transpose(keys)), axis=-1, keepdims=True)


def test_a_queue_of_keys_in_a_layer_holds_the_last_batches():
    x, y = rows()
    queue = Queue(2 * BATCH)
    model = keras.Sequential([keras.Input(batch_shape=(BATCH, 3)), queue, layers.Dense(1)])

    train(supervised(model), (x, y))

    np.testing.assert_array_equal(host(queue.held.keys), x[-2 * BATCH :])


@dataclass
class Box:
    held: Any


class Noise(layers.Layer):
    def __init__(self):
        super().__init__()
        self.box = Box(keras.random.SeedGenerator(7))

    def call(self, x):
        return x + keras.random.normal((3,), seed=self.box.held)


def test_a_seed_in_a_dataclass_draws_on_and_measures_alike():
    x, y = rows()
    noise = Noise()
    step = supervised(keras.Sequential([keras.Input((3,)), noise, layers.Dense(1)]))

    train(step, (x, y))
    measured = [pg.evaluate(step, (x, y), batch_size=BATCH)["loss"] for _ in range(2)]

    assert int(host(noise.box.held.state)[1]) == len(x) // BATCH
    assert measured[0] == measured[1]


class Centered(keras.losses.Loss):
    def __init__(self):
        super().__init__()
        self.center = keras.Variable(0.0, trainable=False)

    def call(self, y_true, y_pred):
        self.center.assign(self.center + 1.0)
        return ops.mean((y_true - y_pred) ** 2, axis=-1)


def test_state_in_a_loss_is_held_and_written_once_a_batch():
    x, y = rows()
    loss = Centered()
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])

    train(pg.Supervised(model, "sgd", loss), (x, y))

    assert float(host(loss.center)) == len(x) // BATCH


class Shadow(layers.Layer):
    """An average of its weights, made as a list when it is built."""

    def __init__(self):
        super().__init__()
        self.dense, self.box = layers.Dense(2), Box(None)

    def build(self, shape):
        self.dense.build(shape)
        zeros = [np.zeros(w.shape, "float32") for w in self.dense.trainable_variables]
        self.box.held = [keras.Variable(zero) for zero in zeros]  # trainable, as by default

    def call(self, x):
        for average, weight in zip(self.box.held, self.dense.trainable_variables, strict=True):
            average.assign(0.5 * ops.convert_to_tensor(average) + 0.5 * weight)
        return self.dense(x)


@pytest.mark.spread(1)
@pytest.mark.parametrize("way", ["keras_fit", "Supervised"])
def test_an_average_of_weights_that_a_layer_makes_when_it_is_built(way, recwarn):
    x, y = rows()
    shadow = Shadow()
    model = keras.Sequential([shadow, layers.Dense(1)])

    if way == "keras_fit":
        model.compile(keras.optimizers.SGD(0.0), "mse")
        pg.keras_fit(model, x, y, batch_size=BATCH, verbose=0)
    else:
        train(supervised(model), (x, y))

    kernel = host(shadow.dense.kernel)
    share = 1 - 0.5 ** (len(x) // BATCH)
    np.testing.assert_allclose(host(shadow.box.held[0]), share * kernel, rtol=1e-5)
    assert all(variable.trainable for variable in shadow.box.held)
    assert not any("PG110" in str(warning.message) for warning in recwarn)


@pytest.mark.only_jax
def test_a_stateless_step_that_takes_variables_apart_by_layers_carries_states():
    import jax

    x, y = sequences()

    class Parts(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = model_of(layers.SimpleRNN(UNITS, stateful=True))
            self.second = keras.Sequential(
                [keras.Input((1,)), layers.BatchNormalization(), layers.Dense(1)]
            )
            self.built = True

        def call(self, x):
            return self.second(self.first(x))

        def train_step(self, state, data):
            trainable, others, slots, metrics = state
            x, y = data
            ours, theirs = (
                len(self.first.trainable_variables),
                len(self.first.non_trainable_variables),
            )

            def loss(trainable, others):
                z, one = self.first.stateless_call(trainable[:ours], others[:theirs], x)
                p, two = self.second.stateless_call(
                    trainable[ours:], others[theirs:], z, training=True
                )
                return ops.mean((z - y) ** 2) + 0.0 * ops.mean(p), one + two

            (value, others), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, others)
            trainable, slots = self.optimizer.stateless_apply(slots, gradients, trainable)
            return {"loss": value}, (trainable, others, slots, metrics)

    model = Parts()
    expected, state = loss_in_numpy(simple_step, model.first.get_weights(), x, y)
    model.compile(keras.optimizers.SGD(0.0))
    listed = len(model.non_trainable_variables)

    history = pg.keras_fit(model, x, y, batch_size=BATCH, shuffle=False, verbose=0).history

    np.testing.assert_allclose(history["loss"], [expected], rtol=1e-5)
    np.testing.assert_allclose(states_of(model)[0], state, rtol=1e-4, atol=1e-6)
    assert len(model.non_trainable_variables) == listed


@pytest.mark.spread(1)
@pytest.mark.only_tensorflow
@pytest.mark.parametrize("way", ["keras_fit", "Supervised", "held by the Step"])
def test_a_variable_of_tensorflow_counts_each_batch_once(way):
    import tensorflow as tf

    x, y = rows()

    class Counts(layers.Layer):
        def __init__(self):
            super().__init__()
            self.seen = tf.Variable(0, trainable=False, dtype="int64")

        def call(self, x):
            self.seen.assign_add(1)
            return x

    class Counter(Hand):
        def __init__(self, model):
            super().__init__(model)
            self.seen = tf.Variable(0, trainable=False, dtype="int64")

        def train_step(self, batch):
            self.seen.assign_add(1)
            return super().train_step(batch)

    counts = Counts()
    model = keras.Sequential([keras.Input((3,)), counts, layers.Dense(1)])
    counts.seen.assign(0)
    if way == "keras_fit":
        model.compile("sgd", "mse")
        pg.keras_fit(model, x, y, batch_size=BATCH, verbose=0, validation_data=(x, y))
    elif way == "Supervised":
        train(supervised(model), (x, y), validation=(x, y))
    else:
        counts = Counter(model)
        train(counts, (x, y))

    assert int(counts.seen) == len(x) // BATCH


@pytest.mark.only_tensorflow
def test_a_weight_where_keras_does_not_look_is_refused_unless_the_step_assigns_it():
    class Scale(layers.Layer):
        def __init__(self):
            super().__init__()
            self.box = Box(keras.Variable(2.0, name="factor"))

        def call(self, x):
            return x * self.box.held

    model = keras.Sequential([keras.Input((3,)), Scale(), layers.Dense(1)])

    with pytest.raises(UntrackedVariablesError, match="factor"):
        train(Hand(model), rows(), execution=EAGER)


def normalized(*adapted_to):
    keras.utils.set_random_seed(1)
    layer = layers.Normalization()
    for values in adapted_to:
        layer.adapt(values)
    return layer, supervised(keras.Sequential([keras.Input((3,)), layer, layers.Dense(1)]))


def test_a_layer_that_is_adapted_between_two_trainings_is_compiled_anew():
    x, y = rows()
    layer, step = normalized(100 * x)
    train(step, (x, y))

    layer.adapt(x)
    history = train(step, (x, y))

    expected = pg.evaluate(normalized(x)[1], (x, y), batch_size=BATCH)["loss"]
    np.testing.assert_allclose(history["loss"], [expected], rtol=1e-5)


def test_a_restored_layer_computes_with_what_it_was_adapted_to(tmp_path):
    x, y = rows()
    _, step = normalized(100 * x)
    train(step, (x, y), run=tmp_path / "run", execution=EAGER)
    expected = pg.evaluate(step, (x, y), batch_size=BATCH)["loss"]
    _, other = normalized()

    pg.Run(tmp_path / "run").restore(other, which="newest")

    np.testing.assert_allclose(
        pg.evaluate(other, (x, y), batch_size=BATCH)["loss"], expected, rtol=1e-5
    )
