import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")


class Distilled(pg.Step):
    def __init__(self, training):
        layers = [kl.Dense(8, "relu"), kl.Dropout(0.5), kl.Dense(1)]
        self.teacher = keras.Sequential([keras.Input((5,)), *layers])
        self.teacher.trainable = False
        self.student = keras.Sequential([keras.Input((5,)), kl.Dense(4, "relu"), kl.Dense(1)])
        self.optimizer = keras.optimizers.Adam(1e-2)
        self.training = training

    def train_step(self, x):
        answer = self.teacher(x, training=self.training)

        def objective():
            return ops.square(answer - self.student(x, training=True))[:, 0]

        return {"loss": self.minimize(objective, self.optimizer, self.student)}


# Wrong
print(pg.check(Distilled(training=True), x))

# Right
print(pg.check(Distilled(training=False), x))
