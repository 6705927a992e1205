"""A variational autoencoder of digits: a loss with two parts, and random draws within the step.

The encoder returns a distribution for each image, the decoder an image for a sample from it (Kingma
and Welling, 2014, equation 10).

What Perigee does here: a tracker for each part of the loss; random numbers that are state, so that
a resumed run draws the same numbers as an uninterrupted one.

    python examples/gallery/vae.py               # any backend; some 10 seconds
"""

import keras
import numpy as np
from figures import draw_images
from keras import ops
from sklearn.datasets import load_digits

import perigee as pg

SEED = 7
LATENT = 8


class VAE(pg.Step):
    """An encoder and a decoder, trained together.

    Args:
        encoder: From images `(batch, 64)` to means and log-variances, `(batch, 2 * LATENT)`.
        decoder: From latent values `(batch, LATENT)` to logits of pixels, `(batch, 64)`.
    """

    def __init__(self, encoder, decoder):
        self.encoder, self.decoder = encoder, decoder
        self.optimizer = keras.optimizers.Adam(2e-3)
        self.seed = keras.random.SeedGenerator(SEED)

    def train_step(self, images):
        def objective():
            mean, log_variance = ops.split(self.encoder(images, training=True), 2, axis=-1)
            draw = keras.random.normal(ops.shape(mean), seed=self.seed)
            latent = mean + draw * ops.exp(log_variance / 2)
            logits = self.decoder(latent, training=True)
            reconstruction = 64 * keras.losses.binary_crossentropy(images, logits, from_logits=True)
            spread = ops.square(mean) + ops.exp(log_variance) - log_variance - 1.0
            divergence = ops.sum(spread, axis=-1) / 2
            return reconstruction + divergence, (reconstruction, divergence)

        loss, (reconstruction, divergence) = self.minimize(
            objective, self.optimizer, [self.encoder, self.decoder]
        )
        return {"loss": loss, "reconstruction": reconstruction, "divergence": divergence}

    def predict_step(self, latent):
        return ops.sigmoid(self.decoder(latent, training=False))


def make_step():
    return VAE(*make_models())


def make_models():
    encoder = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(2 * LATENT),
        ],
        name="encoder",
    )
    decoder = keras.Sequential(
        [
            keras.Input((LATENT,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(64),
        ],
        name="decoder",
    )
    return encoder, decoder


def make_data():
    return (load_digits().data / 16).astype("float32")


def main(epochs=40, directory=None):
    keras.utils.set_random_seed(SEED)
    step = make_step()
    history = pg.fit(step, make_data(), epochs=epochs, batch_size=64, run=directory)
    latent = np.random.default_rng(SEED).normal(size=(40, LATENT)).astype("float32")
    draw_images(directory, "drawn", pg.predict(step, latent).reshape(-1, 8, 8))
    return history


if __name__ == "__main__":
    main(directory="runs/vae")
