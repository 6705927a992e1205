"""Variables of TensorFlow that an optimizer of Keras trains, without a model around them."""

import keras
import numpy as np
import pytest

import perigee as pg

pytestmark = pytest.mark.only_tensorflow


def line():
    import tensorflow as tf

    weights, bias = tf.Variable(tf.zeros((3, 1))), tf.Variable(tf.zeros((1,)))
    optimizer = keras.optimizers.Adam(0.1)

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((x @ weights + bias - y) ** 2)
        grads = tape.gradient(loss, [weights, bias])
        optimizer.apply_gradients(zip(grads, [weights, bias], strict=True))
        return loss

    return train_step, [weights, bias]


def test_they_are_trained_as_in_the_loop():
    x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    data = x, x.sum(1, keepdims=True)
    (given, ours), (looped, theirs) = line(), line()
    step = pg.FunctionStep(given)

    assert len(pg.check(step, data)) == 0
    pg.fit(step, data, batch_size=16, epochs=3, shuffle=False, progress="off")

    for _ in range(3):
        for first in range(0, 64, 16):
            looped(*(part[first : first + 16] for part in data))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
