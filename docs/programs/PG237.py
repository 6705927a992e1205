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

    def update(self, x, y):
        def objective():
            return ops.square(y - self.model(x, training=True))[:, 0]

        return self.minimize(objective, self.optimizer, self.model)


# Wrong
class Trained(Regression):
    def train_step(self, batch):
        loss = self.update(*batch)
        return {"loss": loss, "root": ops.sqrt(ops.mean(loss))}


pg.fit(Trained(), (x, y), batch_size=8, accumulate=4, progress="off")


# Right
class Trained(Regression):
    def train_step(self, batch):
        return {"loss": self.update(*batch)}


history = pg.fit(Trained(), (x, y), batch_size=8, accumulate=4, progress="off")
print(np.sqrt(history.history["loss"]))
