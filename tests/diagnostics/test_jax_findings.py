"""Findings of a training on JAX: gradients of unused weights, and keys that never change."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg

if keras.backend.backend() != "jax":
    pytest.skip("they use JAX itself", allow_module_level=True)

import jax
from jax import random

X = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
Y = X[:, :1]


def codes(step, **arguments):
    """Return the codes of the findings of a training."""
    given = {"batch_size": 8, "seed": 0, "progress": "off", **arguments}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pg.fit(step, (X, Y), **given)
    return {
        str(w.message).partition("[")[2][:5]
        for w in caught
        if issubclass(w.category, pg.PerigeeWarning)
    }


class Differentiating(pg.Step):
    """Takes its own gradients, for the weights that it passes to `loss`."""

    def __init__(self):
        keras.utils.set_random_seed(0)
        self.model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        variables = self.model.trainable_variables
        weights = [v.value for v in variables]
        loss, gradients = jax.value_and_grad(lambda w: self.loss(w, batch))(weights)
        self.optimizer.apply(self.changed(gradients), variables)
        return {"loss": loss}

    def loss(self, weights, batch):
        predicted, _ = self.model.stateless_call(weights, [], batch[0])
        return ops.mean(ops.square(predicted - batch[1]))

    def changed(self, gradients):
        return gradients


class Unused(Differentiating):
    def loss(self, weights, batch):
        return ops.mean(ops.square(self.model(batch[0]) - batch[1]))


class Waiting(Differentiating):
    """Applies zeros until it has gathered enough, as loops that accumulate by hand."""

    def __init__(self):
        super().__init__()
        self.count = keras.Variable(0, dtype="int32", trainable=False)

    def changed(self, gradients):
        self.count.assign_add(1)
        return [ops.where(self.count.value % 4 == 0, g, 0.0) for g in gradients]


@pytest.mark.parametrize("execution", ["auto", "eager"])
def test_gradients_of_weights_that_the_call_does_not_use_are_named(execution):
    assert codes(Unused(), execution=execution) == {"PG120"}
    assert codes(Differentiating(), execution=execution) == set()


def test_it_can_be_meant():
    class Meant(Unused):
        ignore_findings = ("PG120",)

    assert codes(Meant()) == set()
    assert codes(Waiting()) == set()


class Noisy(pg.Step):
    def __init__(self):
        keras.utils.set_random_seed(0)
        self.model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.1)
        self.key = random.key(0)
        self.count = keras.Variable(0, dtype="int32", trainable=False)

    def noise(self, shape):
        return random.normal(self.key, shape)

    def train_step(self, batch):
        x = batch[0] + self.noise(batch[0].shape)
        objective = lambda: ops.mean(ops.square(self.model(x) - batch[1]))  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, self.model)}


class Folding(Noisy):
    def noise(self, shape):
        self.count.assign_add(1)
        return random.normal(random.fold_in(self.key, self.count.value), shape)


class Seeded(Noisy):
    def __init__(self):
        super().__init__()
        self.key = keras.random.SeedGenerator(0)

    def noise(self, shape):
        return random.normal(self.key.next(), shape)


class Raw(Noisy):
    def __init__(self):
        super().__init__()
        self.key = random.PRNGKey(0)


@pytest.mark.parametrize("kind", [Noisy, Raw])
@pytest.mark.parametrize("execution", ["auto", "eager"])
def test_a_key_that_never_changes_is_a_finding(kind, execution):
    assert codes(kind(), execution=execution) == {"PG444"}
    assert "key" in str(pg.check(kind(), (X, Y)))


@pytest.mark.parametrize("kind", [Folding, Seeded])
def test_other_keys_are_none(kind):
    assert codes(kind()) == set()
    assert "PG444" not in str(pg.check(kind(), (X, Y)))


def test_an_evaluation_may_draw_the_same():
    class Evaluating(Seeded):
        def __init__(self):
            super().__init__()
            self.fixed = random.key(1)

        def test_step(self, batch):
            x = batch[0] + random.normal(self.fixed, batch[0].shape)
            return {"loss": ops.mean(ops.square(self.model(x) - batch[1]))}

    assert codes(Evaluating(), validation=(X, Y)) == set()
