import keras
import numpy as np
from keras import layers as kl

import perigee as pg

words = np.random.default_rng(0).integers(1, 9, size=(64, 6))
words[::2, 4:] = 0  # padding
tags = words % 3

# Wrong
model = keras.Sequential([keras.Input((6,)), kl.Embedding(9, 4), kl.Dense(3)])
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
print(pg.check(pg.KerasStep(model), (words, tags), ignore=["PG136"]))

# Right
model = keras.Sequential([keras.Input((6,)), kl.Embedding(9, 4, mask_zero=True), kl.Dense(3)])
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
print(pg.check(pg.KerasStep(model), (words, tags), ignore=["PG136"]))
