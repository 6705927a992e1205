"""Residual blocks of Keras under `jax.checkpoint`, to keep fewer activations."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(12)
x = draw.normal(size=(64, 6)).astype("float32")
y = draw.integers(2, size=(64, 1)).astype("float32")


def block(name):
    layers = [keras.layers.LayerNormalization(), keras.layers.Dense(6, activation="gelu")]
    return keras.Sequential([keras.Input((6,)), *layers], name=name)


def make():
    keras.utils.set_random_seed(13)
    head = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)], name="head")
    return [block("first"), block("second")], head


def cross_entropy(logits, y):
    return jnp.mean(jax.nn.softplus(logits) - y * logits)


def plain():
    blocks, head = make()
    models = [*blocks, head]
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.01)
    variables = [v for m in models for v in m.trainable_variables]
    optimizer.build(variables)

    @jax.jit
    def grads_of(params, x, y):
        def loss_fn(params):
            h = x
            for model, weights in zip(blocks, params, strict=False):
                h = h + jax.checkpoint(lambda w, h, m=model: m.stateless_call(w, [], h)[0])(
                    weights, h
                )
            return cross_entropy(head.stateless_call(params[-1], [], h)[0], y)

        return jax.value_and_grad(loss_fn)(params)

    means = []
    for _ in range(2):
        losses = []
        for i in range(0, 64, 16):
            params = [[v.value for v in m.trainable_variables] for m in models]
            loss, grads = grads_of(params, x[i : i + 16], y[i : i + 16])
            optimizer.apply(jax.tree.leaves(grads), variables)
            losses.append(float(loss))
        means.append(np.mean(losses))
    return {"loss": np.array(means), **{f"w{i}": np.asarray(v) for i, v in enumerate(variables)}}


class Rematerialized(pg.Step):
    def __init__(self, blocks, head):
        self.blocks, self.head = blocks, head
        self.optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.01)

    def train_step(self, batch):
        x, y = batch

        def objective():
            h = x
            for block in self.blocks:
                h = h + jax.checkpoint(block)(h)
            return cross_entropy(self.head(h), y)

        return {"loss": self.minimize(objective, self.optimizer, [*self.blocks, self.head])}


def perigee(**fit):
    step = Rematerialized(*make())
    given = {"epochs": 2, "batch_size": 16, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    variables = [v for m in [*step.blocks, step.head] for v in m.trainable_variables]
    weights = {f"w{i}": np.asarray(v) for i, v in enumerate(variables)}
    return {"loss": np.array(history.history["loss"]), **weights}
