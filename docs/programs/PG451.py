import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)
devices = ["cpu:0", "cpu:1"]
strategy = tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())


class Regression(pg.Step):
    def __init__(self):
        self.model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
        self.optimizer = keras.optimizers.Adam(1e-2)

    def error(self, x, y):
        return ops.square(y - self.model(x, training=True))[:, 0]


# Wrong
class Trained(Regression):
    def __init__(self):
        super().__init__()
        self.positive = keras.Variable(0, dtype="int32", trainable=False)

    def train_step(self, batch):
        x, y = batch
        self.positive.assign_add(ops.sum(ops.cast(y > 0, "int32")))
        return {"loss": self.minimize(lambda: self.error(x, y), self.optimizer, self.model)}


with strategy.scope():
    pg.fit(Trained(), (x, y), progress="off")


# Right
class Trained(Regression):
    def __init__(self):
        super().__init__()
        self.positive = keras.metrics.Sum(name="positive")

    def train_step(self, batch):
        x, y = batch
        self.positive.update_state(ops.cast(y > 0, "float32"))
        return {"loss": self.minimize(lambda: self.error(x, y), self.optimizer, self.model)}


with strategy.scope():
    pg.fit(Trained(), (x, y), progress="off")
