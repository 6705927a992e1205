"""Layers with state inside functions that JAX transforms, as its users write them."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import LeakedStateError, UnusedVariablesError

if keras.backend.backend() != "jax":
    pytest.skip("they use JAX itself", allow_module_level=True)

import jax
import jax.numpy as jnp

X = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
Y = X[:, :1]


def in_scan(model):
    def call(x):
        return jax.lax.scan(lambda c, rows: (c, model(rows, training=True)), 0, x[None])[1][0]

    return call


def in_cond(model):
    def call(x):
        return jax.lax.cond(
            jnp.sum(x) > 0, lambda x: model(x, training=True), lambda x: -model(x, training=True), x
        )

    return call


WAYS = {
    "checkpoint": lambda model: jax.checkpoint(lambda x: model(x, training=True)),
    "remat": lambda model: jax.remat(lambda x: model(x, training=True)),
    "jit": lambda model: jax.jit(lambda x: model(x, training=True)),
    "scan": in_scan,
    "cond": in_cond,
    "vmap": lambda model: jax.vmap(lambda row: model(row[None], training=True)[0]),
}

LAYERS = {
    "dropout": lambda: keras.layers.Dropout(0.5, seed=1),
    "statistics": keras.layers.BatchNormalization,
    "recurrent": lambda: keras.Sequential(
        [keras.layers.Reshape((4, 1)), keras.layers.GRU(4, dropout=0.5, seed=1)]
    ),
    "nothing": lambda: keras.layers.Activation("relu"),
}


class Transforming(pg.Step):
    def __init__(self, layer, transform):
        keras.utils.set_random_seed(0)
        inner = [keras.layers.Dense(4), LAYERS[layer](), keras.layers.Dense(1)]
        self.model = keras.Sequential([keras.Input((3,)), *inner])
        self.optimizer = keras.optimizers.SGD(0.1)
        self.transform = transform

    def train_step(self, batch):
        x, y = batch

        def objective():
            return ops.mean(ops.square(self.transform(self.model)(x) - y))

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def fit(step, **arguments):
    given = {"batch_size": 8, "epochs": 2, "seed": 0, "progress": "off", **arguments}
    return pg.fit(step, (X, Y), **given).history


@pytest.mark.parametrize(
    ("layer", "way"),
    [
        *(("dropout", way) for way in WAYS if way != "vmap"),  # a seed is that of all examples
        *(("statistics", way) for way in WAYS),
        ("recurrent", "checkpoint"),
    ],
)
def test_state_that_cannot_leave_is_refused(layer, way):
    with pytest.raises(LeakedStateError, match="stateless_call") as caught:
        fit(Transforming(layer, WAYS[way]))

    assert any(name in str(caught.value.variables) for name in ("seed", "moving"))


@pytest.mark.parametrize("way", ["checkpoint", "vmap"])
def test_so_it_is_eagerly(way):
    with pytest.raises(LeakedStateError, match="moving_mean"):
        fit(Transforming("statistics", WAYS[way]), execution="eager")


def test_gradients_of_its_own():
    def call(model):
        def called(x):
            slope = jax.grad(lambda x: jnp.sum(model(x, training=True)))(x)
            return model(x, training=True) + 0 * slope[:, :1]

        return called

    with pytest.raises(LeakedStateError, match="stateless_call"):
        fit(Transforming("statistics", call))


@pytest.mark.parametrize("way", ["checkpoint", "jit", "scan", "cond", "vmap"])
def test_layers_without_state_train_as_without_it(way):
    plain = fit(Transforming("nothing", lambda model: model))["loss"]
    expected = fit(Transforming("nothing", in_cond))["loss"] if way == "cond" else plain

    np.testing.assert_allclose(fit(Transforming("nothing", WAYS[way]))["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("transform", [jax.checkpoint, jax.jit], ids=["checkpoint", "jit"])
@pytest.mark.parametrize("layer", ["dropout", "statistics"])
def test_the_lines_of_the_fix_train_as_without_it(layer, transform):
    def pasted(model):
        def called(x):
            weights = [v.value for v in model.trainable_variables]
            state = [v.value for v in model.non_trainable_variables]
            y_pred, state = transform(lambda w, s, x: model.stateless_call(w, s, x, training=True))(
                weights, state, x
            )
            for variable, value in zip(model.non_trainable_variables, state, strict=True):
                variable.assign(value)
            return y_pred

        return called

    plain = Transforming(layer, lambda model: lambda x: model(x, training=True))
    other = Transforming(layer, pasted)

    np.testing.assert_allclose(fit(other)["loss"], fit(plain)["loss"], rtol=1e-5)
    for one, two in zip(plain.model.variables, other.model.variables, strict=True):
        np.testing.assert_allclose(one.numpy(), two.numpy(), rtol=1e-4, atol=1e-6)


class WithHelper(pg.Step):
    """A function compiled by `jax.jit` reads the model, as in loops that were written by hand."""

    def __init__(self):
        keras.utils.set_random_seed(0)
        self.model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.1)
        self.forward = jax.jit(lambda x: self.model(x))

    def train_step(self, batch):
        def objective():
            return ops.mean(ops.square(self.forward(batch[0]) - batch[1]))

        return {"loss": self.minimize(objective, self.optimizer, self.model)}

    def test_step(self, batch):
        return {"loss": ops.mean(ops.square(self.forward(batch[0]) - batch[1]))}


class WithoutHelper(WithHelper):
    def __init__(self):
        super().__init__()
        self.forward = self.model


@pytest.mark.parametrize("execution", ["auto", "eager"])
def test_a_compiled_function_sees_the_weights_of_today(execution):
    step = WithHelper()
    for rows in (X, X[:8]):
        step.forward(rows)  # it keeps the weights of this moment
    given = {"validation": (X, Y), "execution": execution}

    assert fit(step, **given) == fit(WithoutHelper(), **given)


class CalledBefore(WithHelper):
    def train_step(self, batch):
        self.forward(batch[0])
        return super().train_step(batch)


def test_one_that_was_called_before_the_objective_sees_them_too():
    assert fit(CalledBefore()) == fit(WithoutHelper())


def test_eagerly_it_is_named():
    with pytest.raises((UnusedVariablesError, LeakedStateError), match=r"self\.forward.*jax\.jit"):
        fit(CalledBefore(), execution="eager")


def test_a_model_is_transformed_before_the_objective_and_in_it():
    class Twice(WithHelper):
        def __init__(self):
            super().__init__()
            self.forward = jax.checkpoint(self.model)

        def train_step(self, batch):
            self.forward(batch[0])
            return super().train_step(batch)

    first, second = fit(Twice())["loss"], fit(Twice())["loss"]

    np.testing.assert_allclose([first, second], [fit(WithoutHelper())["loss"]] * 2, rtol=1e-5)


class Checkpointed(pg.Step):
    def __init__(self, wrapped):
        self.block = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
        self.head = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        self.optimizer, self.wrapped = keras.optimizers.SGD(0.1), wrapped

    def train_step(self, batch):
        def objective():
            return keras.ops.mean(self.head(jax.checkpoint(self.wrapped(self.block))(batch)) ** 2)

        return {"loss": self.minimize(objective, self.optimizer, [self.block, self.head])}


def test_the_advice_on_a_trace_that_is_reused_eagerly_works():
    x = np.ones((8, 4), "float32")
    given = {"batch_size": 4, "execution": "eager", "progress": "off"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(jax.errors.UnexpectedTracerError) as caught:
            pg.fit(Checkpointed(lambda block: block), x, **given)
    assert any("jax.checkpoint(lambda h: block(h))" in note for note in caught.value.__notes__)

    history = pg.fit(Checkpointed(lambda block: lambda h: block(h)), x, **given)

    assert len(history.history["loss"]) == 1
