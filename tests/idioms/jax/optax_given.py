"""An optimizer of Optax, given to `minimize` as Keras's are."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax

import perigee as pg

REFUSED = "PG601"

draw = np.random.default_rng(5)
x = draw.normal(size=(64, 5)).astype("float32")
y = (x @ draw.normal(size=(5, 1))).astype("float32")


def network():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)]
    )


def plain(tx=None):
    model, tx = network(), tx or optax.adamw(1e-2)
    weights = [v.value for v in model.trainable_variables]
    slots = tx.init(weights)

    def loss_fn(weights, x, y):
        predicted, _ = model.stateless_call(weights, [], x, training=True)
        return jnp.mean((predicted - y) ** 2)

    @jax.jit
    def update(weights, slots, x, y):
        loss, gradients = jax.value_and_grad(loss_fn)(weights, x, y)
        updates, slots = tx.update(gradients, slots, weights)
        return optax.apply_updates(weights, updates), slots, loss

    means = []
    for _ in range(2):
        losses = []
        for i in range(0, 64, 16):
            weights, slots, loss = update(weights, slots, x[i : i + 16], y[i : i + 16])
            losses.append(float(loss))
        means.append(np.mean(losses))
    return {"loss": np.array(means)} | {str(i): np.asarray(w) for i, w in enumerate(weights)}


class Regression(pg.Step):
    def __init__(self, model, optimizer):
        self.model = model
        self.optimizer = optimizer

    def train_step(self, batch):
        x, y = batch

        def objective():
            return jnp.mean((self.model(x, training=True) - y) ** 2)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def trained(step, **fit):
    given = {"epochs": 2, "batch_size": 16, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    weights = enumerate(step.model.trainable_variables)
    return {"loss": np.array(history.history["loss"])} | {
        str(i): np.asarray(w.value) for i, w in weights
    }


def perigee(**fit):
    return trained(Regression(network(), optax.adamw(1e-2)), **fit)
