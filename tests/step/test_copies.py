"""A copy begins exactly where the original stands, and shares nothing with it."""

import copy
import pickle

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import ArgumentError, ModelCopyError, PerigeeError
from perigee._step.state import snapshot

ROWS, FEATURES = 4, 3


def x():
    return np.random.default_rng(0).normal(size=(ROWS, FEATURES)).astype("float32")


def functional():
    inputs = keras.Input((FEATURES,))
    shared = keras.layers.Dense(FEATURES, activation="tanh", name="shared")
    hidden = shared(shared(inputs))
    hidden = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(hidden))
    return keras.Model(inputs, {"a": keras.layers.Dense(1)(hidden), "b": ops.sum(hidden, axis=-1)})


def sequential():
    return keras.Sequential(
        [keras.layers.Input((FEATURES,)), keras.layers.Dense(2), keras.layers.BatchNormalization()]
    )


def built_by_its_first_call():
    model = keras.Sequential([keras.layers.Dense(2), keras.layers.Dropout(0.5)])
    model(x())
    return model


def nested():
    inputs = keras.Input((FEATURES,))
    return keras.Model(inputs, keras.layers.Dense(1)(sequential()(inputs)))


class Subclass(keras.Model):
    """A model of one's own, with a variable beside its layers."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.encoder = sequential()
        self.head = keras.layers.Dense(units)
        self.shift = keras.Variable(np.zeros(units, "float32"), trainable=False)

    def call(self, inputs, training=False):
        return self.head(self.encoder(inputs, training=training)) + self.shift

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def subclass():
    model = Subclass(3)
    model(x())
    return model


def layer():
    dense = keras.layers.Dense(2)
    dense.build((None, FEATURES))
    return dense


def half_precision():
    return keras.Sequential(
        [
            keras.layers.Input((FEATURES,)),
            keras.layers.Dense(2, dtype="mixed_float16"),
            keras.layers.Dense(1, dtype="bfloat16"),
        ]
    )


MAKERS = [
    functional,
    sequential,
    built_by_its_first_call,
    nested,
    subclass,
    layer,
    half_precision,
]


def scramble(model):
    """Give every weight a value that no initializer would draw."""
    draw = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(draw.uniform(0.1, 1.0, size=tuple(weight.shape)))


def assert_same_bits(ours, theirs):
    assert [v.dtype for v in ours] == [v.dtype for v in theirs]
    for a, b, path in zip(snapshot(ours), snapshot(theirs), [v.path for v in theirs], strict=True):
        assert a.tobytes() == b.tobytes(), path


def outputs(model, training):
    keras.utils.set_random_seed(3)  # torch draws masks from its global generator
    flat = keras.tree.flatten(model(x(), training=training))
    return [np.asarray(ops.convert_to_numpy(ops.cast(value, "float32"))) for value in flat]


@pytest.mark.parametrize("make", MAKERS)
def test_a_copy_has_the_same_bits_and_computes_the_same(make):
    model = make()
    scramble(model)

    copy = pg.copy_of(model)

    assert type(copy) is type(model)
    assert copy.built
    assert_same_bits(copy.variables, model.variables)
    is_random = any(
        isinstance(inner, keras.layers.Dropout) for inner in getattr(model, "layers", [])
    )
    if not isinstance(model, keras.Model):
        copied, given = ops.convert_to_numpy(copy(x())), ops.convert_to_numpy(model(x()))
        np.testing.assert_array_equal(copied, given)
        return
    for training in (False, True) if is_random else (False,):
        # In training the masks agree too: the copy has the seeds, and their next draw.
        for ours, theirs in zip(outputs(copy, training), outputs(model, training), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("make", MAKERS)
def test_what_happens_to_one_does_not_happen_to_the_other(make):
    model = make()
    copy = pg.copy_of(model)
    before = snapshot(copy.variables)

    scramble(model)

    assert not {id(v) for v in model.variables} & {id(v) for v in copy.variables}
    for old, new in zip(before, snapshot(copy.variables), strict=True):
        np.testing.assert_array_equal(old, new)


def test_trainable_flags_are_copied_where_a_config_does_not_tell_them():
    """The config of a subclass says nothing of its inner layers."""
    model = subclass()
    model.encoder.layers[1].trainable = False
    model.head.bias.trainable = False

    copy = pg.copy_of(model)

    assert [v.trainable for v in copy.variables] == [v.trainable for v in model.variables]
    assert not copy.encoder.layers[1].trainable
    assert copy.encoder.layers[0].trainable


def test_a_frozen_model_has_a_frozen_copy():
    model = nested()
    model.trainable = False

    copy = pg.copy_of(model)

    assert copy.trainable_variables == []
    assert_same_bits(copy.variables, model.variables)


class WithoutConfig(keras.Model):
    """Takes a function, of which Keras can make no config."""

    def __init__(self, function):
        super().__init__()
        self.dense, self.function = keras.layers.Dense(2), function

    def call(self, inputs):
        return self.function(self.dense(inputs))


class WithLiveConfig(keras.Model):
    """Gives its layer itself as config, and never turns it back into a layer."""

    def __init__(self, dense, **kwargs):
        super().__init__(**kwargs)
        self.dense = dense

    def call(self, inputs):
        return self.dense(inputs)

    def get_config(self):
        return {"dense": self.dense}


class SharingItself(WithLiveConfig):
    """Is made anew around the very layer of the original."""

    made: list = []  # noqa: RUF012

    @classmethod
    def from_config(cls, config):
        return cls(cls.made[0])


class BuiltByChance(keras.Model):
    """Has weights that only its second kind of call makes."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = keras.layers.Dense(2), keras.layers.Dense(2)

    def call(self, inputs, training=False):
        return self.second(inputs) if training else self.first(inputs)


class AnotherCall(keras.Model):
    """A functional model with a constructor and a `call` of its own."""

    def __init__(self, units):
        inputs = keras.Input((FEATURES,))
        super().__init__(inputs, keras.layers.Dense(units)(inputs))

    def call(self, inputs, training=False):
        return super().call(inputs) * 2


class KeptInALayer(keras.Model):
    """Has no `get_config`, and Keras makes one up of the defaults, whatever was given."""

    def __init__(self, rate=0.1, activation="relu", **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(2, activation=activation)
        self.dropout = keras.layers.Dropout(rate)

    def call(self, inputs, training=False):
        return self.dropout(self.dense(inputs), training=training)


def kept_in_a_layer(**arguments):
    model = KeptInALayer(**arguments)
    model(x())
    return model


def changed_afterwards():
    model = subclass()
    model.temperature = 3.0
    return model


def without_config():
    model = WithoutConfig(lambda values: values * 2)
    model(x())
    return model


def with_live_config():
    model = WithLiveConfig(keras.layers.Dense(2))
    model(x())
    return model


def sharing_itself():
    model = SharingItself(keras.layers.Dense(2))
    model(x())
    SharingItself.made = [model.dense]
    return model


def built_by_chance():
    model = BuiltByChance()
    model(x())
    model(x(), training=True)
    return model


def around_a_lambda():
    double = keras.layers.Lambda(lambda values: values * 2)
    return keras.Sequential([keras.layers.Input((FEATURES,)), double, keras.layers.Dense(2)])


@pytest.mark.filterwarnings("ignore:Model 'with_live_config", "ignore:`build\\(\\)` was called")
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (without_config, "NotImplementedError"),
        (with_live_config, "instead of 2"),
        (sharing_itself, "share"),
        (built_by_chance, "recreated, it has 2 variables instead of 4"),
        (lambda: AnotherCall(2), "as a Functional"),
        (around_a_lambda, "ValueError"),
        (lambda: kept_in_a_layer(rate=0.7), "rate=0.1 instead of 0.7"),
        (lambda: kept_in_a_layer(activation="tanh"), "instead of 'keras.src.activations"),
        (changed_afterwards, "temperature=None instead of 3.0"),
        (lambda: keras.Sequential([keras.layers.Dense(2)]), "not built"),
    ],
)
def test_a_model_without_an_exact_copy_is_refused_with_the_reason(make, why):
    model = make()

    with pytest.raises(ModelCopyError, match="PG409") as raised:
        pg.copy_of(model)

    assert why in raised.value.why
    assert model.name in raised.value.model
    assert isinstance(raised.value, PerigeeError)
    assert isinstance(raised.value, ValueError)


def test_a_model_that_was_made_with_its_defaults_needs_no_config_of_its_own():
    model = kept_in_a_layer()

    assert_same_bits(pg.copy_of(model).variables, model.variables)


def test_a_model_that_was_trained_and_stopped_by_keras_is_copied():
    model = sequential()
    model.compile("adam", "mse")
    model.fit(x(), np.zeros((ROWS, 2)), verbose=0)
    model.stop_training = True

    assert_same_bits(pg.copy_of(model).variables, model.variables)


def test_what_is_no_model_is_refused():
    with pytest.raises(ArgumentError, match="PG601"):
        pg.copy_of(keras.optimizers.Adam())


# Moving a copy.


class Following(pg.Step):
    """Trains one network, and moves another one toward it."""

    def __init__(self, rate, target=None):
        keras.utils.set_random_seed(2)
        self.model = sequential()
        self.target = pg.copy_of(self.model) if target is None else target
        self.optimizer = keras.optimizers.SGD(0.1)
        self.rate = rate
        self.first = self.model.get_weights()[0]

    def train_step(self, batch):
        def objective():
            return ops.sum(ops.square(self.model(batch, training=True)), axis=-1)

        loss = self.minimize(objective, self.optimizer, self.model)
        self.blend(self.model, self.target, self.rate)
        return {"loss": loss}


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0, 1])
def test_a_target_moves_by_its_rate_at_each_step(rate):
    step = Following(rate)
    expected = step.target.get_weights()

    for _ in range(3):
        pg.fit(step, x(), progress="off")
        ours = step.model.get_weights()
        expected = [(1 - rate) * old + rate * new for old, new in zip(expected, ours, strict=True)]

    for found, wanted in zip(step.target.get_weights(), expected, strict=True):
        assert np.allclose(found, wanted, rtol=1e-6, atol=1e-7)
    assert not np.array_equal(ours[0], step.first)
    if rate == 1:
        for found, wanted in zip(step.target.get_weights(), ours, strict=True):
            assert found.tobytes() == wanted.tobytes()


def test_a_rate_may_be_a_tensor():
    step = Following(0.5)
    step.rate = keras.Variable(0.25, trainable=False)
    before = step.target.get_weights()

    pg.fit(step, x(), progress="off")

    pairs = zip(step.target.get_weights(), before, step.model.get_weights(), strict=True)
    assert all(np.allclose(found, 0.75 * old + 0.25 * new) for found, old, new in pairs)


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_a_rate_beyond_its_range_is_refused(rate):
    with pytest.raises(ArgumentError, match="rate"):
        pg.fit(Following(rate), x(), progress="off")


@pytest.mark.parametrize("kind", ["itself", "other", "not built"])
def test_a_target_of_another_form_is_refused(kind):
    step = Following(0.5, target=functional())
    if kind == "itself":
        step.target = step.model
    if kind == "not built":
        step.target = keras.Sequential([keras.layers.Dense(2)])

    with pytest.raises(ArgumentError, match="copy_of"):
        pg.fit(step, x(), progress="off")


def test_a_target_that_would_move_with_each_micro_batch_is_refused():
    with pytest.raises(PerigeeError, match="PG209"):
        pg.fit(Following(0.5), x(), batch_size=2, accumulate=2, progress="off")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda step: pickle.loads(pickle.dumps(step))])
def test_a_trained_step_can_be_copied_with_pythons_means(copied):
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    step = pg.Supervised(model, keras.optimizers.SGD(0.1), "mse")
    pg.fit(step, (x, x[:, :2]), batch_size=4, progress="off", execution="eager")

    kept = copied(step)
    before = pg.predict(kept, x, execution="eager")
    pg.fit(step, (x, x[:, :2]), batch_size=4, progress="off", execution="eager")

    assert np.array_equal(pg.predict(kept, x, execution="eager"), before)
    assert not np.array_equal(pg.predict(step, x, execution="eager"), before)
