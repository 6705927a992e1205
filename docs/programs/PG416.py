import functools

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
optimizer = keras.optimizers.Adam(1e-2)


def train_step(model, x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(y - model(x, training=True)))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply(gradients, model.trainable_variables)
    return loss


# Wrong
pg.fit(train_step, (x, y), progress="off")

# Right
pg.fit(functools.partial(train_step, model), (x, y), progress="off")
