"""Learn to draw handwritten digits: two networks, two losses and two optimizers in one step.

The discriminator learns to tell drawn digits from real ones, the generator to pass for real
(Goodfellow et al., 2014; the generator's loss is the non-saturating one of section 3). Each
objective stands beside the optimizer and the network that it is for, and only the weights that an
update names are changed.

    python examples/gan.py               # some seconds on two cores, on any framework
"""

import argparse
import sys
import time

import keras
import numpy as np
from keras import ops
from sklearn.datasets import load_digits

import perigee as pg

SEED = 7
EPOCHS = 40
NOISE = 16
WANTED_FACTOR = 2.5
"""How much nearer to the real digits the drawn ones come, at least."""


class GAN(pg.Step):
    """A generator against a discriminator.

    Args:
        generator: From noise `(batch, NOISE)` to images `(batch, 64)`.
        discriminator: From images to one score an image, `(batch, 1)`; high means real.
    """

    def __init__(self, generator, discriminator):
        self.generator, self.discriminator = generator, discriminator
        self.generator_optimizer = keras.optimizers.Adam(2e-3, beta_1=0.5)
        self.discriminator_optimizer = keras.optimizers.Adam(2e-3, beta_1=0.5)
        self.fooled = keras.metrics.Mean(name="fooled")
        self.seed = keras.random.SeedGenerator(SEED)

    def train_step(self, images):
        drawn = self.generator(self.noise_for(images), training=True)

        def discriminator_objective():
            real = self.discriminator(images, training=True)[:, 0]
            fake = self.discriminator(drawn, training=True)[:, 0]
            return ops.softplus(-real) + ops.softplus(fake)

        discriminator_loss = self.minimize(
            discriminator_objective, self.discriminator_optimizer, self.discriminator
        )
        noise = self.noise_for(images)

        def generator_objective():
            scores = self.discriminator(self.generator(noise, training=True), training=True)[:, 0]
            return ops.softplus(-scores), scores

        generator_loss, scores = self.minimize(
            generator_objective, self.generator_optimizer, self.generator
        )
        self.fooled.update_state(ops.cast(scores > 0, "float32"))
        return {"discriminator_loss": discriminator_loss, "generator_loss": generator_loss}

    def predict_step(self, noise):
        return self.generator(noise, training=False)

    def noise_for(self, images):
        return keras.random.normal((ops.shape(images)[0], NOISE), seed=self.seed)


def make_step():
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
            keras.layers.Dense(128, activation="leaky_relu"),
            keras.layers.Dense(1),
        ],
        name="discriminator",
    )
    return GAN(generator, discriminator)


def distance(images, others):
    """Return the Fréchet distance of two sets of images, as if their pixels were Gaussian.

    It is 0 for equal means and covariances (Heusel et al., 2017, equation 6).
    """
    shift = images.mean(axis=0) - others.mean(axis=0)
    one, other = np.cov(images, rowvar=False), np.cov(others, rowvar=False)
    values, vectors = np.linalg.eigh(one)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other @ root), 0)).sum()
    return float(shift @ shift + np.trace(one) + np.trace(other) - 2 * overlap)


def as_text(images):
    """Return images `(n, 64)` side by side, in characters."""
    shades = np.array(list(" .:*#"))
    rows = shades[(images.reshape(-1, 8, 8) * 4.99).astype(int)]
    return "\n".join("  ".join("".join(image[row]) for image in rows) for row in range(8))


def main(epochs=EPOCHS):
    """Train, and return how far drawn digits are from real ones, before and after."""
    keras.utils.set_random_seed(SEED)
    images = (load_digits().data / 16).astype("float32")
    noise = np.random.default_rng(SEED).normal(size=(len(images), NOISE)).astype("float32")
    step = make_step()

    before = distance(images, pg.predict(step, noise))
    began = time.perf_counter()
    pg.fit(step, images, epochs=epochs, batch_size=128)
    drawn = pg.predict(step, noise)
    after = distance(images, drawn)

    print(as_text(drawn[:8]))
    print(
        f"The distance to the real digits fell from {before:.2f} to {after:.2f}, "
        f"in {time.perf_counter() - began:.1f} s."
    )
    return before, after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Learn to draw handwritten digits.")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    before, after = main(parser.parse_args().epochs)
    if after * WANTED_FACTOR > before:
        sys.exit(f"The distance was expected to fall by a factor of {WANTED_FACTOR:g}.")
