"""A teacher whose weights are a moving average: a list of arrays, kept by `jax.tree.map`."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

REFUSED = "PG410"

draw = np.random.default_rng(8)
x = draw.normal(size=(96, 4)).astype("float32")
y = np.where(draw.random(96) < 0.5, (x[:, 0] > 0).astype("int32"), -1).astype("int32")


def make():
    keras.utils.set_random_seed(9)
    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2)]
    return keras.Sequential([keras.Input((4,)), *layers]), keras.optimizers.SGD(0.2, momentum=0.9)


def loss_of(logits, taught, y):
    log_p = jax.nn.log_softmax(logits)
    labelled = -jnp.sum(jax.nn.one_hot(y, 2) * log_p, axis=-1)  # one_hot(-1) is zeros
    agreement = jnp.sum((jax.nn.softmax(logits) - jax.nn.softmax(taught)) ** 2, axis=-1)
    return jnp.mean(labelled + agreement)


def average(ema, params):
    return jax.tree.map(lambda e, p: 0.9 * e + 0.1 * p, ema, params)


def plain():
    model, optimizer = make()
    optimizer.build(model.trainable_variables)
    ema, means = [v.value for v in model.trainable_variables], []
    for _ in range(2):
        losses = []
        for i in range(0, 96, 16):
            xb, yb = x[i : i + 16], y[i : i + 16]
            taught = model.stateless_call(ema, [], xb)[0]

            def loss_fn(params, xb=xb, yb=yb, taught=taught):
                return loss_of(model.stateless_call(params, [], xb)[0], taught, yb)

            params = [v.value for v in model.trainable_variables]
            loss, grads = jax.value_and_grad(loss_fn)(params)
            optimizer.apply(grads, model.trainable_variables)
            ema = average(ema, [v.value for v in model.trainable_variables])
            losses.append(float(loss))
        means.append(np.mean(losses))
    student = {f"w{i}": w for i, w in enumerate(model.get_weights())}
    return {
        "loss": np.array(means),
        **student,
        **{f"ema{i}": np.asarray(e) for i, e in enumerate(ema)},
    }


class MeanTeacher(pg.Step):
    def __init__(self, student, optimizer):
        self.student, self.optimizer = student, optimizer
        self.ema = [v.value for v in student.trainable_variables]

    def train_step(self, batch):
        x, y = batch
        taught, _ = self.student.stateless_call(self.ema, [], x)

        def objective():
            return loss_of(self.student(x, training=True), taught, y)

        loss = self.minimize(objective, self.optimizer, self.student)
        self.ema = average(self.ema, [v.value for v in self.student.trainable_variables])
        return {"loss": loss}


def perigee(**fit):
    step = MeanTeacher(*make())
    given = {"epochs": 2, "batch_size": 16, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    student = {f"w{i}": w for i, w in enumerate(step.student.get_weights())}
    ema = {f"ema{i}": np.asarray(e) for i, e in enumerate(step.ema)}
    return {"loss": np.array(history.history["loss"]), **student, **ema}
