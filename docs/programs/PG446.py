import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
share = 1.0


class Regression(pg.Step):
    def __init__(self):
        self.model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
        self.optimizer = keras.optimizers.Adam(1e-2)

    def error(self, x, y):
        return ops.square(y - self.model(x, training=True))[:, 0]


class Shared(Regression):
    def __init__(self):
        super().__init__()
        self.share = 1.0

    def train_step(self, batch):
        x, y = batch
        return {
            "loss": self.minimize(
                lambda: self.current() * self.error(x, y), self.optimizer, self.model
            )
        }


# Wrong
class Trained(Shared):
    def current(self):
        return share


def halve(epoch, logs):
    global share
    share /= 2  # the compiled step keeps 1.0


halved = keras.callbacks.LambdaCallback(on_epoch_end=halve)
pg.fit(Trained(), (x, y), epochs=3, callbacks=[halved], progress="off")


# Right
class Trained(Shared):
    def current(self):
        return self.share


step = Trained()


def halve(epoch, logs):
    step.share /= 2  # the step is recompiled


halved = keras.callbacks.LambdaCallback(on_epoch_end=halve)
pg.fit(step, (x, y), epochs=3, callbacks=[halved], progress="off")
