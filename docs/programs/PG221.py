import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :3].argmax(axis=1)
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(3)])


# Wrong
def crossentropy(y, y_pred):
    own_answer = ops.argmax(y_pred, axis=-1)
    return ops.sparse_categorical_crossentropy(own_answer, y_pred, from_logits=True)


print(pg.check(pg.Supervised(model, "adam", crossentropy), (x, y)))


# Right
def crossentropy(y, y_pred):
    return ops.sparse_categorical_crossentropy(y, y_pred, from_logits=True)


print(pg.check(pg.Supervised(model, "adam", crossentropy), (x, y)))
