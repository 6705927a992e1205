import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")


class Regression(pg.Step):
    def __init__(self):
        self.model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
        self.optimizer = keras.optimizers.Adam(1e-2)


# Wrong
class Trained(Regression):
    def train_step(self, batch):
        x, _ = batch

        def objective():
            is_yes = self.model(x, training=True) > 0
            return ops.sum(ops.cast(is_yes, "int32"))

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


print(pg.check(Trained(), (x, y)))


# Right
class Trained(Regression):
    def train_step(self, batch):
        x, y = batch

        def objective():
            y_pred = self.model(x, training=True)
            return ops.binary_crossentropy(y, y_pred, from_logits=True)[:, 0]

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


print(pg.check(Trained(), (x, y)))
