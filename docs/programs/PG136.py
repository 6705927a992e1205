import keras
import numpy as np
from keras import layers as kl

import perigee as pg

words = np.random.default_rng(0).integers(9, size=(64, 6))
labels = words.max(axis=1) % 2
layers = [kl.Embedding(9, 4), kl.GlobalAveragePooling1D(), kl.Dense(2, "softmax")]
model = keras.Sequential([keras.Input((6,), dtype="int32"), *layers])

# Wrong
model.compile("adam", "sparse_categorical_crossentropy")
print(pg.check(model, (words, labels)))

# Right
step = pg.Supervised(model, "adam", "sparse_categorical_crossentropy")
print(pg.check(step, (words, labels)))
