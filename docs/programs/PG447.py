import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
step = pg.Supervised(model, keras.optimizers.Adam(1e-2), "mse")


class Cooling(pg.Hook):
    def on_steps(self, event):
        step.optimizer.learning_rate = 1e-2 / (1 + event.clock.step)


# Wrong
pg.fit(step, (x, y), batch_size=1, callbacks=[Cooling()], progress="off")

# Right
cooling = Cooling()
cooling.every = pg.Every(steps=1)
pg.fit(step, (x, y), batch_size=1, callbacks=[cooling], progress="off")
