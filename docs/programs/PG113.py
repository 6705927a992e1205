import jax
import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]


class Regression(pg.Step):
    def __init__(self):
        hidden = [kl.Dense(8, "relu"), kl.Dropout(0.1)]
        self.model = keras.Sequential([keras.Input((5,)), *hidden, kl.Dense(1)])
        self.optimizer = keras.optimizers.Adam(1e-2)


# Wrong
class Trained(Regression):
    def train_step(self, batch):
        x, y = batch

        def objective():
            y_pred = jax.checkpoint(lambda x: self.model(x, training=True))(x)
            return ops.square(y - y_pred)[:, 0]

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


pg.fit(Trained(), (x, y), progress="off")


# Right
class Trained(Regression):
    def train_step(self, batch):
        x, y = batch
        weights, state = self.model.trainable_variables, self.model.non_trainable_variables

        def objective():
            call = jax.checkpoint(lambda w, s: self.model.stateless_call(w, s, x, training=True))
            y_pred, new = call([v.value for v in weights], [v.value for v in state])
            for variable, value in zip(state, new, strict=True):
                variable.assign(value)
            return ops.square(y - y_pred)[:, 0]

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


pg.fit(Trained(), (x, y), progress="off")
