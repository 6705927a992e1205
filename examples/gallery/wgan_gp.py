"""A Wasserstein GAN that generates digits, with a gradient penalty.

The critic's slope between real and generated images is held near 1 (Gulrajani et al., 2017,
algorithm 1). That slope is a gradient with respect to inputs, taken inside the critic's objective
and differentiated again with it.

What Perigee does here: nested tapes (and their equivalents on JAX and torch), and alternating
updates of the two networks: three batches for the critic, one for the generator, within compiled
code.

    python examples/gallery/wgan_gp.py               # any backend; some 20 seconds
"""

import keras
import numpy as np
from figures import draw_images
from keras import ops
from sklearn.datasets import load_digits

import perigee as pg

SEED = 7
NOISE = 16
CRITIC_STEPS = 3


class WassersteinGAN(pg.Step):
    """A generator, and a critic that measures how far its images are from real ones.

    Args:
        generator: From noise `(batch, NOISE)` to images `(batch, 64)`.
        critic: From images to one number each, `(batch, 1)`.
        penalty: Weight of the penalty on slopes other than 1.
    """

    train_step = pg.alternate(critic_step=CRITIC_STEPS, generator_step=1)

    def __init__(self, generator, critic, penalty=10.0):
        self.generator, self.critic, self.penalty = generator, critic, penalty
        self.generator_optimizer = keras.optimizers.Adam(1e-3, beta_1=0.0, beta_2=0.9)
        self.critic_optimizer = keras.optimizers.Adam(1e-3, beta_1=0.0, beta_2=0.9)
        self.seed = keras.random.SeedGenerator(SEED)

    def critic_step(self, images):
        drawn = self.generator(self.noise_for(images), training=True)
        mix = keras.random.uniform((ops.shape(images)[0], 1), seed=self.seed)
        between = mix * images + (1.0 - mix) * drawn

        def objective():
            gain = self.critic(images, training=True) - self.critic(drawn, training=True)
            # In the sum, no example is part of another's gradient.
            gradient = self.gradients(lambda x: ops.sum(self.critic(x, training=True)), between)
            slopes = ops.sqrt(ops.sum(ops.square(gradient), axis=-1) + 1e-12)
            return self.penalty * ops.square(slopes - 1.0) - gain[:, 0], slopes

        loss, slopes = self.minimize(objective, self.critic_optimizer, self.critic)
        return {"critic_loss": loss, "slope": slopes}

    def generator_step(self, images):
        noise = self.noise_for(images)

        def objective():
            drawn = self.generator(noise, training=True)
            return -self.critic(drawn, training=True)[:, 0], drawn

        loss, drawn = self.minimize(objective, self.generator_optimizer, self.generator)
        gap = ops.mean(ops.square(ops.mean(drawn, axis=0) - ops.mean(images, axis=0)))
        return {"generator_loss": loss, "gap": gap}

    def predict_step(self, noise):
        return self.generator(noise, training=False)

    def noise_for(self, images):
        return keras.random.normal((ops.shape(images)[0], NOISE), seed=self.seed)


def make_step():
    return WassersteinGAN(*make_models())


def make_models():
    hidden = {"units": 128, "activation": "leaky_relu"}
    generator = keras.Sequential(
        [
            keras.Input((NOISE,)),
            keras.layers.Dense(**hidden),
            keras.layers.Dense(**hidden),
            keras.layers.Dense(64, activation="sigmoid"),
        ],
        name="generator",
    )
    critic = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(**hidden),
            keras.layers.Dense(**hidden),
            keras.layers.Dense(1),
        ],
        name="critic",
    )
    return generator, critic


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
    main(directory="runs/wgan_gp")
