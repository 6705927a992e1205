"""A GRU cell of Keras, unrolled over time by `jax.lax.scan`."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

x = np.random.default_rng(9).normal(size=(48, 7, 3)).astype("float32")
y = np.cumsum(x[:, :, 0], axis=1)[:, :, None] * 0.3


def make():
    keras.utils.set_random_seed(10)
    cell, head = keras.layers.GRUCell(5), keras.layers.Dense(1)
    cell.build((None, 3))
    head.build((None, 5))
    return cell, head


def plain():
    cell, head = make()
    optimizer = keras.optimizers.RMSprop(0.01)
    variables = cell.trainable_variables + head.trainable_variables
    optimizer.build(variables)
    count = len(cell.trainable_variables)
    rest = [v.value for v in cell.non_trainable_variables]

    @jax.jit
    def grads_of(params, x, y):
        def loss_fn(params):
            def body(h, x_t):
                (out, _), _ = cell.stateless_call(params[:count], rest, x_t, h)
                return out, head.stateless_call(params[count:], [], out)[0]

            _, outs = jax.lax.scan(body, jnp.zeros((x.shape[0], 5)), jnp.swapaxes(x, 0, 1))
            return jnp.mean((jnp.swapaxes(outs, 0, 1) - y) ** 2)

        return jax.value_and_grad(loss_fn)(params)

    means = []
    for _ in range(2):
        losses = []
        for i in range(0, 48, 12):
            loss, grads = grads_of([v.value for v in variables], x[i : i + 12], y[i : i + 12])
            optimizer.apply(grads, variables)
            losses.append(float(loss))
        means.append(np.mean(losses))
    return {"loss": np.array(means), **{f"w{i}": np.asarray(v) for i, v in enumerate(variables)}}


class Recurrent(pg.Step):
    def __init__(self, cell, head):
        self.cell, self.head = cell, head
        self.optimizer = keras.optimizers.RMSprop(0.01)

    def train_step(self, batch):
        x, y = batch

        def body(h, x_t):
            out, _ = self.cell(x_t, h)
            return out, self.head(out)

        def objective():
            _, outs = jax.lax.scan(body, jnp.zeros((x.shape[0], 5)), jnp.swapaxes(x, 0, 1))
            return jnp.mean((jnp.swapaxes(outs, 0, 1) - y) ** 2)

        return {"loss": self.minimize(objective, self.optimizer, [self.cell, self.head])}


def perigee(**fit):
    step = Recurrent(*make())
    given = {"epochs": 2, "batch_size": 12, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    variables = step.cell.trainable_variables + step.head.trainable_variables
    weights = {f"w{i}": np.asarray(v) for i, v in enumerate(variables)}
    return {"loss": np.array(history.history["loss"]), **weights}
