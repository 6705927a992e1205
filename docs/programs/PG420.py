import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]


class Regression(pg.Step):
    def __init__(self, scale):
        self.model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
        self.optimizer = keras.optimizers.Adam(1e-2)
        self.scale = scale

    def train_step(self, batch):
        x, y = batch

        def objective():
            return self.scale * ops.square(y - self.model(x, training=True))[:, 0]

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


# Wrong
step = Regression(scale=1.0)
with pg.prepare(step, progress="off") as trainer:
    for _ in range(7):
        trainer.train_step((x, y))
        step.scale *= 0.9  # compiled into the step

# Right
step = Regression(scale=keras.Variable(1.0, trainable=False))
with pg.prepare(step, progress="off") as trainer:
    for _ in range(7):
        trainer.train_step((x, y))
        step.scale.assign(0.9 * step.scale)
