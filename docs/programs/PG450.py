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


def make_step():
    model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
    return pg.Supervised(model, "adam", "mse")


# Wrong
strategy = tf.distribute.experimental.CentralStorageStrategy(devices)
with strategy.scope():
    pg.fit(make_step(), (x, y), progress="off")

# Right
strategy = tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())
with strategy.scope():
    pg.fit(make_step(), (x, y), progress="off")
