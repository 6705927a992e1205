import keras
import numpy as np
from keras import layers as kl

import perigee as pg

words = np.random.default_rng(0).integers(1, 10, size=(64, 6))  # 1 to 9
labels = words.max(axis=1) % 2


def model(num_words):
    layers = [kl.Embedding(num_words, 4), kl.GlobalAveragePooling1D(), kl.Dense(2, "softmax")]
    model = keras.Sequential([keras.Input((6,), dtype="int32"), *layers])
    return pg.Supervised(model, "adam", "sparse_categorical_crossentropy")


# Wrong
print(pg.check(model(9), (words, labels)))

# Right
print(pg.check(model(10), (words, labels)))
