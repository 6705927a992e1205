import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]


class Regression(pg.Step):
    def __init__(self):
        shrunk = kl.Dense(8, "relu", kernel_regularizer=keras.regularizers.L2(1e-2))
        self.model = keras.Sequential([keras.Input((5,)), shrunk, kl.Dense(1)])
        self.optimizer = keras.optimizers.Adam(1e-2)


# Wrong
class Trained(Regression):
    def train_step(self, batch):
        x, y = batch

        def objective():
            return ops.square(y - self.model(x, training=True))[:, 0]

        loss = self.minimize(objective, self.optimizer, self.model, add_losses=False)
        return {"loss": loss}


print(pg.check(Trained(), (x, y)))


# Right
class Trained(Regression):
    def train_step(self, batch):
        x, y = batch

        def objective():
            return ops.square(y - self.model(x, training=True))[:, 0]

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


print(pg.check(Trained(), (x, y)))
