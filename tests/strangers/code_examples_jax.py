"""Models and loops on JAX, as code examples and repositories have them."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras import layers, ops

from tests.strangers.corpus import by_fit, by_hand
from tests.strangers.datasets import wine


class Contrast(keras.Model):
    def __init__(self):
        super().__init__()
        self.encoder = keras.Sequential(
            [keras.Input((13,)), layers.Dense(8, "relu"), layers.Dense(4)]
        )
        self.noise = layers.GaussianNoise(0.1, seed=4)
        self.loss_tracker = keras.metrics.Mean(name="loss")

    @property
    def metrics(self):
        return [self.loss_tracker]

    def call(self, x, training=None):
        return self.encoder(self.noise(x, training=training))

    def loss_and_updates(self, trainable, non_trainable, x):
        one, non_trainable = self.stateless_call(trainable, non_trainable, x, training=True)
        two, non_trainable = self.stateless_call(trainable, non_trainable, x, training=True)
        one, two = ops.normalize(one, axis=1), ops.normalize(two, axis=1)
        logits = one @ two.T / 0.1
        each = -jnp.diagonal(jax.nn.log_softmax(logits))
        return each.mean(), non_trainable

    def train_step(self, state, data):
        trainable, non_trainable, optimizer_variables, metrics_variables = state
        grad_fn = jax.value_and_grad(self.loss_and_updates, has_aux=True)
        (loss, non_trainable), grads = grad_fn(trainable, non_trainable, data)
        trainable, optimizer_variables = self.optimizer.stateless_apply(
            optimizer_variables, grads, trainable
        )
        metrics_variables = self.loss_tracker.stateless_update_state(metrics_variables, loss)
        logs = {"loss": self.loss_tracker.stateless_result(metrics_variables)}
        return logs, (trainable, non_trainable, optimizer_variables, metrics_variables)


@by_fit(only="jax")
def contrast_on_rows_alone(by):
    model = Contrast()
    model.compile(optimizer="adam")
    by.fit(model, wine()[0], batch_size=32, epochs=2)


@by_fit(only="jax")
def dict_of_features_without_targets(by):
    class Rates(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(1)

        def call(self, features):
            predicted = self.dense(features["x"])
            self.add_loss(ops.mean(ops.square(predicted[:, 0] - features["y"])))
            return predicted

    x, y = wine()
    model = Rates()
    model.compile("sgd")
    by.fit(model, {"x": x, "y": y.astype("float32")}, batch_size=32, epochs=2)


@by_hand(only="jax")
def variables_assigned_after_value_and_grad():
    model = keras.Sequential([keras.Input((13,)), layers.Dense(8, "tanh"), layers.Dense(3)])
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build(model.trainable_variables)

    def loss_fn(params, x, y):
        logits, _ = model.stateless_call(
            params, [v.value for v in model.non_trainable_variables], x
        )
        return keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True).mean()

    def train_step(x, y):
        params = [v.value for v in model.trainable_variables]
        loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
        optimizer.apply(grads, model.trainable_variables)
        return jnp.reshape(loss, (1,))

    x, y = wine()
    data = [(x[i : i + 32], y[i : i + 32]) for i in range(0, len(x), 32)]
    return (
        train_step,
        data,
        2,
        lambda: {"weights": model.get_weights(), "n": np.asarray(optimizer.iterations)},
    )
