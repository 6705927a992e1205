"""A key that is held and never split, as beginners write it: the same mask at every step."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

FINDS = ("PG444",)

draw = np.random.default_rng(6)
x = draw.normal(size=(64, 10)).astype("float32")
y = draw.integers(4, size=64).astype("int32")


def make():
    keras.utils.set_random_seed(7)
    return keras.Sequential([keras.Input((10,)), keras.layers.Dense(4)])


def masked_loss(logits_of, key, x, y):
    keep = jax.random.bernoulli(key, 0.8, x.shape)
    log_p = jax.nn.log_softmax(logits_of(jnp.where(keep, x / 0.8, 0.0)))
    return -jnp.mean(jnp.sum(jax.nn.one_hot(y, 4) * log_p, axis=-1))


def plain():
    model, key = make(), jax.random.PRNGKey(0)

    @jax.jit
    def update(params, x, y):
        def loss_fn(params):
            return masked_loss(lambda x: model.stateless_call(params, [], x)[0], key, x, y)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        return jax.tree.map(lambda p, g: p - 0.5 * g, params, grads), loss

    params, means = [v.value for v in model.trainable_variables], []
    for _ in range(3):
        losses = []
        for i in range(0, 64, 16):
            params, loss = update(params, x[i : i + 16], y[i : i + 16])
            losses.append(float(loss))
        means.append(np.mean(losses))
    return {"loss": np.array(means), "kernel": np.asarray(params[0])}


class Masked(pg.Step):
    def __init__(self, model):
        self.model, self.optimizer = model, keras.optimizers.SGD(0.5)
        self.key = jax.random.PRNGKey(0)

    def train_step(self, batch):
        def objective():
            return masked_loss(self.model, self.key, *batch)

        return {"loss": self.minimize(objective, self.optimizer)}


def perigee(**fit):
    step = Masked(make())
    given = {"epochs": 3, "batch_size": 16, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    return {"loss": np.array(history.history["loss"]), "kernel": step.model.get_weights()[0]}
