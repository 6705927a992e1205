import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
encoder = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu")])


# Wrong
class Trained(pg.Step):
    def __init__(self):
        self.head = keras.Sequential([keras.Input((8,)), kl.Dense(1)])
        self.optimizer = keras.optimizers.Adam(1e-2)

    def train_step(self, batch):
        x, y = batch

        def objective():
            return ops.square(y - self.head(encoder(x, training=True), training=True))[:, 0]

        return {"loss": self.minimize(objective, self.optimizer, self.head)}


print(pg.check(Trained(), (x, y)))


# Right
class Trained(pg.Step):
    def __init__(self):
        self.encoder = encoder
        self.head = keras.Sequential([keras.Input((8,)), kl.Dense(1)])
        self.optimizer = keras.optimizers.Adam(1e-2)

    def train_step(self, batch):
        x, y = batch

        def objective():
            return ops.square(y - self.head(self.encoder(x, training=True), training=True))[:, 0]

        loss = self.minimize(objective, self.optimizer, [self.encoder, self.head])
        return {"loss": loss}


print(pg.check(Trained(), (x, y)))
