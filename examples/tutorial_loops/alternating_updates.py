"""Alternating updates: a generator and a discriminator, each with its own loss and optimizer.

In the hand-written loop you must match the two losses, two tapes and two lists of variables, and a
wrong match trains silently: a generator pushed by the discriminator's loss, or a model left in
inference mode because `training=True` was forgotten. Python's counters and `tf.random.normal`
inside the traced function are constants or state that no checkpoint holds.

Here each objective is written beside its optimizer and model. Only the variables that an update
names are changed, although both objectives run through the discriminator. An objective that does
not reach its variables raises (PG101), one optimizer used for two sets raises (PG105), and noise
comes from a `SeedGenerator` that is part of the Step's state.
"""

import keras
import numpy as np
from keras import ops

import perigee as pg

NOISE = 4


class Adversaries(pg.Step):
    """Learn to generate numbers like those of the data (Goodfellow et al., 2014)."""

    def __init__(self, generator, discriminator):
        self.generator, self.discriminator = generator, discriminator
        self.generator_optimizer = keras.optimizers.Adam(2e-3, beta_1=0.5)
        self.discriminator_optimizer = keras.optimizers.Adam(5e-3, beta_1=0.5)
        self.loss = keras.losses.BinaryCrossentropy(from_logits=True)
        self.noise = keras.random.SeedGenerator(11)

    def train_step(self, batch):
        real = batch
        generated = self.generator(self.draw(batch), training=True)

        def discriminator_objective():
            on_real = self.discriminator(real, training=True)
            on_generated = self.discriminator(generated, training=True)
            return (
                self.loss(ops.ones_like(on_real), on_real)
                + self.loss(ops.zeros_like(on_generated), on_generated)
            ) / 2

        discriminator_loss = self.minimize(
            discriminator_objective, self.discriminator_optimizer, self.discriminator
        )
        noise = self.draw(batch)

        def generator_objective():
            verdict = self.discriminator(self.generator(noise, training=True), training=True)
            return self.loss(ops.ones_like(verdict), verdict)

        generator_loss = self.minimize(
            generator_objective, self.generator_optimizer, self.generator
        )
        return {"discriminator_loss": discriminator_loss, "generator_loss": generator_loss}

    def predict_step(self, batch):
        return self.generator(self.draw(batch), training=False)

    def draw(self, batch):
        return keras.random.normal((ops.shape(batch)[0], NOISE), seed=self.noise)


def make_step():
    generator = keras.Sequential(
        [
            keras.Input((NOISE,)),
            keras.layers.Dense(16, activation="tanh"),
            keras.layers.Dense(1),
        ],
        name="generator",
    )
    discriminator = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(16, activation="tanh"),
            keras.layers.Dense(1),
        ],
        name="discriminator",
    )
    return Adversaries(generator, discriminator)


def make_data(rows=500):
    """Return numbers around 2, shape `(rows, 1)`."""
    return np.random.default_rng(0).normal(2.0, 0.5, size=(rows, 1)).astype("float32")


def main(epochs=25):
    keras.utils.set_random_seed(7)
    step, data = make_step(), make_data()
    history = pg.fit(step, data, epochs=epochs)
    drawn = pg.predict(step, data)
    print(f"data: mean {data.mean():.2f}; generated: mean {drawn.mean():.2f}")
    return history, drawn


if __name__ == "__main__":
    main()
