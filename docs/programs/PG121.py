import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]


class Regression(pg.Step):
    def __init__(self):
        hidden = [kl.Dense(5, "relu"), kl.Dense(5, "relu")]
        self.model = keras.Sequential([keras.Input((5,)), *hidden, kl.Dense(1)])
        self.optimizer = keras.optimizers.Adam(1e-2)

    def error(self, x, y):
        return ops.square(y - self.model(x, training=True))[:, 0]


# Wrong
class Trained(Regression):
    def train_step(self, batch):
        x, y = batch
        gradients = self.gradients(lambda: self.error(x, y), self.model)
        first, second, last = self.model.layers
        variables = [
            *second.trainable_variables,
            *first.trainable_variables,
            *last.trainable_variables,
        ]
        self.apply(self.optimizer, list(zip(gradients.values, variables, strict=True)))
        return {"loss": gradients.returned}


print(pg.check(Trained(), (x, y)))


# Right
class Trained(Regression):
    def train_step(self, batch):
        x, y = batch
        gradients = self.gradients(lambda: self.error(x, y), self.model)
        self.apply(self.optimizer, gradients)
        return {"loss": gradients.returned}


print(pg.check(Trained(), (x, y)))
