"""Learn where points lie with a Wasserstein GAN: a gradient penalty inside an objective.

The critic's slope between real and drawn points is held near 1 (Gulrajani et al., 2017, algorithm
1). That slope is a gradient with respect to inputs, taken inside the critic's objective and
differentiated again with it: `gradients` for tensors. The critic is updated several times for each
update of the generator, on other rows of the batch each time.

    python examples/wgan_gp.py               # some seconds on two cores, on any framework
"""

import argparse
import sys
import time

import keras
import numpy as np
from keras import ops

import perigee as pg

SEED = 7
EPOCHS = 16
CRITIC_UPDATES = 3
NOISE = 4
CORNERS = 6
WANTED_FACTOR = 2.5
"""How much nearer to the real points the drawn ones come, at least."""


class WassersteinGAN(pg.Step):
    """A generator, and a critic that measures how far its points are from real ones.

    Args:
        generator: From noise `(batch, NOISE)` to points `(batch, 2)`.
        critic: From points to one number each, `(batch, 1)`.
        penalty: Weight of the penalty on slopes other than 1.
    """

    def __init__(self, generator, critic, penalty=1.0):
        self.generator, self.critic, self.penalty = generator, critic, penalty
        self.generator_optimizer = keras.optimizers.Adam(2e-3, beta_1=0.0, beta_2=0.9)
        self.critic_optimizer = keras.optimizers.Adam(4e-3, beta_1=0.0, beta_2=0.9)
        self.slope = keras.metrics.Mean(name="slope")
        self.seed = keras.random.SeedGenerator(SEED)

    def train_step(self, points):
        for update in range(CRITIC_UPDATES):
            critic_loss = self.update_critic(points[update::CRITIC_UPDATES])
        noise = self.noise_for(points)

        def objective():
            return -self.critic(self.generator(noise, training=True), training=True)[:, 0]

        generator_loss = self.minimize(objective, self.generator_optimizer, self.generator)
        return {"critic_loss": critic_loss, "generator_loss": generator_loss}

    def update_critic(self, real):
        drawn = self.generator(self.noise_for(real), training=True)
        mix = keras.random.uniform((ops.shape(real)[0], 1), seed=self.seed)
        between = mix * real + (1.0 - mix) * drawn

        def objective():
            gain = self.critic(real, training=True) - self.critic(drawn, training=True)
            # The sum makes no example a part of another's gradient.
            gradient = self.gradients(lambda x: ops.sum(self.critic(x, training=True)), between)
            slopes = ops.sqrt(ops.sum(ops.square(gradient), axis=-1) + 1e-12)
            # A part of the batch carries its own count.
            return pg.mean(self.penalty * ops.square(slopes - 1.0) - gain[:, 0]), slopes

        loss, slopes = self.minimize(objective, self.critic_optimizer, self.critic)
        self.slope.update_state(slopes)
        return loss

    def predict_step(self, noise):
        return self.generator(noise, training=False)

    def noise_for(self, points):
        return keras.random.normal((ops.shape(points)[0], NOISE), seed=self.seed)


def make_network(inputs, outputs, name):
    hidden = [keras.layers.Dense(64, activation="leaky_relu") for _ in range(2)]
    layers = [keras.Input((inputs,)), *hidden, keras.layers.Dense(outputs)]
    return keras.Sequential(layers, name=name)


def make_step():
    return WassersteinGAN(make_network(NOISE, 2, "generator"), make_network(2, 1, "critic"))


def make_points(rows=6000):
    """Return points around the corners of a hexagon, `(rows, 2)`."""
    random = np.random.default_rng(SEED)
    angles = 2 * np.pi * random.integers(CORNERS, size=rows) / CORNERS
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return (corners + 0.05 * random.normal(size=(rows, 2))).astype("float32")


def distance(points, others):
    """Return the mean distance, over many directions, that points must be moved along one.

    It is the sliced Wasserstein distance (Bonneel et al., 2015) of two sets of equal size.
    """
    angles = np.linspace(0, np.pi, 64, endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles)])
    along, others_along = np.sort(points @ directions, axis=0), np.sort(others @ directions, axis=0)
    return float(np.abs(along - others_along).mean())


def main(epochs=EPOCHS):
    """Train, and return how far drawn points are from real ones, before and after."""
    keras.utils.set_random_seed(SEED)
    points = make_points()
    noise = np.random.default_rng(SEED).normal(size=(len(points), NOISE)).astype("float32")
    step = make_step()

    before = distance(points, pg.predict(step, noise))
    began = time.perf_counter()
    pg.fit(step, points, epochs=epochs, batch_size=64 * CRITIC_UPDATES)
    after = distance(points, pg.predict(step, noise))

    print(
        f"The distance to the real points fell from {before:.3f} to {after:.3f}, "
        f"in {time.perf_counter() - began:.1f} s."
    )
    return before, after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Learn where points lie.")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    before, after = main(parser.parse_args().epochs)
    if after * WANTED_FACTOR > before:
        sys.exit(f"The distance was expected to fall by a factor of {WANTED_FACTOR:g}.")
