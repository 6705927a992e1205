import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
pairs = x, x + 0.1


class Contrastive(pg.Step):
    def __init__(self):
        self.model = keras.Sequential([keras.Input((5,)), kl.Dense(8)])
        self.optimizer = keras.optimizers.Adam(1e-2)

    def train_step(self, batch):
        left, right = batch

        def objective():  # each row is told apart from all others of its batch
            scores = self.model(left, training=True) @ ops.transpose(self.model(right))
            own = ops.arange(ops.shape(scores)[0])
            return ops.sparse_categorical_crossentropy(own, scores, from_logits=True)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


# Wrong
pg.fit(Contrastive(), pairs, batch_size=8, accumulate=4, progress="off")

# Right
pg.fit(Contrastive(), pairs, batch_size=32, progress="off")
