import tempfile

import keras
import tensorflow as tf
from keras import layers as kl

import perigee as pg

indices = tf.data.Dataset.range(64)
model = keras.Sequential([keras.Input((2**17,)), kl.Dense(1)])
step = pg.Supervised(model, "adam", "mse")


def example(index):
    row = tf.random.stateless_uniform((2**17,), (0, index), -1.0, 1.0)
    return row, row[:1]


# Wrong
data = indices.map(example).shuffle(64, seed=1).batch(4)
with tempfile.TemporaryDirectory() as folder:
    pg.fit(step, data, run=f"{folder}/run", progress="off")

# Right
data = indices.shuffle(64, seed=1).map(example).batch(4)
with tempfile.TemporaryDirectory() as folder:
    pg.fit(step, data, run=f"{folder}/run", progress="off")
