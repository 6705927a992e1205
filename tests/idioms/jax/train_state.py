"""A `TrainState`, registered as a pytree and replaced as a whole by each step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

import perigee as pg

REFUSED = "PG410"

draw = np.random.default_rng(2)
x = draw.normal(size=(80, 4)).astype("float32")
y = (x[:, 0] > x[:, 1]).astype("float32")


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["params", "velocity", "step"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    params: dict
    velocity: dict
    step: jax.Array

    @classmethod
    def create(cls, seed):
        first, second = jax.random.split(jax.random.PRNGKey(seed))
        params = {
            "hidden": {"w": jax.random.normal(first, (4, 6)) * 0.5, "b": jnp.zeros(6)},
            "out": {"w": jax.random.normal(second, (6,)) * 0.4, "b": jnp.zeros(())},
        }
        return cls(params, jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.int32))

    def apply_gradients(self, grads):
        rate = 0.2 / (1.0 + 0.1 * self.step)
        velocity = jax.tree.map(lambda v, g: 0.9 * v - rate * g, self.velocity, grads)
        params = jax.tree.map(jnp.add, self.params, velocity)
        return TrainState(params, velocity, self.step + 1)


def loss_fn(params, x, y):
    hidden = jnp.tanh(x @ params["hidden"]["w"] + params["hidden"]["b"])
    logits = hidden @ params["out"]["w"] + params["out"]["b"]
    return jnp.mean(jax.nn.softplus(logits) - y * logits)


def named(loss, state):
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {"loss": np.array(loss)} | {jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves}


def plain():
    @jax.jit
    def update(state, x, y):
        loss, grads = jax.value_and_grad(loss_fn)(state.params, x, y)
        return state.apply_gradients(grads), loss

    state, means = TrainState.create(3), []
    for _ in range(2):
        losses = []
        for i in range(0, 80, 16):
            state, loss = update(state, x[i : i + 16], y[i : i + 16])
            losses.append(float(loss))
        means.append(np.mean(losses))
    return named(means, state)


class Logistic(pg.Step):
    def __init__(self, seed):
        self.state = TrainState.create(seed)

    def train_step(self, batch):
        loss, grads = jax.value_and_grad(loss_fn)(self.state.params, *batch)
        self.state = self.state.apply_gradients(grads)
        return {"loss": loss}


def perigee(**fit):
    step = Logistic(3)
    given = {"epochs": 2, "batch_size": 16, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    return named(history.history["loss"], step.state)
