"""Keys that come with the batch: each step draws what its key says, and nothing is suspected."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(48)
x = draw.normal(size=(48, 4)).astype("float32")
y = x[:, :1]
words = draw.integers(1000, size=(48,)).astype("int32")


def make():
    keras.utils.set_random_seed(49)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])


def blurred(words, x):
    return x + 0.1 * jax.random.normal(jax.random.key(words[0]), x.shape)


def plain():
    model = make()

    @jax.jit
    def update(params, x, y, words):
        def loss_fn(params):
            return jnp.mean((model.stateless_call(params, [], blurred(words, x))[0] - y) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), loss

    params, means = [v.value for v in model.trainable_variables], []
    for _ in range(2):
        losses = []
        for i in range(0, 48, 12):
            part = slice(i, i + 12)
            params, loss = update(params, x[part], y[part], words[part])
            losses.append(float(loss))
        means.append(np.mean(losses))
    return {"loss": np.array(means), "kernel": np.asarray(params[0])}


class Blurred(pg.Step):
    def __init__(self, model):
        self.model, self.optimizer = model, keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y, words = batch
        x = blurred(words, x)
        objective = lambda: jnp.mean((self.model(x, training=True) - y) ** 2)  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def perigee(**fit):
    step = Blurred(make())
    given = {"epochs": 2, "batch_size": 12, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y, words), **given)
    return {"loss": np.array(history.history["loss"]), "kernel": step.model.get_weights()[0]}
