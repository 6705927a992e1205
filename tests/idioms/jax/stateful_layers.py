"""`minimize` over a stateful GRU, BatchNorm and Dropout: streams that go on from batch to batch."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

streams = np.random.default_rng(41).normal(size=(4, 48, 2)).astype("float32")
sums = (0.3 * np.cumsum(streams, axis=1)).astype("float32")


def windows():
    for start in range(0, 48, 8):
        yield streams[:, start : start + 8], sums[:, start : start + 8]


def make():
    keras.utils.set_random_seed(42)
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(4, 8, 2)),
            keras.layers.GRU(5, stateful=True, return_sequences=True),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(2),
        ]
    )
    optimizer = keras.optimizers.SGD(0.05)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def state_of(model):
    """All that changes beside the weights: Keras lists the states of a layer apart."""
    return [*model.non_trainable_variables, *model.layers[0].states]


def plain():
    model, optimizer = make()
    trainable, state = model.trainable_variables, state_of(model)

    @jax.jit
    def update(params, others, slots, x, y):
        def loss_fn(params):
            mapping = [*zip(trainable, params, strict=True), *zip(state, others, strict=True)]
            with keras.StatelessScope(state_mapping=mapping) as scope:
                y_pred = model(x, training=True)
            return jnp.mean((y_pred - y) ** 2), [scope.get_current_value(v) for v in state]

        (loss, new), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        params, slots = optimizer.stateless_apply(slots, grads, params)
        return params, new, slots, loss

    params, others = [v.value for v in trainable], [v.value for v in state]
    slots, means = [v.value for v in optimizer.variables], []
    for _ in range(2):
        losses = []
        for x, y in windows():
            params, others, slots, loss = update(params, others, slots, x, y)
            losses.append(float(loss))
        means.append(np.mean(losses))
    arrays = {f"s{i}": np.asarray(v) for i, v in enumerate([*params, *others])}
    return {"loss": np.array(means), **arrays}


class Streaming(pg.Step):
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer

    def train_step(self, batch):
        x, y = batch
        objective = lambda: jnp.mean((self.model(x, training=True) - y) ** 2)  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def perigee(**fit):
    step = Streaming(*make())
    history = pg.fit(step, windows, **{"epochs": 2, "progress": "off", **fit})
    variables = [*step.model.trainable_variables, *state_of(step.model)]
    arrays = {f"s{i}": np.asarray(v) for i, v in enumerate(variables)}
    return {"loss": np.array(history.history["loss"]), **arrays}
