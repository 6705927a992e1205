"""A block with Dropout and BatchNorm under `jax.remat`, called with `training=True`."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

REFUSED = "PG113"

x = np.random.default_rng(13).normal(size=(60, 4)).astype("float32")
y = np.tanh(x[:, 1:2] * x[:, 2:3])


def make():
    keras.utils.set_random_seed(14)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(10, activation="relu"),
            keras.layers.BatchNormalization(momentum=0.6),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(1),
        ]
    )
    return model, keras.optimizers.SGD(0.1, momentum=0.5)


def plain():
    model, optimizer = make()
    optimizer.build(model.trainable_variables)

    @jax.jit
    def grads_of(params, others, x, y):
        def loss_fn(params, others):
            call = jax.remat(lambda p, o, x: model.stateless_call(p, o, x, training=True))
            y_pred, others = call(params, others, x)
            return jnp.mean((y_pred - y) ** 2), others

        return jax.value_and_grad(loss_fn, has_aux=True)(params, others)

    others, means = [v.value for v in model.non_trainable_variables], []
    for _ in range(2):
        losses = []
        for i in range(0, 60, 20):
            params = [v.value for v in model.trainable_variables]
            (loss, others), grads = grads_of(params, others, x[i : i + 20], y[i : i + 20])
            optimizer.apply(grads, model.trainable_variables)
            losses.append(float(loss))
        means.append(np.mean(losses))
    weights = [*model.trainable_variables, *others]
    return {"loss": np.array(means), **{f"w{i}": np.asarray(v) for i, v in enumerate(weights)}}


class Remat(pg.Step):
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer

    def train_step(self, batch):
        x, y = batch

        def objective():
            y_pred = jax.remat(lambda x: self.model(x, training=True))(x)
            return jnp.mean((y_pred - y) ** 2)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def perigee(**fit):
    step = Remat(*make())
    given = {"epochs": 2, "batch_size": 20, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    variables = step.model.trainable_variables + step.model.non_trainable_variables
    weights = {f"w{i}": np.asarray(v) for i, v in enumerate(variables)}
    return {"loss": np.array(history.history["loss"]), **weights}
