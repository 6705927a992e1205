import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]


class Regression(pg.Step):
    def __init__(self):
        self.model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
        self.optimizer = keras.optimizers.SGD(1e-2)
        self.error = keras.losses.MeanSquaredError()

    def gradients_of(self, x, y):
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            loss = self.error(y, self.model(x, training=True))
        return loss, tape.gradient(loss, variables)


# Wrong
class Trained(Regression):
    def train_step(self, batch):
        x, y = batch
        loss, first = self.gradients_of(x[:16], y[:16])
        other, second = self.gradients_of(x[16:], y[16:])
        added = [a + b for a, b in zip(first, second, strict=True)]
        self.optimizer.apply(added, self.model.trainable_variables)
        return {"loss": (loss + other) / 2}


print(pg.check(Trained(), (x, y)))


# Right
class Trained(Regression):
    def train_step(self, batch):
        x, y = batch
        loss, first = self.gradients_of(x[:16], y[:16])
        other, second = self.gradients_of(x[16:], y[16:])
        averaged = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
        self.optimizer.apply(averaged, self.model.trainable_variables)
        return {"loss": (loss + other) / 2}


print(pg.check(Trained(), (x, y)))
