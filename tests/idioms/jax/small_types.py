"""Arrays as they come from files: uint8 images, int64 labels, a bool mask, float64 weights."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(40)
images = draw.integers(256, size=(60, 3, 3), dtype="uint8")
labels = draw.integers(4, size=60, dtype="int64")
known = draw.random(60) < 0.7
weights = draw.uniform(0.5, 1.5, size=60)  # float64


def make():
    keras.utils.set_random_seed(41)
    layers = [keras.layers.Flatten(), keras.layers.Rescaling(1 / 255), keras.layers.Dense(4)]
    model = keras.Sequential([keras.Input((3, 3), dtype="uint8"), *layers])
    return model, keras.Variable(np.zeros(4, "int32"), trainable=False, name="seen")


def masked_mean(logits, labels, known, weights):
    taken = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]
    return -jnp.sum(taken * known * weights) / jnp.sum(known * weights)


def tally(seen, labels, known):
    return seen + jnp.sum(jax.nn.one_hot(labels, 4, dtype="int32") * known[:, None], axis=0)


def plain():
    model, seen = make()

    @jax.jit
    def update(params, seen, image, label, known, weight):
        def loss_fn(params):
            logits = model.stateless_call(params, [], image)[0]
            return masked_mean(logits, label, known, weight)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        params = jax.tree.map(lambda p, g: p - 0.5 * g, params, grads)
        return params, tally(seen, label, known), loss

    params, seen, means = [v.value for v in model.trainable_variables], seen.value, []
    for _ in range(2):
        losses = []
        for i in range(0, 60, 15):
            p = slice(i, i + 15)
            params, seen, loss = update(params, seen, images[p], labels[p], known[p], weights[p])
            losses.append(float(loss))
        means.append(np.mean(losses))
    return {"loss": np.array(means), "seen": np.asarray(seen), "kernel": np.asarray(params[0])}


class Masked(pg.Step):
    ignore_findings = ("PG217",)  # the mean over the known rows of a batch is meant

    def __init__(self, model, seen):
        self.model, self.seen, self.optimizer = model, seen, keras.optimizers.SGD(0.5)

    def train_step(self, batch):
        image, label, known, weight = (batch[k] for k in ("image", "label", "known", "weight"))
        self.seen.assign(tally(self.seen.value, label, known))

        def objective():
            return masked_mean(self.model(image, training=True), label, known, weight)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def perigee(**fit):
    step = Masked(*make())
    data = {"image": images, "label": labels, "known": known, "weight": weights}
    given = {"epochs": 2, "batch_size": 15, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, data, **given)
    kernel = step.model.get_weights()[0]
    loss = np.array(history.history["loss"])
    return {"loss": loss, "seen": np.asarray(step.seen), "kernel": kernel}
