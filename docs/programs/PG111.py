import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
calls = keras.Variable(0, dtype="int32", trainable=False)


class Regression(pg.Step):
    def __init__(self):
        self.model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
        self.optimizer = keras.optimizers.Adam(1e-2)

    def error(self, x, y):
        return ops.square(y - self.model(x, training=True))[:, 0]


# Wrong
class Trained(Regression):
    def train_step(self, batch):
        x, y = batch
        calls.assign_add(1)
        return {"loss": self.minimize(lambda: self.error(x, y), self.optimizer, self.model)}


print(pg.check(Trained(), (x, y)))


# Right
class Trained(Regression):
    def __init__(self):
        super().__init__()
        self.calls = calls

    def train_step(self, batch):
        x, y = batch
        self.calls.assign_add(1)
        return {"loss": self.minimize(lambda: self.error(x, y), self.optimizer, self.model)}


print(pg.check(Trained(), (x, y)))
