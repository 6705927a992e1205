"""A GAN that generates digits: two networks, two losses, two optimizers, one step.

The discriminator learns to tell generated digits from real ones, the generator to fool it
(Goodfellow et al., 2014, with the non-saturating loss of section 3).

What Perigee does here: two tapes and their bookkeeping. Each objective is written beside the
network that it trains, and no other network is changed; the noise is part of the state.

    python examples/gallery/gan.py               # any backend; some 10 seconds
"""

import keras
import numpy as np
from figures import draw_images
from keras import ops
from sklearn.datasets import load_digits

import perigee as pg

SEED = 7
NOISE = 16


class GAN(pg.Step):
    """A generator against a discriminator.

    Args:
        generator: From noise `(batch, NOISE)` to images `(batch, 64)`.
        discriminator: From images to one score each, `(batch, 1)`; high means real.
    """

    def __init__(self, generator, discriminator):
        self.generator, self.discriminator = generator, discriminator
        self.generator_optimizer = keras.optimizers.Adam(2e-3, beta_1=0.5)
        self.discriminator_optimizer = keras.optimizers.Adam(2e-3, beta_1=0.5)
        self.seed = keras.random.SeedGenerator(SEED)

    def train_step(self, images):
        noise = keras.random.normal((ops.shape(images)[0], NOISE), seed=self.seed)
        drawn = self.generator(noise, training=True)

        def discriminator_objective():
            real = self.discriminator(images, training=True)[:, 0]
            fake = self.discriminator(drawn, training=True)[:, 0]
            return ops.softplus(-real) + ops.softplus(fake)

        discriminator_loss = self.minimize(
            discriminator_objective, self.discriminator_optimizer, self.discriminator
        )

        def generator_objective():
            scores = self.discriminator(self.generator(noise, training=True), training=True)
            return ops.softplus(-scores[:, 0])

        generator_loss = self.minimize(
            generator_objective, self.generator_optimizer, self.generator
        )
        gap = ops.mean(ops.square(ops.mean(drawn, axis=0) - ops.mean(images, axis=0)))
        return {
            "discriminator_loss": discriminator_loss,
            "generator_loss": generator_loss,
            "gap": gap,
        }

    def predict_step(self, noise):
        return self.generator(noise, training=False)


def make_step():
    return GAN(*make_models())


def make_models():
    generator = keras.Sequential(
        [
            keras.Input((NOISE,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(64, activation="sigmoid"),
        ],
        name="generator",
    )
    discriminator = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.GaussianNoise(0.1),
            keras.layers.Dense(128, activation="leaky_relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(1),
        ],
        name="discriminator",
    )
    return generator, discriminator


def make_data():
    return (load_digits().data / 16).astype("float32")


def main(epochs=40, directory=None):
    """Train; `gap` is the distance of the mean generated digit from the mean real one."""
    keras.utils.set_random_seed(SEED)
    step = make_step()
    history = pg.fit(step, make_data(), epochs=epochs, batch_size=64, run=directory)
    noise = np.random.default_rng(SEED).normal(size=(40, NOISE)).astype("float32")
    draw_images(directory, "drawn", pg.predict(step, noise).reshape(-1, 8, 8))
    return history


if __name__ == "__main__":
    main(directory="runs/gan")
