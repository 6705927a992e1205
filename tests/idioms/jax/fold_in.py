"""Random crops of a signal: one key for the training, folded with the count of updates."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(5)
x = draw.normal(size=(90, 16)).astype("float32")
y = x[:, 6:10].mean(axis=1, keepdims=True)


def make():
    keras.utils.set_random_seed(6)
    layers = [keras.layers.Dense(6, activation="gelu"), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((12,)), *layers]), keras.optimizers.Adam(0.01)


def crop(key, rows):
    starts = jax.random.randint(key, (rows.shape[0],), 0, 5)
    return jax.vmap(lambda row, start: jax.lax.dynamic_slice(row, (start,), (12,)))(rows, starts)


def plain():
    model, optimizer = make()
    optimizer.build(model.trainable_variables)
    key, means = jax.random.PRNGKey(8), []
    for _ in range(2):
        losses, rows = [], []
        for i in range(0, 90, 16):
            signal, target = x[i : i + 16], y[i : i + 16]
            cropped = crop(jax.random.fold_in(key, optimizer.iterations.value), signal)

            def loss_fn(params, cropped=cropped, target=target):
                return jnp.mean((model.stateless_call(params, [], cropped)[0] - target) ** 2)

            params = [v.value for v in model.trainable_variables]
            loss, grads = jax.value_and_grad(loss_fn)(params)
            optimizer.apply(grads, model.trainable_variables)
            losses.append(float(loss))
            rows.append(len(signal))
        means.append(np.average(losses, weights=rows))
    return {"loss": np.array(means), "out": np.asarray(model(x[:, :12]))}


class Cropped(pg.Step):
    def __init__(self, model, optimizer, key):
        self.model, self.optimizer, self.key = model, optimizer, key

    def train_step(self, batch):
        signal, target = batch
        key = jax.random.fold_in(self.key, self.optimizer.iterations.value)
        cropped = crop(key, signal)

        def objective():
            return jnp.mean((self.model(cropped, training=True) - target) ** 2)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def perigee(**fit):
    step = Cropped(*make(), jax.random.PRNGKey(8))
    given = {"epochs": 2, "batch_size": 16, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    return {"loss": np.array(history.history["loss"]), "out": np.asarray(step.model(x[:, :12]))}
