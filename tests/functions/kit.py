"""What the programs of the tests use: small models, and an update as tutorials write it."""

import keras
import numpy as np

FEATURES = 2


def net(*layers):
    """Return a built model of one output."""
    return keras.Sequential([keras.Input((FEATURES,)), *layers, keras.layers.Dense(1)])


def sgd():
    return keras.optimizers.SGD(0.1)


def mean(name="seen"):
    return keras.metrics.Mean(name=name)


def learn(model, optimizer, x, y, loss_fn=None):
    """Update a model by the gradients of its squared error."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        y_pred = model(x, training=True)
        loss = tf.reduce_mean((y - y_pred) ** 2) if loss_fn is None else loss_fn(y, y_pred)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    return loss


def data(rows=8):
    draw = np.random.default_rng(0)
    return draw.normal(size=(rows, FEATURES)).astype("float32"), np.ones((rows, 1), "float32")
