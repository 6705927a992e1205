"""Programs of Keras's guides as Steps, on every framework: trained, and nothing found wrong."""

import keras
import numpy as np
from keras import layers, ops

import perigee as pg

ROWS, BATCH, WIDTH, LATENT = 24, 8, 6, 4


def dense(inputs, outputs):
    return keras.Sequential(
        [keras.Input((inputs,)), layers.Dense(8, activation="relu"), layers.Dense(outputs)]
    )


class Gan(pg.Step):
    """The guide's GAN: `compile`, a `metrics` property, and noise added to the labels."""

    def __init__(self, discriminator, generator, latent_dim):
        super().__init__()
        self.discriminator, self.generator = discriminator, generator
        self.latent_dim = latent_dim
        self.seed_generator = keras.random.SeedGenerator(1337)

    def compile(self, d_optimizer, g_optimizer, loss_fn):
        self.d_optimizer, self.g_optimizer, self.loss_fn = d_optimizer, g_optimizer, loss_fn
        self.d_loss_metric = keras.metrics.Mean(name="d_loss")
        self.g_loss_metric = keras.metrics.Mean(name="g_loss")

    @property
    def metrics(self):
        return [self.d_loss_metric, self.g_loss_metric]

    def drawn(self, count):
        return keras.random.normal((count, self.latent_dim), seed=self.seed_generator)

    def train_step(self, real):
        count = ops.shape(real)[0]
        labels = ops.concatenate([ops.ones((count, 1)), ops.zeros((count, 1))])
        labels += 0.05 * keras.random.uniform(ops.shape(labels), seed=self.seed_generator)

        def d_objective():
            both = ops.concatenate([self.generator(self.drawn(count)), real])
            return self.loss_fn(labels, self.discriminator(both))

        def g_objective():
            judged = self.discriminator(self.generator(self.drawn(count)))
            return self.loss_fn(ops.zeros((count, 1)), judged)

        d_loss = self.minimize(d_objective, self.d_optimizer, self.discriminator)
        g_loss = self.minimize(g_objective, self.g_optimizer, self.generator)
        self.d_loss_metric.update_state(d_loss, sample_weight=count)
        self.g_loss_metric.update_state(g_loss, sample_weight=count)
        return {metric.name: metric.result() for metric in self.metrics}


class Monitor(keras.callbacks.Callback):
    """Draws examples after each epoch, as the guide's does."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def on_epoch_end(self, epoch, logs=None):
        noise = np.zeros((3, self.model.latent_dim), "float32")
        self.shapes.append(tuple(self.model.generator(noise).shape))


def test_a_gan_of_the_guide_trains_with_its_monitor():
    real = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype("float32")
    step, monitor = Gan(dense(WIDTH, 1), dense(LATENT, WIDTH), LATENT), Monitor()
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    step.compile(keras.optimizers.Adam(1e-3), keras.optimizers.Adam(1e-3), loss)

    assert pg.check(step, real, batch_size=BATCH).findings == ()
    history = pg.fit(
        step, real, epochs=2, batch_size=BATCH, callbacks=[monitor], progress="off"
    ).history

    assert monitor.shapes == [(3, WIDTH)] * 2
    assert np.isfinite([*history["d_loss"], *history["g_loss"]]).all()
