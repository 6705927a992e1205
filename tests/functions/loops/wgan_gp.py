"""Trains a Wasserstein GAN with gradient penalty on the two moons."""
# ruff: noqa: B905

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.datasets import make_moons

keras.utils.set_random_seed(11)

LATENT = 4
GP_WEIGHT = 1.0
N_CRITIC = 5

points, _ = make_moons(1000, noise=0.05, random_state=0)
points = ((points - points.mean(0)) / points.std(0)).astype("float32")
ds = tf.data.Dataset.from_tensor_slices(points).shuffle(1000, seed=5).batch(128)


def mlp(n_in, n_out, name):
    inputs = keras.Input((n_in,))
    x = inputs
    for _ in range(2):
        x = layers.Dense(64)(x)
        x = layers.LeakyReLU()(x)
    return keras.Model(inputs, layers.Dense(n_out)(x), name=name)


class WGANGP:
    """Holds both networks, their optimizers and the steps."""

    def __init__(self, latent_dim, gp_weight=10.0, n_critic=5):
        self.latent_dim = latent_dim
        self.gp_weight = gp_weight
        self.n_critic = n_critic
        self.generator = mlp(latent_dim, 2, "generator")
        self.critic = mlp(2, 1, "critic")
        self.g_optimizer = keras.optimizers.Adam(1e-3, beta_1=0.0, beta_2=0.9)
        self.c_optimizer = keras.optimizers.Adam(1e-3, beta_1=0.0, beta_2=0.9)

    def sample(self, n, training=False):
        z = tf.random.normal((n, self.latent_dim))
        return self.generator(z, training=training)

    def gradient_penalty(self, real, fake):
        alpha = tf.random.uniform((tf.shape(real)[0], 1))
        mixed = real + alpha * (fake - real)
        with tf.GradientTape() as gp_tape:
            gp_tape.watch(mixed)
            score = self.critic(mixed, training=True)
        grads = gp_tape.gradient(score, [mixed])[0]
        norm = tf.sqrt(tf.reduce_sum(tf.square(grads), axis=1) + 1e-12)
        return tf.reduce_mean((norm - 1.0) ** 2)

    def critic_step(self, real):
        fake = self.sample(tf.shape(real)[0], training=True)
        with tf.GradientTape() as tape:
            score_real = self.critic(real, training=True)
            score_fake = self.critic(fake, training=True)
            distance = tf.reduce_mean(score_real) - tf.reduce_mean(score_fake)
            gp = self.gradient_penalty(real, fake)
            c_loss = -distance + self.gp_weight * gp
        grads = tape.gradient(c_loss, self.critic.trainable_weights)
        self.c_optimizer.apply_gradients(zip(grads, self.critic.trainable_weights))
        return c_loss, distance, gp

    def generator_step(self, n):
        with tf.GradientTape() as tape:
            g_loss = -tf.reduce_mean(self.critic(self.sample(n, training=True), training=True))
        grads = tape.gradient(g_loss, self.generator.trainable_weights)
        self.g_optimizer.apply_gradients(zip(grads, self.generator.trainable_weights))
        return g_loss

    @tf.function
    def train_step(self, real):
        for _ in range(self.n_critic):
            c_loss, distance, gp = self.critic_step(real)
        g_loss = self.generator_step(tf.shape(real)[0])
        return {"c_loss": c_loss, "g_loss": g_loss, "wasserstein": distance, "gp": gp}


def chamfer(a, b):
    """Mean distance of each point of `a` to its nearest of `b`, and the other way round."""
    d = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    return d.min(axis=1).mean() + d.min(axis=0).mean()


gan = WGANGP(LATENT, gp_weight=GP_WEIGHT, n_critic=N_CRITIC)


def main(epochs=10):
    names = ["c_loss", "g_loss", "wasserstein", "gp"]
    trackers = {name: keras.metrics.Mean(name=name) for name in names}
    for epoch in range(epochs):
        for batch in ds:
            logs = gan.train_step(batch)
            for name, value in logs.items():
                trackers[name].update_state(value)

        line = " - ".join(f"{name}: {float(m.result()):.4f}" for name, m in trackers.items())
        far = chamfer(gan.sample(500).numpy(), points)
        print(f"Epoch {epoch + 1}/{epochs} - {line} - chamfer: {far:.4f}")
        for m in trackers.values():
            m.reset_state()


if __name__ == "__main__":
    main()
