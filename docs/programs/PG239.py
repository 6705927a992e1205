import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
anchors = np.zeros((4, 1), "float32")  # the same for each batch
batches = [(x[i : i + 16], y[i : i + 16], anchors) for i in range(0, 64, 16)]


class Anchored(pg.Step):
    def __init__(self):
        self.model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
        self.optimizer = keras.optimizers.Adam(1e-2)

    def train_step(self, batch):
        x, y, anchors = batch

        def objective():
            return ops.mean(ops.square(y - self.model(x, training=True))) + ops.mean(anchors)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


# Wrong
print(pg.check(Anchored(), batches))


# Right
class Counted(Anchored):
    def num_examples(self, batch):
        return ops.shape(batch[0])[0]


print(pg.check(Counted(), batches))
