import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]


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
        loss = self.minimize(lambda: self.error(x, y), self.optimizer, self.model)
        return {"loss": loss, "rows": pg.sample(text=x)}


print(pg.check(Trained(), (x, y)))


# Right
class Trained(Regression):
    def train_step(self, batch):
        x, y = batch
        loss = self.minimize(lambda: self.error(x, y), self.optimizer, self.model)
        return {"loss": loss, "rows": pg.sample(image=x)}


print(pg.check(Trained(), (x, y)))
