import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
averaged = keras.optimizers.Adam(1e-2, use_ema=True)
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
model.compile(averaged, "mse")
best = keras.callbacks.EarlyStopping("val_loss", restore_best_weights=True)

# Wrong
swap = keras.callbacks.SwapEMAWeights()
pg.keras_fit(model, x, y, validation_split=0.2, callbacks=[swap, best], epochs=2, verbose=0)

# Right
swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
pg.keras_fit(model, x, y, validation_split=0.2, callbacks=[swap, best], epochs=2, verbose=0)
