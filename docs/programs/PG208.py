import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]


class Regression(pg.Step):
    def __init__(self):
        shrunk = kl.Dense(8, "relu", kernel_regularizer=keras.regularizers.L2(1e-3))
        self.model = keras.Sequential([keras.Input((5,)), shrunk, kl.Dense(1)])
        self.optimizer = keras.optimizers.Adam(1e-2)


# Wrong
class Trained(Regression):
    def train_step(self, batch):
        x, y = batch

        def objective():
            error = ops.mean(ops.square(y - self.model(x, training=True)))
            return error + sum(self.model.losses)  # `minimize` adds them, too

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


print(pg.check(Trained(), (x, y)))


# Right
class Trained(Regression):
    def train_step(self, batch):
        x, y = batch

        def objective():
            return ops.mean(ops.square(y - self.model(x, training=True)))

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


print(pg.check(Trained(), (x, y)))
