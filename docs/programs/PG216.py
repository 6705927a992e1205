import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

words = np.random.default_rng(0).integers(1, 9, size=(64, 6)).astype("int32")
words[::2, 4:] = 0  # padding
tags = words % 3


class Tagger(pg.Step):
    def __init__(self):
        layers = [kl.Embedding(9, 4, mask_zero=True), kl.Dense(3)]
        self.model = keras.Sequential([keras.Input((6,), dtype="int32"), *layers])
        self.optimizer = keras.optimizers.Adam(1e-2)

    def values(self, words, tags):
        scores = self.model(words, training=True)
        return ops.sparse_categorical_crossentropy(tags, scores, from_logits=True)


# Wrong
class Trained(Tagger):
    def train_step(self, batch):
        words, tags = batch
        mask = ops.cast(words > 0, "float32")

        def objective():
            return ops.sum(mask * self.values(words, tags)) / ops.sum(mask)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


print(pg.check(Trained(), (words, tags)))


# Right
class Trained(Tagger):
    def train_step(self, batch):
        words, tags = batch

        def objective():
            return pg.mean(self.values(words, tags), words > 0)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


print(pg.check(Trained(), (words, tags)))
