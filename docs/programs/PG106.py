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

    def train_step(self, batch):
        x, y = batch
        return {"loss": self.minimize(lambda: self.error(x, y), self.optimizer, self.model)}


# Wrong
step = Regression()
hidden, _ = step.model.layers
step.optimizer.build(hidden.trainable_variables)
print(pg.check(step, (x, y)))

# Right
step = Regression()
step.optimizer.build(step.model.trainable_variables)
print(pg.check(step, (x, y)))
