import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
weights = np.random.default_rng(1).uniform(0.5, 2.0, size=64).astype("float32")


class Regression(pg.Step):
    def __init__(self):
        self.model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
        self.optimizer = keras.optimizers.Adam(1e-2)


# Wrong
class Trained(Regression):
    def train_step(self, batch):
        x, y, _ = batch

        def objective():
            return ops.square(y - self.model(x, training=True))[:, 0]

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


print(pg.check(Trained(), (x, y, weights)))


# Right
class Trained(Regression):
    def train_step(self, batch):
        x, y, weights = batch

        def objective():
            return pg.mean(ops.square(y - self.model(x, training=True))[:, 0], weights)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


print(pg.check(Trained(), (x, y, weights)))
