import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)
devices = ["cpu:0", "cpu:1"]
strategy = tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())


def make_step():
    model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
    return pg.Supervised(model, "adam", "mse")


# Wrong
step = make_step()
with strategy.scope():
    pg.fit(step, (x, y), progress="off")

# Right
with strategy.scope():
    step = make_step()
    pg.fit(step, (x, y), progress="off")
