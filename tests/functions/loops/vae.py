"""Trains a variational autoencoder on the scikit-learn digits."""
# ruff: noqa: B905

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from tensorflow import keras
from tensorflow.keras import layers

keras.utils.set_random_seed(7)

latent_dim = 4
beta = 1.0
epochs = 6

data = (load_digits().data / 16.0).astype(np.float32)
train_images, test_images = data[:1500], data[1500:]

train_dataset = tf.data.Dataset.from_tensor_slices(train_images).shuffle(1500, seed=3).batch(128)
test_dataset = tf.data.Dataset.from_tensor_slices(test_images).batch(128)


class Sampling(layers.Layer):
    """Draws z from (mean, log variance), and adds the KL divergence as a loss."""

    def __init__(self, weight=1.0, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight
        self.seed_gen = keras.random.SeedGenerator(1337)

    def call(self, inputs):
        mean, logvar = inputs
        kl = -0.5 * tf.reduce_sum(1.0 + logvar - tf.square(mean) - tf.exp(logvar), axis=1)
        self.add_loss(self.weight * tf.reduce_mean(kl))
        eps = keras.random.normal(tf.shape(mean), seed=self.seed_gen)
        return mean + eps * tf.exp(0.5 * logvar)


class VAE(keras.Model):
    def __init__(self, latent_dim):
        super().__init__()
        self.encoder = keras.Sequential(
            [
                layers.Input((64,)),
                layers.Dense(128, activation="relu"),
                layers.Dense(64, activation="relu"),
                layers.Dense(2 * latent_dim),
            ],
            name="encoder",
        )
        self.sampling = Sampling(beta)
        self.decoder = keras.Sequential(
            [
                layers.Input((latent_dim,)),
                layers.Dense(64, activation="relu"),
                layers.Dense(128, activation="relu"),
                layers.Dense(64),
            ],
            name="decoder",
        )

    def encode(self, x):
        mean, logvar = tf.split(self.encoder(x), num_or_size_splits=2, axis=1)
        return mean, logvar

    def decode(self, z, apply_sigmoid=False):
        logits = self.decoder(z)
        if apply_sigmoid:
            return tf.sigmoid(logits)
        return logits

    def call(self, x):
        return self.decode(self.sampling(self.encode(x)))


def reconstruction_loss(x, logits):
    cross_ent = tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=logits)
    return tf.reduce_mean(tf.reduce_sum(cross_ent, axis=1))


def compute_loss(model, x):
    logits = model(x)
    return reconstruction_loss(x, logits) + sum(model.losses)


@tf.function
def train_step(model, x, optimizer):
    """Executes one training step and returns the loss."""
    with tf.GradientTape() as tape:
        loss = compute_loss(model, x)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    return loss


vae = VAE(latent_dim)
opt = keras.optimizers.Adam(1e-3)


def main():
    for epoch in range(1, epochs + 1):
        train_loss = keras.metrics.Mean()
        for train_x in train_dataset:
            train_loss(train_step(vae, train_x, opt))

        test_loss = keras.metrics.Mean()
        for test_x in test_dataset:
            test_loss(compute_loss(vae, test_x))
        elbo = -test_loss.result()
        print(f"Epoch: {epoch}, train loss: {train_loss.result():.4f}, test ELBO: {elbo:.4f}")


if __name__ == "__main__":
    main()
