"""Domain-adversarial training: a reversal with `custom_vjp` between trunk and domain head."""

import functools

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(22)
domain = np.tile([0.0, 1.0], 40).astype("float32")
x = (draw.normal(size=(80, 5)) + domain[:, None]).astype("float32")
y = (x[:, 0] - domain > 0).astype("float32")


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def reverse(z, strength):
    return z


reverse.defvjp(lambda z, strength: (z, None), lambda strength, _, g: (-strength * g,))


def make():
    keras.utils.set_random_seed(23)
    trunk = keras.Sequential([keras.Input((5,)), keras.layers.Dense(6, activation="elu")])
    heads = [keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)]) for _ in range(2)]
    optimizer = keras.optimizers.SGD(0.2, momentum=0.8)
    return [trunk, *heads], optimizer


def bce(logits, y):
    return jnp.mean(jax.nn.softplus(logits[:, 0]) - y * logits[:, 0])


def losses_of(trunk, label_head, domain_head, x, y, domain):
    features = trunk(x)
    task = bce(label_head(features), y)
    return task + bce(domain_head(reverse(features, 0.3)), domain), task


def plain():
    parts, optimizer = make()
    optimizer.build([v for part in parts for v in part.trainable_variables])

    @jax.jit
    def update(params, slots, *batch):
        def loss_fn(params):
            calls = [
                lambda z, part=part, w=w: part.stateless_call(w, [], z)[0]
                for part, w in zip(parts, params, strict=True)
            ]
            return losses_of(*calls, *batch)

        (_, task), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        leaves, tree = jax.tree.flatten(params)
        leaves, slots = optimizer.stateless_apply(slots, jax.tree.leaves(grads), leaves)
        return jax.tree.unflatten(tree, leaves), slots, task

    params = [[v.value for v in part.trainable_variables] for part in parts]
    slots, means = [v.value for v in optimizer.variables], []
    for _ in range(2):
        tasks = []
        for i in range(0, 80, 16):
            p = slice(i, i + 16)
            params, slots, task = update(params, slots, x[p], y[p], domain[p])
            tasks.append(float(task))
        means.append(np.mean(tasks))
    flat = {f"w{i}": np.asarray(p) for i, p in enumerate(jax.tree.leaves(params))}
    return {"task": np.array(means), **flat}


class Adversarial(pg.Step):
    def __init__(self, parts, optimizer):
        self.trunk, self.label_head, self.domain_head = self.parts = parts
        self.optimizer = optimizer

    def train_step(self, batch):
        objective = lambda: losses_of(*self.parts, *batch)  # noqa: E731
        _, task = self.minimize(objective, self.optimizer, self.parts)
        return {"task": task}


def perigee(**fit):
    step = Adversarial(*make())
    given = {"epochs": 2, "batch_size": 16, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y, domain), **given)
    variables = [v for part in step.parts for v in part.trainable_variables]
    weights = {f"w{i}": np.asarray(v) for i, v in enumerate(variables)}
    return {"task": np.array(history.history["task"]), **weights}
