"""State that steps on JAX keep as attributes: refused with the lines that hold it."""

from collections import namedtuple

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import KeptTensorError

if keras.backend.backend() != "jax":
    pytest.skip("they use JAX itself", allow_module_level=True)

import jax
import jax.numpy as jnp

X = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
Y = X[:, :1]
Momentum = namedtuple("Momentum", ["trace", "count", "nothing"])


class Holding(pg.Step):
    def __init__(self):
        keras.utils.set_random_seed(0)
        self.model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.1)
        self.hold()

    def hold(self):
        pass

    def scale(self):
        return 1.0

    def train_step(self, batch):
        x, y = batch
        factor = self.scale()
        objective = lambda: factor * ops.mean(ops.square(self.model(x) - y))  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def fit(step, **arguments):
    given = {"batch_size": 4, "epochs": 2, "seed": 0, "progress": "off", **arguments}
    return pg.fit(step, (X, Y), **given).history["loss"]


class Array(Holding):
    def hold(self):
        self.mean = jnp.float32(1.0)

    def scale(self):
        self.mean = 0.5 * self.mean + 0.1
        return self.mean


class ArrayHeld(Array):
    def hold(self):
        super().hold()
        self.mean = keras.Variable(self.mean, trainable=False)

    def scale(self):
        self.mean.assign(0.5 * self.mean + 0.1)
        return self.mean.value


class Keys(Holding):
    def hold(self):
        self.key = jax.random.key(0)

    def scale(self):
        self.key, key = jax.random.split(self.key)
        return jax.random.uniform(key)


class KeysHeld(Keys):
    def hold(self):
        self.key = keras.random.SeedGenerator(0)

    def scale(self):
        key = self.key.next()
        return jax.random.uniform(key)


class RawKeys(Keys):
    def hold(self):
        self.key = jax.random.PRNGKey(0)


class RawKeysHeld(RawKeys):
    def hold(self):
        super().hold()
        self.key = keras.Variable(self.key, trainable=False)

    def scale(self):
        following, key = jax.random.split(self.key.value)
        self.key.assign(following)
        return jax.random.uniform(key)


def next_of(state):
    trace = jax.tree.map(lambda x: 0.9 * x + 1, state[0].trace)
    return Momentum(trace, state[0].count + 1, None), state[1]


class Tree(Holding):
    """The state of an optimizer of Optax is such a tree."""

    def hold(self):
        self.state = (Momentum({"kernel": jnp.ones(3)}, jnp.int32(0), None), ())

    def scale(self):
        self.state = next_of(self.state)
        return jnp.sum(self.state[0].trace["kernel"]) / self.state[0].count


class TreeHeld(Tree):
    def hold(self):
        super().hold()
        self.state = jax.tree.map(lambda x: keras.Variable(x, trainable=False), self.state)

    def scale(self):
        before = jax.tree.map(lambda v: v.value, self.state)
        after = next_of(before)
        jax.tree.map(lambda v, new: v.assign(new), self.state, after)
        return jnp.sum(after[0].trace["kernel"]) / after[0].count


class OfPackage(Holding):
    """A class of an installed package that JAX takes apart."""

    def hold(self):
        self.multiply = jax.tree_util.Partial(jnp.multiply, jnp.float32(2.0))

    def scale(self):
        self.multiply = jax.tree_util.Partial(jnp.multiply, self.multiply(0.9))
        return self.multiply(1.0)


KINDS = [Array, Keys, RawKeys, Tree]


@pytest.mark.parametrize("kind", KINDS)
def test_an_eager_step_may_replace_it_and_resumes(kind, tmp_path):
    whole = fit(kind(), execution="eager")
    fit(kind(), epochs=1, execution="eager", run=tmp_path / "run")

    assert fit(kind(), execution="eager", run=tmp_path / "run") == whole


@pytest.mark.parametrize(
    ("kind", "execution"), [*((k, "auto") for k in (*KINDS, OfPackage)), (OfPackage, "eager")]
)
def test_it_is_refused_and_restored(kind, execution):
    step = kind()
    before = {name: value for name, value in vars(step).items() if name[0] != "_"}

    with pytest.raises(KeptTensorError, match=r"self\.\w+ = "):
        fit(step, execution=execution)

    assert all(getattr(step, name) is value for name, value in before.items())


@pytest.mark.parametrize(
    ("kind", "held"),
    [(Array, ArrayHeld), (Keys, KeysHeld), (RawKeys, RawKeysHeld), (Tree, TreeHeld)],
)
def test_the_lines_of_the_fix_train_and_resume(kind, held, tmp_path):
    with pytest.raises(KeptTensorError) as caught:
        fit(kind())
    hold = caught.value.fix.splitlines()[1].strip()

    whole = fit(held())
    fit(held(), epochs=1, run=tmp_path / "run")

    assert fit(held(), run=tmp_path / "run") == whole
    step = kind()
    exec(hold, {"self": step, "keras": keras, "jax": jax})
    assert [v.dtype for v in jax.tree.leaves(vars(step)) if isinstance(v, keras.Variable)] == [
        v.dtype for v in jax.tree.leaves(vars(held())) if isinstance(v, keras.Variable)
    ]


def test_numbers_are_those_of_a_plain_loop():
    state, factors = Tree().state, []
    for _ in range(8):
        state = next_of(state)
        factors.append(float(jnp.sum(state[0].trace["kernel"]) / state[0].count))

    class Once(TreeHeld):
        def train_step(self, batch):
            return {"factor": self.scale()}

        ignore_findings = ("PG112",)

    history = pg.fit(Once(), (X, Y), batch_size=4, epochs=2, seed=0, progress="off").history

    np.testing.assert_allclose(
        history["factor"], [np.mean(factors[:4]), np.mean(factors[4:])], rtol=1e-6
    )
