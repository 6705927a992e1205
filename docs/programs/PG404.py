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
        self.error = keras.metrics.MeanAbsoluteError(name="error")

    def update(self, x, y):
        def objective():
            y_pred = self.model(x, training=True)
            return ops.square(y - y_pred)[:, 0], y_pred

        loss, y_pred = self.minimize(objective, self.optimizer, self.model)
        self.error.update_state(y, y_pred)
        return loss, y_pred


# Wrong
class Trained(Regression):
    def train_step(self, batch):
        x, y = batch
        loss, y_pred = self.update(x, y)
        return {"loss": loss, "error": ops.abs(y - y_pred)[:, 0]}  # of a batch, or of the epoch?


print(pg.check(Trained(), (x, y)))


# Right
class Trained(Regression):
    def train_step(self, batch):
        x, y = batch
        loss, _ = self.update(x, y)
        return {"loss": loss}  # the metric is read when the epoch ends


print(pg.check(Trained(), (x, y)))
