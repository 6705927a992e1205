"""Keys that are split, folded or made of a number in the step, and never stored: equal draws."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

FINDS = ("PG444",)

draw = np.random.default_rng(46)
x = draw.normal(size=(48, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]


def make():
    keras.utils.set_random_seed(47)
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])


def blurred(key, seed, x):
    _, sub = jax.random.split(key)
    x = x + 0.1 * jax.random.normal(sub, x.shape)
    x = x + 0.1 * jax.random.uniform(jax.random.fold_in(key, 3), x.shape)
    return jnp.where(jax.random.bernoulli(jax.random.key(seed), 0.9, x.shape), x, 0.0)


def plain():
    model, key = make(), jax.random.PRNGKey(5)

    @jax.jit
    def update(params, x, y):
        def loss_fn(params):
            return jnp.mean((model.stateless_call(params, [], blurred(key, 8, x))[0] - y) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), loss

    params, means = [v.value for v in model.trainable_variables], []
    for _ in range(2):
        losses = []
        for i in range(0, 48, 12):
            params, loss = update(params, x[i : i + 12], y[i : i + 12])
            losses.append(float(loss))
        means.append(np.mean(losses))
    return {"loss": np.array(means), "kernel": np.asarray(params[0])}


class Blurred(pg.Step):
    def __init__(self, model):
        self.model, self.optimizer = model, keras.optimizers.SGD(0.1)
        self.key, self.seed = jax.random.PRNGKey(5), 8

    def train_step(self, batch):
        x, y = batch
        x = blurred(self.key, self.seed, x)
        objective = lambda: jnp.mean((self.model(x, training=True) - y) ** 2)  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def perigee(**fit):
    step = Blurred(make())
    given = {"epochs": 2, "batch_size": 12, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    return {"loss": np.array(history.history["loss"]), "kernel": step.model.get_weights()[0]}
