import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]


class TwoLosses(pg.Step):
    def __init__(self):
        self.encoder = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu")])
        self.head = keras.Sequential([keras.Input((8,)), kl.Dense(1)])
        self.optimizers = [keras.optimizers.Adam(1e-2), keras.optimizers.Adam(1e-2)]

    def error(self, x, y):
        return ops.square(y - self.head(self.encoder(x, training=True), training=True))[:, 0]


# Wrong
class Trained(TwoLosses):
    def train_step(self, batch):
        x, y = batch
        first, second = self.optimizers
        self.minimize(lambda: self.error(x, y), first, self.encoder)
        # The encoder is read again, after its update.
        return {"loss": self.minimize(lambda: self.error(x, y), second, self.head)}


print(pg.fit(Trained(), (x, y), accumulate=2, progress="off"))


# Right
class Trained(TwoLosses):
    def train_step(self, batch):
        x, y = batch
        first, _ = self.optimizers
        both = [self.encoder, self.head]
        return {"loss": self.minimize(lambda: self.error(x, y), first, both)}


print(pg.fit(Trained(), (x, y), accumulate=2, progress="off"))
