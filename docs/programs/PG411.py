import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]


class Regression(pg.Step):
    def __init__(self):
        self.model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
        self.optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-2))


# Wrong
class Trained(Regression):
    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(y - self.model(x, training=True)))
        gradients = tape.gradient(loss, self.model.trainable_variables)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return {"loss": loss}


print(pg.check(Trained(), (x, y)))


# Right
class Trained(Regression):
    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(y - self.model(x, training=True)))
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.model.trainable_variables)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return {"loss": loss}


print(pg.check(Trained(), (x, y)))
