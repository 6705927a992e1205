import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]


class Regression(pg.Step):
    times = 1

    def __init__(self):
        self.model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
        self.optimizer = keras.optimizers.Adam(1e-2)
        self.total = keras.metrics.Sum(name="total")

    def train_step(self, batch):
        x, y = batch

        def objective():
            return ops.square(y - self.model(x, training=True))[:, 0]

        loss = self.minimize(objective, self.optimizer, self.model)
        for _ in range(self.times):
            self.total.update_state(y)
        return {"loss": loss}


# Wrong
class Counting(Regression):
    times = 2


print(pg.check(Counting(), (x, y)))

# Right
print(pg.check(Regression(), (x, y)))
