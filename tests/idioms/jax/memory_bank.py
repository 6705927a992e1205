"""Contrastive learning against a queue of old keys, an array attribute that each step shifts."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

REFUSED = "PG410"

WITHIN = 2e-5  # rounding comes back through the queue, and is divided by the temperature

draw = np.random.default_rng(23)
first = draw.normal(size=(48, 6)).astype("float32")
second = (first + 0.2 * draw.normal(size=(48, 6))).astype("float32")
queue = draw.normal(size=(16, 4)).astype("float32")
queue /= np.linalg.norm(queue, axis=1, keepdims=True)


def make():
    keras.utils.set_random_seed(24)
    encoder = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(encoder.trainable_variables)
    return encoder, optimizer


def unit(z):
    return z / jnp.linalg.norm(z, axis=-1, keepdims=True)


def info_nce(q, k, queue):
    positive = jnp.sum(q * k, axis=-1, keepdims=True)
    logits = jnp.concatenate([positive, q @ queue.T], axis=-1) / 0.2
    return -jnp.mean(jax.nn.log_softmax(logits)[:, 0])


def plain():
    encoder, optimizer = make()

    @jax.jit
    def update(params, slots, bank, a, b):
        call = lambda params, x: unit(encoder.stateless_call(params, [], x)[0])  # noqa: E731
        k = jax.lax.stop_gradient(call(params, b))
        loss, grads = jax.value_and_grad(lambda p: info_nce(call(p, a), k, bank))(params)
        params, slots = optimizer.stateless_apply(slots, grads, params)
        return params, slots, jnp.concatenate([k, bank])[:16], loss

    params = [v.value for v in encoder.trainable_variables]
    slots, bank, means = [v.value for v in optimizer.variables], jnp.asarray(queue), []
    for _ in range(3):
        losses = []
        for i in range(0, 48, 8):
            a, b = first[i : i + 8], second[i : i + 8]
            params, slots, bank, loss = update(params, slots, bank, a, b)
            losses.append(float(loss))
        means.append(np.mean(losses))
    weights = {f"w{i}": np.asarray(p) for i, p in enumerate(params)}
    return {"loss": np.array(means), "queue": np.asarray(bank), **weights}


class Contrast(pg.Step):
    ignore_findings = ("PG233", "PG217")  # examples of a batch are compared on purpose

    def __init__(self, encoder, optimizer):
        self.encoder, self.optimizer = encoder, optimizer
        self.queue = jnp.asarray(queue)

    def train_step(self, batch):
        a, b = batch
        k = jax.lax.stop_gradient(unit(self.encoder(b)))

        def objective():
            return info_nce(unit(self.encoder(a)), k, self.queue)

        loss = self.minimize(objective, self.optimizer, self.encoder)
        self.queue = jnp.concatenate([k, self.queue])[:16]
        return {"loss": loss}


def perigee(**fit):
    step = Contrast(*make())
    given = {"epochs": 3, "batch_size": 8, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (first, second), **given)
    weights = {f"w{i}": w for i, w in enumerate(step.encoder.get_weights())}
    return {"loss": np.array(history.history["loss"]), "queue": np.asarray(step.queue), **weights}
