"""Denoising diffusion: digits generated from noise, a little at a time.

The network learns which noise was mixed into an image (Ho et al., 2020, algorithm 1). Sampling
returns from pure noise in deterministic steps (Song et al., 2021, equation 12).

What Perigee does here: noise and times are drawn within the compiled step from seeds that are
state, and validation is the same at each epoch, because it begins with the same random state.

    python examples/gallery/diffusion.py               # any backend; some 30 seconds
"""

import keras
import numpy as np
from figures import draw_images
from keras import ops
from sklearn.datasets import load_digits

import perigee as pg

SEED = 7


class Diffusion(pg.Step):
    """Train a network to find the noise in an image.

    Args:
        model: From noisy images `(batch, 64)` and times `(batch, 1)` to the noise, `(batch, 64)`.
        draw_steps: The number of steps in which images are generated.
    """

    def __init__(self, model, draw_steps=25):
        self.model, self.draw_steps = model, draw_steps
        self.optimizer = keras.optimizers.Adam(2e-3)
        self.seed = keras.random.SeedGenerator(SEED)

    def train_step(self, images):
        noise, times = self.noise_for(images)
        objective = lambda: self.losses(images, noise, times, training=True)  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, self.model)}

    def test_step(self, images):
        noise, times = self.noise_for(images)
        return {"loss": self.losses(images, noise, times, training=False)}

    def predict_step(self, noise):
        images = noise
        for number in range(self.draw_steps, 0, -1):
            times = ops.full((ops.shape(noise)[0], 1), number / self.draw_steps)
            signal_share, noise_share = shares(times)
            found = self.model([images, times], training=False)
            clean = ops.clip((images - noise_share * found) / signal_share, -1.0, 1.0)
            found = (images - signal_share * clean) / noise_share
            signal_share, noise_share = shares(times - 1 / self.draw_steps)
            images = signal_share * clean + noise_share * found
        return (images + 1.0) / 2

    def noise_for(self, images):
        count = ops.shape(images)[0]
        noise = keras.random.normal((count, 64), seed=self.seed)
        return noise, keras.random.uniform((count, 1), seed=self.seed)

    def losses(self, images, noise, times, training):
        signal_share, noise_share = shares(times)
        noisy = signal_share * images + noise_share * noise
        found = self.model([noisy, times], training=training)
        return ops.mean(ops.square(noise - found), axis=-1)


def shares(times):
    """Return how much of the image and of the noise there is at times in [0, 1]."""
    angles = 0.02 + (np.pi / 2 - 0.04) * times
    return ops.cos(angles), ops.sin(angles)


class Waves(keras.layers.Layer):
    """Turn times into waves of several lengths."""

    def call(self, times):
        angles = 2 * np.pi * times * ops.convert_to_tensor([0.25, 0.5, 1.0, 2.0, 4.0])
        return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)


def make_step():
    return Diffusion(make_model())


def make_model():
    noisy, times = keras.Input((64,)), keras.Input((1,))
    waves = Waves()(times)
    hidden = keras.layers.Concatenate()([noisy, waves])
    hidden = keras.layers.Dense(256, activation="swish")(hidden)
    for _ in range(2):
        inner = keras.layers.LayerNormalization()(hidden)
        inner = keras.layers.Concatenate()([inner, waves])
        inner = keras.layers.Dense(256, activation="swish")(inner)
        hidden = keras.layers.Add()([hidden, keras.layers.Dense(256)(inner)])
    return keras.Model([noisy, times], keras.layers.Dense(64)(hidden))


def make_data():
    """Return images in [-1, 1] to train on, and others to validate on."""
    images = (load_digits().data / 8 - 1).astype("float32")
    return images[:1437], images[1437:]


def main(epochs=40, directory=None):
    keras.utils.set_random_seed(SEED)
    train, valid = make_data()
    step = make_step()
    history = pg.fit(step, train, validation=valid, epochs=epochs, batch_size=64, run=directory)
    noise = np.random.default_rng(SEED).normal(size=(40, 64)).astype("float32")
    draw_images(directory, "drawn", pg.predict(step, noise).reshape(-1, 8, 8))
    return history


if __name__ == "__main__":
    main(directory="runs/diffusion")
