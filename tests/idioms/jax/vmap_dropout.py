"""One example at a time under `jax.vmap`, through a model with Dropout: one mask for all rows."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(46)
x = draw.normal(size=(48, 6)).astype("float32")
y = draw.normal(size=(48, 2)).astype("float32")


def make():
    keras.utils.set_random_seed(47)
    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dropout(0.3)]
    return keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(2)])


def plain():
    model = make()

    @jax.jit
    def update(params, seeds, x, y):
        def loss_fn(params):
            def one(row):
                out, new = model.stateless_call(params, seeds, row[None], training=True)
                return out[0], new

            y_pred, new = jax.vmap(one, out_axes=(0, None))(x)
            return jnp.mean((y_pred - y) ** 2), new

        (loss, new), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), new, loss

    params = [v.value for v in model.trainable_variables]
    seeds, means = [v.value for v in model.non_trainable_variables], []
    for _ in range(2):
        losses = []
        for i in range(0, 48, 12):
            params, seeds, loss = update(params, seeds, x[i : i + 12], y[i : i + 12])
            losses.append(float(loss))
        means.append(np.mean(losses))
    return {"loss": np.array(means), "seed": np.asarray(seeds[0]), "w": np.asarray(params[0])}


class RowByRow(pg.Step):
    def __init__(self, model):
        self.model, self.optimizer = model, keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch

        def objective():
            y_pred = jax.vmap(lambda row: self.model(row[None], training=True)[0])(x)
            return jnp.mean((y_pred - y) ** 2)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def perigee(**fit):
    step = RowByRow(make())
    given = {"epochs": 2, "batch_size": 12, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    seed = np.asarray(step.model.non_trainable_variables[0])
    loss, w = np.array(history.history["loss"]), step.model.get_weights()[0]
    return {"loss": loss, "seed": seed, "w": w}
