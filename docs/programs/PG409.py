import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]


class Network(keras.Model):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.head = kl.Dense(units, "relu"), kl.Dense(1)

    def call(self, x):
        return self.head(self.hidden(x))


model = Network(8)
model(x)

# Wrong
average = pg.copy_of(model)


# Right
class Described(Network):
    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.units = units

    def get_config(self):
        return {**super().get_config(), "units": self.units}


model = Described(8)
model(x)
average = pg.copy_of(model)
