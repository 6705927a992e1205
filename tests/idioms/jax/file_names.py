"""Batches with the names of their files, a list of strings; the last batch is short."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

REFUSED = "PG305"  # its fix: drop them, map them to numbers, or run eagerly

draw = np.random.default_rng(28)
images = draw.random(size=(44, 5, 5, 1)).astype("float32")
labels = draw.integers(2, size=44)


class Loader:
    """Yields dicts, in order, as loaders of image folders do."""

    def __len__(self):
        return 3

    def __iter__(self):
        for i in range(0, 44, 20):
            names = [f"images/{n:04d}.png" for n in range(i, min(i + 20, 44))]
            yield {"image": images[i : i + 20], "label": labels[i : i + 20], "file": names}


def make():
    keras.utils.set_random_seed(29)
    layers = [keras.layers.Conv2D(3, 3, activation="relu"), keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((5, 5, 1)), *layers, keras.layers.Dense(2)])
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def loss_of(logits, labels):
    return -jnp.mean(jnp.sum(jax.nn.one_hot(labels, 2) * jax.nn.log_softmax(logits), axis=-1))


def plain():
    model, optimizer = make()

    @jax.jit
    def update(params, slots, image, label):
        loss_fn = lambda p: loss_of(model.stateless_call(p, [], image)[0], label)  # noqa: E731
        loss, grads = jax.value_and_grad(loss_fn)(params)
        return *optimizer.stateless_apply(slots, grads, params), loss

    params = [v.value for v in model.trainable_variables]
    slots, means = [v.value for v in optimizer.variables], []
    for _ in range(2):
        total, rows = 0.0, 0
        for batch in Loader():
            params, slots, loss = update(params, slots, batch["image"], batch["label"])
            total += float(loss) * len(batch["file"])
            rows += len(batch["file"])
        means.append(total / rows)
    return {"loss": np.array(means), **{f"w{i}": np.asarray(p) for i, p in enumerate(params)}}


class Classify(pg.Step):
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer

    def train_step(self, batch):
        def objective():
            return loss_of(self.model(batch["image"], training=True), batch["label"])

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def perigee(**fit):
    step = Classify(*make())
    history = pg.fit(step, Loader(), **{"epochs": 2, "progress": "off", **fit})
    weights = {f"w{i}": w for i, w in enumerate(step.model.get_weights())}
    return {"loss": np.array(history.history["loss"]), **weights}
