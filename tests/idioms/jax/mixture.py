"""Weights of two losses, learned as logits in a `keras.Variable` beside the model."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(34)
x = draw.normal(size=(60, 3)).astype("float32")
y = (x @ np.array([[1.0], [-1.0], [0.5]]) + draw.standard_t(2, size=(60, 1))).astype("float32")


def make():
    keras.utils.set_random_seed(35)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


def mixed(y_pred, y, logits):
    error = y_pred - y
    terms = jnp.stack([jnp.mean(error**2), jnp.mean(jnp.abs(error)), jnp.mean(jnp.log1p(error**2))])
    weights = jax.nn.softmax(logits)
    return weights @ terms - 0.5 * jnp.sum(weights * jnp.log(weights))


def plain():
    model = make()

    @jax.jit
    def update(params, logits, x, y):
        def loss_fn(both):
            return mixed(model.stateless_call(both[0], [], x)[0], y, both[1])

        loss, grads = jax.value_and_grad(loss_fn)((params, logits))
        return *jax.tree.map(lambda p, g: p - 0.1 * g, (params, logits), grads), loss

    params, logits, means = [v.value for v in model.trainable_variables], jnp.zeros(3), []
    for _ in range(2):
        losses = []
        for i in range(0, 60, 10):
            params, logits, loss = update(params, logits, x[i : i + 10], y[i : i + 10])
            losses.append(float(loss))
        means.append(np.mean(losses))
    return {"loss": np.array(means), "w": np.asarray(params[0]), "logits": np.asarray(logits)}


class Mixture(pg.Step):
    def __init__(self, model):
        self.model, self.optimizer = model, keras.optimizers.SGD(0.1)
        self.logits = keras.Variable(np.zeros(3, "float32"), name="logits")

    def train_step(self, batch):
        x, y = batch
        objective = lambda: mixed(self.model(x, training=True), y, self.logits.value)  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, [self.model, self.logits])}


def perigee(**fit):
    step = Mixture(make())
    given = {"epochs": 2, "batch_size": 10, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    w, logits = step.model.get_weights()[0], np.asarray(step.logits)
    return {"loss": np.array(history.history["loss"]), "w": w, "logits": logits}
