"""Batches that are a registered dataclass with a static field, from a generator function."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(29)
edges = draw.integers(6, size=(30, 8, 2)).astype("int32")
nodes = draw.normal(size=(30, 6, 3)).astype("float32")
target = nodes.sum(axis=(1, 2))[:, None] * 0.2


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["nodes", "edges", "target"],
    meta_fields=["name"],
)
@dataclasses.dataclass
class Graphs:
    nodes: jax.Array
    edges: jax.Array
    target: jax.Array
    name: str = "molecules"


def loader():
    for i in range(0, 30, 8):
        yield Graphs(nodes[i : i + 8], edges[i : i + 8], target[i : i + 8])


def make():
    keras.utils.set_random_seed(30)
    layers = [keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((6,)), *layers])
    optimizer = keras.optimizers.SGD(0.002)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def loss_of(call, graphs):
    def messages(nodes, edges):
        sent = jax.ops.segment_sum(nodes[edges[:, 0]], edges[:, 1], num_segments=6)
        return jnp.concatenate([nodes, sent], axis=-1)

    out = call(jax.vmap(messages)(graphs.nodes, graphs.edges).reshape(-1, 6))
    return jnp.mean((out.reshape(len(graphs.nodes), 6).sum(1, keepdims=True) - graphs.target) ** 2)


def plain():
    model, optimizer = make()

    @jax.jit
    def update(params, slots, graphs):
        loss_fn = lambda p: loss_of(lambda x: model.stateless_call(p, [], x)[0], graphs)  # noqa: E731
        loss, grads = jax.value_and_grad(loss_fn)(params)
        return *optimizer.stateless_apply(slots, grads, params), loss

    params = [v.value for v in model.trainable_variables]
    slots, means = [v.value for v in optimizer.variables], []
    for _ in range(2):
        losses, rows = [], []
        for graphs in loader():
            params, slots, loss = update(params, slots, graphs)
            losses.append(float(loss))
            rows.append(len(graphs.nodes))
        means.append(np.average(losses, weights=rows))
    return {"loss": np.array(means), **{f"w{i}": np.asarray(p) for i, p in enumerate(params)}}


class Message(pg.Step):
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer

    def train_step(self, graphs):
        objective = lambda: loss_of(self.model, graphs)  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def perigee(**fit):
    step = Message(*make())
    history = pg.fit(step, loader, **{"epochs": 2, "progress": "off", **fit})
    weights = {f"w{i}": w for i, w in enumerate(step.model.get_weights())}
    return {"loss": np.array(history.history["loss"]), **weights}
