"""Generative models, agents, sequences and old idioms on TensorFlow, as code examples have them."""

import collections

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from tests.strangers.corpus import by_fit, by_hand
from tests.strangers.datasets import cancer, digits, sentences, wine

AUTOTUNE = tf.data.AUTOTUNE


def rng(seed=0):
    return np.random.default_rng(seed)


# GAN-like.


class ConditionalGAN(keras.Model):
    def __init__(self, discriminator, generator, latent_dim):
        super().__init__()
        self.discriminator = discriminator
        self.generator = generator
        self.latent_dim = latent_dim
        self.seed_generator = keras.random.SeedGenerator(1337)
        self.gen_loss_tracker = keras.metrics.Mean(name="generator_loss")
        self.disc_loss_tracker = keras.metrics.Mean(name="discriminator_loss")

    @property
    def metrics(self):
        return [self.gen_loss_tracker, self.disc_loss_tracker]

    def compile(self, d_optimizer, g_optimizer, loss_fn):
        super().compile()
        self.d_optimizer = d_optimizer
        self.g_optimizer = g_optimizer
        self.loss_fn = loss_fn

    def train_step(self, data):
        real_images, one_hot_labels = data
        size = 8
        maps = one_hot_labels[:, :, None, None]
        maps = ops.repeat(maps, repeats=[size * size])
        maps = ops.reshape(maps, (-1, size, size, 10))
        batch_size = ops.shape(real_images)[0]
        latent = keras.random.normal((batch_size, self.latent_dim), seed=self.seed_generator)
        latent = ops.concatenate([latent, one_hot_labels], axis=1)
        generated = self.generator(latent)
        fake_and_maps = ops.concatenate([generated, maps], -1)
        real_and_maps = ops.concatenate([real_images, maps], -1)
        combined = ops.concatenate([fake_and_maps, real_and_maps], axis=0)
        labels = ops.concatenate([ops.ones((batch_size, 1)), ops.zeros((batch_size, 1))], axis=0)
        with tf.GradientTape() as tape:
            predictions = self.discriminator(combined)
            d_loss = self.loss_fn(labels, predictions)
        grads = tape.gradient(d_loss, self.discriminator.trainable_weights)
        self.d_optimizer.apply_gradients(zip(grads, self.discriminator.trainable_weights))
        latent = keras.random.normal((batch_size, self.latent_dim), seed=self.seed_generator)
        latent = ops.concatenate([latent, one_hot_labels], axis=1)
        misleading = ops.zeros((batch_size, 1))
        with tf.GradientTape() as tape:
            fake_images = self.generator(latent)
            predictions = self.discriminator(ops.concatenate([fake_images, maps], -1))
            g_loss = self.loss_fn(misleading, predictions)
        grads = tape.gradient(g_loss, self.generator.trainable_weights)
        self.g_optimizer.apply_gradients(zip(grads, self.generator.trainable_weights))
        self.gen_loss_tracker.update_state(g_loss)
        self.disc_loss_tracker.update_state(d_loss)
        return {
            "g_loss": self.gen_loss_tracker.result(),
            "d_loss": self.disc_loss_tracker.result(),
        }


@by_fit(only="tensorflow")
def conditional_gan(by):
    x, y = digits(96)
    y = keras.utils.to_categorical(y, 10)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
    discriminator = keras.Sequential(
        [
            keras.layers.InputLayer((8, 8, 11)),
            layers.Conv2D(8, (3, 3), strides=(2, 2), padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.GlobalMaxPooling2D(),
            layers.Dense(1),
        ],
        name="discriminator",
    )
    generator = keras.Sequential(
        [
            keras.layers.InputLayer((4 + 10,)),
            layers.Dense(4 * 4 * 14),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Reshape((4, 4, 14)),
            layers.Conv2DTranspose(8, (4, 4), strides=(2, 2), padding="same"),
            layers.Conv2D(1, (7, 7), padding="same", activation="sigmoid"),
        ],
        name="generator",
    )
    cond_gan = ConditionalGAN(discriminator, generator, latent_dim=4)
    cond_gan.compile(
        d_optimizer=keras.optimizers.Adam(learning_rate=0.0003),
        g_optimizer=keras.optimizers.Adam(learning_rate=0.0003),
        loss_fn=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    by.fit(cond_gan, dataset, epochs=2)


class WGAN(keras.Model):
    def __init__(
        self, discriminator, generator, latent_dim, discriminator_extra_steps=3, gp_weight=10.0
    ):
        super().__init__()
        self.discriminator = discriminator
        self.generator = generator
        self.latent_dim = latent_dim
        self.d_steps = discriminator_extra_steps
        self.gp_weight = gp_weight

    def compile(self, d_optimizer, g_optimizer, d_loss_fn, g_loss_fn):
        super().compile()
        self.d_optimizer = d_optimizer
        self.g_optimizer = g_optimizer
        self.d_loss_fn = d_loss_fn
        self.g_loss_fn = g_loss_fn

    def gradient_penalty(self, batch_size, real_images, fake_images):
        alpha = tf.random.stateless_uniform([batch_size, 1], seed=(1, 2))
        interpolated = real_images + alpha * (fake_images - real_images)
        with tf.GradientTape() as gp_tape:
            gp_tape.watch(interpolated)
            pred = self.discriminator(interpolated, training=True)
        grads = gp_tape.gradient(pred, [interpolated])[0]
        norm = tf.sqrt(tf.reduce_sum(tf.square(grads), axis=[1]) + 1e-12)
        return tf.reduce_mean((norm - 1.0) ** 2)

    def train_step(self, real_images):
        if isinstance(real_images, tuple):
            real_images = real_images[0]
        batch_size = tf.shape(real_images)[0]
        for i in range(self.d_steps):
            noise = tf.random.stateless_normal((batch_size, self.latent_dim), seed=(i, 7))
            with tf.GradientTape() as tape:
                fake_images = self.generator(noise, training=True)
                fake_logits = self.discriminator(fake_images, training=True)
                real_logits = self.discriminator(real_images, training=True)
                d_cost = self.d_loss_fn(real_img=real_logits, fake_img=fake_logits)
                gp = self.gradient_penalty(batch_size, real_images, fake_images)
                d_loss = d_cost + gp * self.gp_weight
            d_gradient = tape.gradient(d_loss, self.discriminator.trainable_variables)
            self.d_optimizer.apply_gradients(
                zip(d_gradient, self.discriminator.trainable_variables)
            )
        noise = tf.random.stateless_normal((batch_size, self.latent_dim), seed=(3, 7))
        with tf.GradientTape() as tape:
            generated = self.generator(noise, training=True)
            g_loss = self.g_loss_fn(self.discriminator(generated, training=True))
        gen_gradient = tape.gradient(g_loss, self.generator.trainable_variables)
        self.g_optimizer.apply_gradients(zip(gen_gradient, self.generator.trainable_variables))
        return {"d_loss": d_loss, "g_loss": g_loss}


class GANMonitor(keras.callbacks.Callback):
    def __init__(self, num_img=6, latent_dim=128):
        self.num_img = num_img
        self.latent_dim = latent_dim
        self.drawn = []

    def on_epoch_end(self, epoch, logs=None):
        noise = tf.ones((self.num_img, self.latent_dim))
        images = self.model.generator(noise)
        images = (images * 127.5) + 127.5
        for i in range(self.num_img):
            self.drawn.append(images[i].numpy())


# Each batch is of one size, so the last value is the mean of nothing else than itself.
@by_fit(only="tensorflow", differs=("d_loss", "g_loss"))
def wasserstein_gan_with_gradient_penalty_and_a_monitor(by):
    real = rng().normal(size=(64, 5)).astype("float32")
    discriminator = keras.Sequential(
        [keras.Input((5,)), layers.Dense(8), layers.LeakyReLU(), layers.Dense(1)]
    )
    generator = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(8),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(5, activation="tanh"),
        ]
    )
    wgan = WGAN(discriminator=discriminator, generator=generator, latent_dim=3)
    wgan.compile(
        d_optimizer=keras.optimizers.Adam(learning_rate=0.0002, beta_1=0.5, beta_2=0.9),
        g_optimizer=keras.optimizers.Adam(learning_rate=0.0002, beta_1=0.5, beta_2=0.9),
        g_loss_fn=lambda fake_img: -tf.reduce_mean(fake_img),
        d_loss_fn=lambda real_img, fake_img: tf.reduce_mean(fake_img) - tf.reduce_mean(real_img),
    )
    cbk = GANMonitor(num_img=3, latent_dim=3)
    by.fit(wgan, real, batch_size=16, epochs=2, callbacks=[cbk])
    return {"drawn": np.array(cbk.drawn)}


class CycleGan(keras.Model):
    def __init__(
        self,
        generator_G,
        generator_F,
        discriminator_X,
        discriminator_Y,
        lambda_cycle=10.0,
        lambda_identity=0.5,
    ):
        super().__init__()
        self.gen_G = generator_G
        self.gen_F = generator_F
        self.disc_X = discriminator_X
        self.disc_Y = discriminator_Y
        self.lambda_cycle = lambda_cycle
        self.lambda_identity = lambda_identity

    def call(self, inputs):
        return (self.disc_X(inputs), self.disc_Y(inputs), self.gen_G(inputs), self.gen_F(inputs))

    def compile(
        self,
        gen_G_optimizer,
        gen_F_optimizer,
        disc_X_optimizer,
        disc_Y_optimizer,
        gen_loss_fn,
        disc_loss_fn,
    ):
        super().compile()
        self.gen_G_optimizer = gen_G_optimizer
        self.gen_F_optimizer = gen_F_optimizer
        self.disc_X_optimizer = disc_X_optimizer
        self.disc_Y_optimizer = disc_Y_optimizer
        self.generator_loss_fn = gen_loss_fn
        self.discriminator_loss_fn = disc_loss_fn
        self.cycle_loss_fn = keras.losses.MeanAbsoluteError()
        self.identity_loss_fn = keras.losses.MeanAbsoluteError()

    def train_step(self, batch_data):
        real_x, real_y = batch_data
        with tf.GradientTape(persistent=True) as tape:
            fake_y = self.gen_G(real_x, training=True)
            fake_x = self.gen_F(real_y, training=True)
            cycled_x = self.gen_F(fake_y, training=True)
            cycled_y = self.gen_G(fake_x, training=True)
            same_x = self.gen_F(real_x, training=True)
            same_y = self.gen_G(real_y, training=True)
            disc_real_x = self.disc_X(real_x, training=True)
            disc_fake_x = self.disc_X(fake_x, training=True)
            disc_real_y = self.disc_Y(real_y, training=True)
            disc_fake_y = self.disc_Y(fake_y, training=True)
            gen_G_loss = self.generator_loss_fn(disc_fake_y)
            gen_F_loss = self.generator_loss_fn(disc_fake_x)
            cycle_loss_G = self.cycle_loss_fn(real_y, cycled_y) * self.lambda_cycle
            cycle_loss_F = self.cycle_loss_fn(real_x, cycled_x) * self.lambda_cycle
            id_loss_G = (
                self.identity_loss_fn(real_y, same_y) * self.lambda_cycle * self.lambda_identity
            )
            id_loss_F = (
                self.identity_loss_fn(real_x, same_x) * self.lambda_cycle * self.lambda_identity
            )
            total_loss_G = gen_G_loss + cycle_loss_G + id_loss_G
            total_loss_F = gen_F_loss + cycle_loss_F + id_loss_F
            disc_X_loss = self.discriminator_loss_fn(disc_real_x, disc_fake_x)
            disc_Y_loss = self.discriminator_loss_fn(disc_real_y, disc_fake_y)
        grads_G = tape.gradient(total_loss_G, self.gen_G.trainable_variables)
        grads_F = tape.gradient(total_loss_F, self.gen_F.trainable_variables)
        disc_X_grads = tape.gradient(disc_X_loss, self.disc_X.trainable_variables)
        disc_Y_grads = tape.gradient(disc_Y_loss, self.disc_Y.trainable_variables)
        self.gen_G_optimizer.apply_gradients(zip(grads_G, self.gen_G.trainable_variables))
        self.gen_F_optimizer.apply_gradients(zip(grads_F, self.gen_F.trainable_variables))
        self.disc_X_optimizer.apply_gradients(zip(disc_X_grads, self.disc_X.trainable_variables))
        self.disc_Y_optimizer.apply_gradients(zip(disc_Y_grads, self.disc_Y.trainable_variables))
        return {
            "G_loss": total_loss_G,
            "F_loss": total_loss_F,
            "D_X_loss": disc_X_loss,
            "D_Y_loss": disc_Y_loss,
        }


adv_loss_fn = keras.losses.MeanSquaredError()


def generator_loss_fn(fake):
    return adv_loss_fn(ops.ones_like(fake), fake)


def discriminator_loss_fn(real, fake):
    real_loss = adv_loss_fn(ops.ones_like(real), real)
    fake_loss = adv_loss_fn(ops.zeros_like(fake), fake)
    return (real_loss + fake_loss) * 0.5


@by_fit(only="tensorflow", differs=("*_loss",))
def cycle_gan_with_four_optimizers_and_a_persistent_tape(by):
    x, _ = digits(40)
    horses = (
        tf.data.Dataset.from_tensor_slices(x)
        .map(lambda i: i * 2 - 1, num_parallel_calls=AUTOTUNE)
        .batch(4)
    )
    zebras = tf.data.Dataset.from_tensor_slices(1 - x).map(lambda i: i * 2 - 1).batch(4)

    def gen(name):
        inputs = layers.Input((8, 8, 1), name=name + "_img_input")
        h = layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
        h = layers.GroupNormalization(groups=1)(h)
        h = layers.Activation("relu")(h)
        return keras.models.Model(
            inputs, layers.Conv2D(1, 3, padding="same", activation="tanh")(h), name=name
        )

    def disc(name):
        inputs = layers.Input((8, 8, 1))
        h = layers.LeakyReLU(0.2)(layers.Conv2D(4, 4, strides=2, padding="same")(inputs))
        return keras.Model(inputs=inputs, outputs=layers.Conv2D(1, 3, padding="same")(h), name=name)

    model = CycleGan(
        generator_G=gen("generator_G"),
        generator_F=gen("generator_F"),
        discriminator_X=disc("discriminator_X"),
        discriminator_Y=disc("discriminator_Y"),
    )
    adam = lambda: keras.optimizers.Adam(learning_rate=2e-4, beta_1=0.5)
    model.compile(
        gen_G_optimizer=adam(),
        gen_F_optimizer=adam(),
        disc_X_optimizer=adam(),
        disc_Y_optimizer=adam(),
        gen_loss_fn=generator_loss_fn,
        disc_loss_fn=discriminator_loss_fn,
    )
    by.fit(model, tf.data.Dataset.zip((horses, zebras)), epochs=1)


# Contrast, without labels.


class ContrastiveModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.temperature = 0.1
        self.contrastive_augmenter = keras.Sequential(
            [layers.Rescaling(1.0), layers.GaussianNoise(0.1, seed=3)]
        )
        self.encoder = keras.Sequential(
            [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(16, activation="relu")],
            name="encoder",
        )
        self.projection_head = keras.Sequential(
            [keras.Input(shape=(16,)), layers.Dense(8, activation="relu"), layers.Dense(8)],
            name="projection_head",
        )
        self.linear_probe = keras.Sequential(
            [layers.Input(shape=(16,)), layers.Dense(10)], name="linear_probe"
        )

    def compile(self, contrastive_optimizer, probe_optimizer, **kwargs):
        super().compile(**kwargs)
        self.contrastive_optimizer = contrastive_optimizer
        self.probe_optimizer = probe_optimizer
        self.probe_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.contrastive_loss_tracker = keras.metrics.Mean(name="c_loss")
        self.contrastive_accuracy = keras.metrics.SparseCategoricalAccuracy(name="c_acc")
        self.probe_loss_tracker = keras.metrics.Mean(name="p_loss")
        self.probe_accuracy = keras.metrics.SparseCategoricalAccuracy(name="p_acc")

    @property
    def metrics(self):
        return [
            self.contrastive_loss_tracker,
            self.contrastive_accuracy,
            self.probe_loss_tracker,
            self.probe_accuracy,
        ]

    def contrastive_loss(self, projections_1, projections_2):
        projections_1 = ops.normalize(projections_1, axis=1)
        projections_2 = ops.normalize(projections_2, axis=1)
        similarities = ops.matmul(projections_1, ops.transpose(projections_2)) / self.temperature
        batch_size = ops.shape(projections_1)[0]
        contrastive_labels = ops.arange(batch_size)
        self.contrastive_accuracy.update_state(contrastive_labels, similarities)
        self.contrastive_accuracy.update_state(contrastive_labels, ops.transpose(similarities))
        loss_1_2 = keras.losses.sparse_categorical_crossentropy(
            contrastive_labels, similarities, from_logits=True
        )
        loss_2_1 = keras.losses.sparse_categorical_crossentropy(
            contrastive_labels, ops.transpose(similarities), from_logits=True
        )
        return (loss_1_2 + loss_2_1) / 2

    def train_step(self, data):
        (unlabeled_images, _), (labeled_images, labels) = data
        images = ops.concatenate((unlabeled_images, labeled_images), axis=0)
        augmented_images_1 = self.contrastive_augmenter(images, training=True)
        augmented_images_2 = self.contrastive_augmenter(images, training=True)
        with tf.GradientTape() as tape:
            features_1 = self.encoder(augmented_images_1, training=True)
            features_2 = self.encoder(augmented_images_2, training=True)
            projections_1 = self.projection_head(features_1, training=True)
            projections_2 = self.projection_head(features_2, training=True)
            contrastive_loss = self.contrastive_loss(projections_1, projections_2)
        gradients = tape.gradient(
            contrastive_loss,
            self.encoder.trainable_weights + self.projection_head.trainable_weights,
        )
        self.contrastive_optimizer.apply_gradients(
            zip(gradients, self.encoder.trainable_weights + self.projection_head.trainable_weights)
        )
        self.contrastive_loss_tracker.update_state(contrastive_loss)
        with tf.GradientTape() as tape:
            features = self.encoder(labeled_images, training=False)
            class_logits = self.linear_probe(features, training=True)
            probe_loss = self.probe_loss(labels, class_logits)
        gradients = tape.gradient(probe_loss, self.linear_probe.trainable_weights)
        self.probe_optimizer.apply_gradients(zip(gradients, self.linear_probe.trainable_weights))
        self.probe_loss_tracker.update_state(probe_loss)
        self.probe_accuracy.update_state(labels, class_logits)
        return {m.name: m.result() for m in self.metrics}

    def test_step(self, data):
        labeled_images, labels = data
        class_logits = self.linear_probe(
            self.encoder(labeled_images, training=False), training=False
        )
        probe_loss = self.probe_loss(labels, class_logits)
        self.probe_loss_tracker.update_state(probe_loss)
        self.probe_accuracy.update_state(labels, class_logits)
        return {m.name: m.result() for m in self.metrics[2:]}


@by_fit(only="tensorflow")
def contrast_on_unlabeled_and_labeled_pairs_with_a_probe(by):
    x, y = digits(120)
    unlabeled = tf.data.Dataset.from_tensor_slices((x[:64], y[:64])).batch(16)
    labeled = tf.data.Dataset.from_tensor_slices((x[64:96], y[64:96])).batch(8)
    train = tf.data.Dataset.zip((unlabeled, labeled)).prefetch(buffer_size=AUTOTUNE)
    test = tf.data.Dataset.from_tensor_slices((x[96:], y[96:])).batch(12)
    model = ContrastiveModel()
    model.compile(
        contrastive_optimizer=keras.optimizers.Adam(), probe_optimizer=keras.optimizers.Adam()
    )
    by.fit(model, train, epochs=2, validation_data=test)


class BYOL(keras.Model):
    def __init__(self, **kw):
        super().__init__(**kw)

        def net():
            return keras.Sequential(
                [
                    keras.Input((13,)),
                    layers.Dense(12),
                    layers.BatchNormalization(),
                    layers.ReLU(),
                    layers.Dense(6),
                ]
            )

        self.online, self.target = net(), net()
        self.target.set_weights(self.online.get_weights())
        self.target.trainable = False
        self.predictor = layers.Dense(6)
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.beta = 0.9

    @tf.function
    def update_moving_average(self):
        for o, t in zip(self.online.weights, self.target.weights):
            t.assign(self.beta * t + (1 - self.beta) * o)

    def train_step(self, inputs):
        a, b = inputs + 0.1, inputs * 1.1
        with tf.GradientTape() as tape:
            p = tf.math.l2_normalize(self.predictor(self.online(a, training=True)), axis=-1)
            z = tf.math.l2_normalize(tf.stop_gradient(self.target(b, training=True)), axis=-1)
            loss = 2 - 2 * tf.reduce_sum(p * z, axis=-1)
            loss = tf.math.reduce_mean(loss)
        variables = self.online.trainable_variables + self.predictor.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        self.update_moving_average()
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}


@by_fit(only="tensorflow")
def byol_whose_target_follows(by):
    model = BYOL(name="byol")
    model.compile(optimizer=keras.optimizers.SGD(0.05, momentum=0.9))
    by.fit(model, wine()[0], batch_size=32, epochs=2)


# Diffusion.


@keras.saving.register_keras_serializable()
def sinusoidal_embedding(x):
    frequencies = ops.exp(ops.linspace(ops.log(1.0), ops.log(100.0), 4))
    angular_speeds = ops.cast(2.0 * 3.14159 * frequencies, "float32")
    return ops.concatenate([ops.sin(angular_speeds * x), ops.cos(angular_speeds * x)], axis=3)


def get_network():
    noisy_images = keras.Input(shape=(8, 8, 1))
    noise_variances = keras.Input(shape=(1, 1, 1))
    e = layers.Lambda(sinusoidal_embedding, output_shape=(1, 1, 8))(noise_variances)
    e = layers.UpSampling2D(size=8, interpolation="nearest")(e)
    x = layers.Concatenate()([layers.Conv2D(4, kernel_size=1)(noisy_images), e])
    x = layers.BatchNormalization(center=False, scale=False)(x)
    x = layers.Conv2D(8, 3, padding="same", activation="swish")(x)
    x = layers.Conv2D(1, kernel_size=1, kernel_initializer="zeros")(x)
    return keras.Model([noisy_images, noise_variances], x, name="residual_unet")


class DiffusionModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.normalizer = layers.Normalization()
        self.network = get_network()
        self.ema_network = keras.models.clone_model(self.network)
        self.seed_generator = keras.random.SeedGenerator(11)

    def compile(self, **kwargs):
        super().compile(**kwargs)
        self.noise_loss_tracker = keras.metrics.Mean(name="n_loss")
        self.image_loss_tracker = keras.metrics.Mean(name="i_loss")

    @property
    def metrics(self):
        return [self.noise_loss_tracker, self.image_loss_tracker]

    def denormalize(self, images):
        images = self.normalizer.mean + images * self.normalizer.variance**0.5
        return ops.clip(images, 0.0, 1.0)

    def diffusion_schedule(self, diffusion_times):
        start_angle = ops.cast(ops.arccos(0.95), "float32")
        end_angle = ops.cast(ops.arccos(0.02), "float32")
        diffusion_angles = start_angle + diffusion_times * (end_angle - start_angle)
        return ops.sin(diffusion_angles), ops.cos(diffusion_angles)

    def denoise(self, noisy_images, noise_rates, signal_rates, training):
        network = self.network if training else self.ema_network
        pred_noises = network([noisy_images, noise_rates**2], training=training)
        return pred_noises, (noisy_images - noise_rates * pred_noises) / signal_rates

    def train_step(self, images):
        images = self.normalizer(images, training=True)
        size = ops.shape(images)[0]
        noises = keras.random.normal(shape=(size, 8, 8, 1), seed=self.seed_generator)
        times = keras.random.uniform(
            shape=(size, 1, 1, 1), minval=0.0, maxval=1.0, seed=self.seed_generator
        )
        noise_rates, signal_rates = self.diffusion_schedule(times)
        noisy_images = signal_rates * images + noise_rates * noises
        with tf.GradientTape() as tape:
            pred_noises, pred_images = self.denoise(
                noisy_images, noise_rates, signal_rates, training=True
            )
            noise_loss = self.loss(noises, pred_noises)
            image_loss = self.loss(images, pred_images)
        gradients = tape.gradient(noise_loss, self.network.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.network.trainable_weights))
        self.noise_loss_tracker.update_state(noise_loss)
        self.image_loss_tracker.update_state(image_loss)
        for weight, ema_weight in zip(self.network.weights, self.ema_network.weights):
            ema_weight.assign(0.9 * ema_weight + (1 - 0.9) * weight)
        return {m.name: m.result() for m in self.metrics}

    def test_step(self, images):
        images = self.normalizer(images, training=False)
        noises = ops.ones_like(images)
        times = ops.ones((ops.shape(images)[0], 1, 1, 1)) * 0.5
        noise_rates, signal_rates = self.diffusion_schedule(times)
        noisy_images = signal_rates * images + noise_rates * noises
        pred_noises, pred_images = self.denoise(
            noisy_images, noise_rates, signal_rates, training=False
        )
        self.image_loss_tracker.update_state(self.loss(images, pred_images))
        self.noise_loss_tracker.update_state(self.loss(noises, pred_noises))
        return {m.name: m.result() for m in self.metrics}

    def plot_images(self, epoch=None, logs=None, num_rows=1):
        noise = ops.ones((num_rows, 8, 8, 1))
        one = ops.ones((num_rows, 1, 1, 1))
        generated = self.denormalize(self.denoise(noise, one * 0.5, one * 0.8, training=False)[1])
        self.plotted = ops.convert_to_numpy(generated)


@by_fit(only="tensorflow")
def implicit_diffusion_with_averaged_network_and_plots(by):
    x, _ = digits(96)
    dataset = tf.data.Dataset.from_tensor_slices(x)
    train = dataset.take(64).cache().batch(16, drop_remainder=True).prefetch(buffer_size=AUTOTUNE)
    val = dataset.skip(64).batch(16, drop_remainder=True)
    model = DiffusionModel()
    model.compile(
        optimizer=keras.optimizers.AdamW(learning_rate=1e-3, weight_decay=1e-4),
        loss=keras.losses.mean_absolute_error,
    )
    model.normalizer.adapt(train)
    by.fit(
        model,
        train,
        epochs=2,
        validation_data=val,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=model.plot_images)],
    )
    return {"plotted": model.plotted}


# Reinforcement learning, on made-up episodes.


@by_hand(only="tensorflow")
def actor_critic_on_recorded_episodes():
    inputs = layers.Input(shape=(4,))
    common = layers.Dense(16, activation="relu")(inputs)
    action = layers.Dense(2, activation="softmax")(common)
    critic = layers.Dense(1)(common)
    model = keras.Model(inputs=inputs, outputs=[action, critic])
    optimizer = keras.optimizers.Adam(learning_rate=0.01)
    huber_loss = keras.losses.Huber()
    eps = np.finfo(np.float32).eps.item()

    @tf.function
    def learn(states, actions, rewards):
        with tf.GradientTape() as tape:
            probs, values = model(states)
            chosen = tf.gather(probs, actions, axis=1, batch_dims=1)
            returns = tf.math.cumsum(rewards, reverse=True)
            returns = (returns - tf.math.reduce_mean(returns)) / (tf.math.reduce_std(returns) + eps)
            values = tf.squeeze(values)
            actor_loss = -tf.reduce_sum(tf.math.log(chosen) * tf.stop_gradient(returns - values))
            critic_loss = huber_loss(tf.expand_dims(values, 1), tf.expand_dims(returns, 1))
            loss_value = actor_loss + critic_loss
        grads = tape.gradient(loss_value, model.trainable_variables)
        optimizer.apply_gradients(zip(grads, model.trainable_variables))
        return loss_value

    draw = rng(4)
    episodes = [
        (
            draw.normal(size=(n, 4)).astype("float32"),
            draw.integers(0, 2, n),
            draw.uniform(size=n).astype("float32"),
        )
        for n in (7, 9, 12, 7, 5, 9, 11)
    ]
    return learn, episodes, 2, lambda: {"weights": model.get_weights()}


@by_hand(only="tensorflow")
def deep_q_network_with_a_target_that_is_copied_every_third_step():
    def create_q_model():
        return keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(16, activation="relu"),
                layers.Dense(3, activation="linear"),
            ]
        )

    model, model_target = create_q_model(), create_q_model()
    optimizer = keras.optimizers.Adam(learning_rate=0.00025, clipnorm=1.0)
    loss_function = keras.losses.Huber()
    frame_count = tf.Variable(0, dtype=tf.int64, trainable=False)
    gamma, num_actions = 0.99, 3

    @tf.function
    def update(state_sample, action_sample, rewards_sample, state_next_sample, done_sample):
        future_rewards = model_target(state_next_sample)
        updated_q_values = rewards_sample + gamma * tf.reduce_max(future_rewards, axis=1)
        updated_q_values = updated_q_values * (1 - done_sample) - done_sample
        masks = tf.one_hot(action_sample, num_actions)
        with tf.GradientTape() as tape:
            q_values = model(state_sample)
            q_action = tf.reduce_sum(tf.multiply(q_values, masks), axis=1)
            loss = loss_function(updated_q_values, q_action)
        grads = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(grads, model.trainable_variables))
        frame_count.assign_add(1)
        if frame_count % 3 == 0:
            for source, target in zip(model.variables, model_target.variables):
                target.assign(source)
        return loss

    draw = rng(5)
    data = (
        draw.normal(size=(80, 6)).astype("float32"),
        draw.integers(0, 3, 80),
        draw.uniform(size=80).astype("float32"),
        draw.normal(size=(80, 6)).astype("float32"),
        (draw.uniform(size=80) < 0.1).astype("float32"),
    )
    replay = tf.data.Dataset.from_tensor_slices(data).batch(16)
    return (
        update,
        replay,
        2,
        lambda: {
            "weights": model.get_weights(),
            "target": model_target.get_weights(),
            "frames": frame_count.numpy(),
        },
    )


# Images that are optimized.


@by_hand(only="tensorflow")
def style_transfer_by_a_schedule_over_one_image():
    x, _ = digits(3)
    backbone = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu", name="block1"),
            layers.Conv2D(4, 3, activation="relu", name="block2"),
        ]
    )
    outputs_dict = {layer.name: layer.output for layer in backbone.layers}
    feature_extractor = keras.Model(inputs=backbone.inputs, outputs=outputs_dict)
    optimizer = keras.optimizers.SGD(
        keras.optimizers.schedules.ExponentialDecay(
            initial_learning_rate=1.0, decay_steps=3, decay_rate=0.9
        )
    )
    base_image, style_image = tf.constant(x[:1]), tf.constant(x[1:2])
    combination_image = tf.Variable(x[:1])

    def gram_matrix(x):
        features = tf.reshape(tf.transpose(x, (2, 0, 1)), (tf.shape(x)[2], -1))
        return tf.matmul(features, tf.transpose(features))

    def compute_loss(combination_image, base_image, style_reference_image):
        input_tensor = tf.concat([base_image, style_reference_image, combination_image], axis=0)
        features = feature_extractor(input_tensor)
        loss = tf.zeros(shape=())
        content = features["block2"]
        loss += 2.5e-2 * tf.reduce_sum(tf.square(content[2] - content[0]))
        for name in ("block1", "block2"):
            style = features[name]
            loss += 1e-3 * tf.reduce_sum(tf.square(gram_matrix(style[1]) - gram_matrix(style[2])))
        a = tf.square(combination_image[:, :7, :7, :] - combination_image[:, 1:, :7, :])
        return loss + 1e-3 * tf.reduce_sum(tf.pow(a, 1.25))

    @tf.function
    def compute_loss_and_grads(combination_image, base_image, style_reference_image):
        with tf.GradientTape() as tape:
            loss = compute_loss(combination_image, base_image, style_reference_image)
        return loss, tape.gradient(loss, combination_image)

    def iteration(i):
        loss, grads = compute_loss_and_grads(combination_image, base_image, style_image)
        optimizer.apply_gradients([(grads, combination_image)])
        return loss

    return (
        iteration,
        list(range(1, 9)),
        1,
        lambda: {"image": combination_image.numpy(), "steps": optimizer.iterations.numpy()},
    )


@by_hand(only="tensorflow")
def deep_dream_by_normalized_ascent():
    x, _ = digits(1)
    base = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Conv2D(4, 3, activation="relu"),
        ]
    )
    base.trainable = False
    image = tf.Variable(x)

    @tf.function
    def gradient_ascent_step(learning_rate):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(base(image)))
        grads = tape.gradient(loss, image)
        grads /= tf.maximum(tf.reduce_mean(tf.abs(grads)), 1e-6)
        image.assign_add(learning_rate * grads)
        return loss, image

    rates = [np.float32(r) for r in (0.1, 0.1, 0.05, 0.02)]
    return gradient_ascent_step, rates, 2, lambda: {"image": image.numpy()}


# Meta-learning.


@by_hand(only="tensorflow")
def reptile_with_set_weights_between_inner_steps():
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(8, activation="relu"),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile()
    optimizer = keras.optimizers.SGD(learning_rate=0.003)
    meta = {"step": 0}

    def meta_step(images, labels):
        frac_done = meta["step"] / 6
        cur_meta_step_size = (1 - frac_done) * 0.25
        old_vars = model.get_weights()
        for i in range(2):
            with tf.GradientTape() as tape:
                preds = model(images[i * 5 : (i + 1) * 5])
                loss = keras.losses.sparse_categorical_crossentropy(
                    labels[i * 5 : (i + 1) * 5], preds
                )
            grads = tape.gradient(loss, model.trainable_weights)
            optimizer.apply_gradients(zip(grads, model.trainable_weights))
        new_vars = model.get_weights()
        for var in range(len(new_vars)):
            new_vars[var] = old_vars[var] + ((new_vars[var] - old_vars[var]) * cur_meta_step_size)
        model.set_weights(new_vars)
        meta["step"] += 1

    draw = rng(6)
    tasks = [
        (draw.normal(size=(10, 2)).astype("float32"), draw.integers(0, 3, 10)) for _ in range(6)
    ]
    return meta_step, tasks, 1, lambda: {"weights": model.get_weights(), "step": meta["step"]}


@by_hand(only="tensorflow")
def maml_with_a_tape_within_a_tape():
    model = keras.Sequential(
        [keras.Input((1,)), layers.Dense(8, activation="tanh"), layers.Dense(1)]
    )
    copied = keras.models.clone_model(model)
    optimizer = keras.optimizers.Adam(1e-2)

    def forward(weights, x):
        w0, b0, w1, b1 = weights
        return tf.tanh(x @ w0 + b0) @ w1 + b1

    @tf.function(reduce_retracing=True)
    def outer(batch):
        with tf.GradientTape() as test_tape:
            weights = [tf.convert_to_tensor(v) for v in model.trainable_variables]
            with tf.GradientTape() as train_tape:
                train_tape.watch(weights)
                train_loss = tf.reduce_mean((forward(weights, batch["x"]) - batch["y"]) ** 2)
            grads = train_tape.gradient(train_loss, weights)
            fast = [w - 0.1 * g for w, g in zip(weights, grads)]
            test_loss = tf.reduce_mean((forward(fast, batch["x_test"]) - batch["y_test"]) ** 2)
        gradients = test_tape.gradient(test_loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        for a, b in zip(copied.trainable_variables, fast):
            a.assign(b)
        return {"train": train_loss, "test": test_loss}

    def whole(**batch):
        return outer(batch)

    draw = rng(7)

    def task():
        phase = draw.uniform(0, 3)
        x = (
            draw.uniform(-3, 3, (5, 1)).astype("float32"),
            draw.uniform(-3, 3, (5, 1)).astype("float32"),
        )
        return {
            "x": x[0],
            "y": np.sin(x[0] + phase).astype("float32"),
            "x_test": x[1],
            "y_test": np.sin(x[1] + phase).astype("float32"),
        }

    return (
        whole,
        [task() for _ in range(6)],
        2,
        lambda: {"weights": model.get_weights(), "copied": copied.get_weights()},
    )


# Text.


class CTCLayer(layers.Layer):
    def __init__(self, name=None):
        super().__init__(name=name)

    def call(self, y_true, y_pred):
        batch_len = ops.cast(ops.shape(y_true)[0], dtype="int64")
        input_length = ops.cast(ops.shape(y_pred)[1], dtype="int64") * ops.ones(
            shape=(batch_len,), dtype="int64"
        )
        label_length = ops.cast(ops.shape(y_true)[1], dtype="int64") * ops.ones(
            shape=(batch_len,), dtype="int64"
        )
        loss = ops.ctc_loss(
            ops.cast(y_true, "int32"), y_pred, label_length, input_length, mask_index=0
        )
        self.add_loss(loss)
        return y_pred


@by_fit(only="tensorflow")
def ocr_with_an_endpoint_layer(by):
    x, _ = digits(64)
    labels = rng(8).integers(1, 6, (64, 3))
    image = layers.Input(shape=(8, 8, 1), name="image", dtype="float32")
    target = layers.Input(name="label", shape=(None,), dtype="float32")
    h = layers.Conv2D(8, (3, 3), activation="relu", padding="same", name="Conv1")(image)
    h = layers.Reshape(target_shape=(8, 64), name="reshape")(h)
    h = layers.Bidirectional(layers.LSTM(8, return_sequences=True))(h)
    h = layers.Dense(7, name="dense2")(h)
    output = CTCLayer(name="ctc_loss")(target, h)
    model = keras.models.Model(inputs=[image, target], outputs=output, name="ocr_model_v1")
    model.compile(optimizer=keras.optimizers.Adam())

    def encode_single_sample(img, label):
        return {"image": img, "label": label}

    train = (
        tf.data.Dataset.from_tensor_slices((x[:48], labels[:48]))
        .map(encode_single_sample, num_parallel_calls=AUTOTUNE)
        .batch(16)
    )
    valid = (
        tf.data.Dataset.from_tensor_slices((x[48:], labels[48:]))
        .map(encode_single_sample)
        .batch(16)
    )
    stop = keras.callbacks.EarlyStopping(monitor="val_loss", patience=10, restore_best_weights=True)
    by.fit(model, train, validation_data=valid, epochs=2, callbacks=[stop])
    prediction_model = keras.models.Model(model.input[0], model.get_layer(name="dense2").output)
    by.predict(prediction_model, x[:5])


class MaskedLanguageModel(keras.Model):
    loss_fn = keras.losses.SparseCategoricalCrossentropy(reduction=None)
    loss_tracker = keras.metrics.Mean(name="loss")

    def train_step(self, inputs):
        if len(inputs) == 3:
            features, labels, sample_weight = inputs
        else:
            features, labels = inputs
            sample_weight = None
        with tf.GradientTape() as tape:
            predictions = self(features, training=True)
            loss = self.loss_fn(labels, predictions, sample_weight=sample_weight)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        self.loss_tracker.update_state(loss, sample_weight=sample_weight)
        return {"loss": self.loss_tracker.result()}

    @property
    def metrics(self):
        return [self.loss_tracker]


@by_fit(only="tensorflow")
def masked_language_model_with_class_attributes(by):
    ids, _ = sentences(96)
    is_masked = rng(9).uniform(size=ids.shape) < 0.3
    masked = np.where(is_masked, 50, ids)
    inputs = layers.Input((12,), dtype="int64")
    h = layers.Embedding(51, 8, name="word_embedding")(inputs)
    h = layers.Add()([h, layers.MultiHeadAttention(num_heads=2, key_dim=4)(h, h, h)])
    h = layers.LayerNormalization(epsilon=1e-6)(h)
    outputs = layers.Dense(51, name="mlm_cls", activation="softmax")(h)
    model = MaskedLanguageModel(inputs, outputs, name="masked_bert_model")
    model.compile(optimizer=keras.optimizers.Adam(learning_rate=1e-3))
    data = tf.data.Dataset.from_tensor_slices((masked, ids, is_masked.astype("int64"))).batch(32)
    by.fit(model, data, epochs=2)
    model.loss_tracker.reset_state()


class CRF(layers.Layer):
    """Log-likelihood of paths, with transitions that are learned."""

    def __init__(self, num_tags, **kwargs):
        super().__init__(**kwargs)
        self.num_tags = num_tags
        self.transitions = self.add_weight(
            shape=(num_tags, num_tags), name="transitions", initializer="glorot_uniform"
        )
        self.supports_masking = True

    def call(self, emissions, tags=None, mask=None):
        if tags is None:
            return emissions
        mask = tf.cast(mask, emissions.dtype)
        tags = tf.where(mask > 0, tf.cast(tags, tf.int32), 0)
        unary = tf.reduce_sum(tf.gather(emissions, tags, batch_dims=2) * mask, axis=1)
        pairs = tf.gather_nd(self.transitions, tf.stack([tags[:, :-1], tags[:, 1:]], axis=-1))
        score = unary + tf.reduce_sum(pairs * mask[:, 1:], axis=1)
        alpha = emissions[:, 0]
        for t in range(1, emissions.shape[1]):
            new = (
                tf.reduce_logsumexp(alpha[:, :, None] + self.transitions, axis=1) + emissions[:, t]
            )
            alpha = tf.where(mask[:, t, None] > 0, new, alpha)
        return score - tf.reduce_logsumexp(alpha, axis=-1)


class TaggerWithCRF(keras.Model):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.emb = layers.Embedding(50, 8, mask_zero=True)
        self.lstm = layers.Bidirectional(layers.LSTM(6, return_sequences=True))
        self.dense = layers.Dense(4)
        self.crf = CRF(4)

    def call(self, inputs, training=None):
        return self.dense(self.lstm(self.emb(inputs), training=training))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            emissions = self(x, training=True)
            crf_loss = -tf.reduce_mean(self.crf(emissions, tags=y, mask=tf.not_equal(x, 0)))
            loss = crf_loss + sum(self.losses)
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        )
        return {"crf_loss": crf_loss}


@by_fit(only="tensorflow", differs=("crf_loss",))
def tagger_with_conditional_random_field(by):
    ids, _ = sentences(64)
    tags = np.where(ids == 0, -1, ids % 4).astype("int64")
    model = TaggerWithCRF()
    model.compile("adam")
    by.fit(model, ids, tags, batch_size=16, epochs=2)


@by_hand(only="tensorflow")
def translation_by_a_loop_over_time_with_teacher_forcing():
    ids, _ = sentences(48, length=6)
    targ = np.concatenate([np.full((48, 1), 1), ids[:, ::-1]], axis=1).astype("int64")

    class Encoder(keras.Model):
        def __init__(self, vocab_size, enc_units):
            super(Encoder, self).__init__()
            self.enc_units = enc_units
            self.embedding = layers.Embedding(vocab_size, 8)
            self.gru = layers.GRU(enc_units, return_sequences=True, return_state=True)

        def call(self, x, hidden):
            return self.gru(self.embedding(x), initial_state=hidden)

        def initialize_hidden_state(self, n):
            return tf.zeros((n, self.enc_units))

    class BahdanauAttention(keras.layers.Layer):
        def __init__(self, units):
            super().__init__()
            self.W1, self.W2, self.V = layers.Dense(units), layers.Dense(units), layers.Dense(1)

        def call(self, query, values):
            score = self.V(tf.nn.tanh(self.W1(tf.expand_dims(query, 1)) + self.W2(values)))
            weights = tf.nn.softmax(score, axis=1)
            return tf.reduce_sum(weights * values, axis=1), weights

    class Decoder(keras.Model):
        def __init__(self, vocab_size, units):
            super().__init__()
            self.embedding = layers.Embedding(vocab_size, 8)
            self.gru = layers.GRU(units, return_sequences=True, return_state=True)
            self.fc = layers.Dense(vocab_size)
            self.attention = BahdanauAttention(units)

        def call(self, x, hidden, enc_output):
            context, weights = self.attention(hidden, enc_output)
            x = tf.concat([tf.expand_dims(context, 1), self.embedding(x)], axis=-1)
            output, state = self.gru(x)
            return self.fc(tf.reshape(output, (-1, output.shape[2]))), state, weights

    encoder, decoder = Encoder(50, 8), Decoder(50, 8)
    optimizer = keras.optimizers.Adam()
    loss_object = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")

    def loss_function(real, pred):
        mask = tf.math.logical_not(tf.math.equal(real, 0))
        loss_ = loss_object(real, pred)
        return tf.reduce_mean(loss_ * tf.cast(mask, dtype=loss_.dtype))

    @tf.function
    def train_step(inp, targ):
        loss = 0
        with tf.GradientTape() as tape:
            enc_output, enc_hidden = encoder(inp, encoder.initialize_hidden_state(tf.shape(inp)[0]))
            dec_hidden = enc_hidden
            dec_input = tf.expand_dims(tf.ones_like(targ[:, 0]), 1)
            for t in range(1, targ.shape[1]):
                predictions, dec_hidden, _ = decoder(dec_input, dec_hidden, enc_output)
                loss += loss_function(targ[:, t], predictions)
                dec_input = tf.expand_dims(targ[:, t], 1)
        batch_loss = loss / int(targ.shape[1])
        variables = encoder.trainable_variables + decoder.trainable_variables
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables))
        return batch_loss

    dataset = tf.data.Dataset.from_tensor_slices((ids, targ)).batch(16, drop_remainder=True)
    return (
        train_step,
        dataset,
        2,
        lambda: {"encoder": encoder.get_weights(), "decoder": decoder.get_weights()},
    )


# Old idioms.


class OldIdioms(keras.Model):
    """`compiled_loss` and `compiled_metrics`, as written for Keras 2."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred)
        trainable_vars = self.trainable_variables
        gradients = tape.gradient(loss, trainable_vars)
        self.optimizer.apply_gradients(zip(gradients, trainable_vars))
        self.compiled_metrics.update_state(y, y_pred)
        return {m.name: m.result() for m in self.metrics}


@by_fit(only="tensorflow")
def compiled_metrics_of_keras_2(by):
    x, y = wine()
    inputs = keras.Input(shape=(13,))
    model = OldIdioms(inputs, layers.Dense(3, activation="softmax")(inputs))
    model.compile(
        optimizer="adam",
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(k=2)],
    )
    by.fit(model, x, y, epochs=2, batch_size=32)


class Counting(keras.Model):
    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner
        self.calls = keras.Variable(0, trainable=False, dtype="int64", name="calls")
        self.seen = self.add_weight(name="seen", shape=(), initializer="zeros", trainable=False)

    def call(self, x, training=False):
        return self.inner(x, training=training)

    @tf.function
    def train_step(self, data):
        self.calls.assign_add(1)
        x, *_ = data
        self.seen.assign_add(tf.cast(tf.shape(x)[0], tf.float32))
        logs = super().train_step(data)
        logs["lr"] = self.optimizer.learning_rate
        logs["calls"] = self.calls.value
        return logs


@by_fit(only="tensorflow", differs=("lr", "calls"))
def counters_around_the_train_step_of_keras(by):
    x, y = cancer()
    body = keras.Sequential(
        [
            keras.Input((30,)),
            layers.Dense(8, "relu"),
            layers.Dropout(0.3, seed=1),
            layers.Dense(1, "sigmoid"),
        ]
    )
    model = Counting(body)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, 40)),
        "binary_crossentropy",
        metrics=["AUC"],
    )
    by.fit(model, x, y.astype("int64"), batch_size=64, epochs=2, class_weight={0: 1.0, 1: 0.5})
    return {"calls": model.calls.numpy(), "seen": model.seen.numpy()}


@by_fit(only="tensorflow")
def label_taken_from_a_copy_of_the_features(by):
    class Ranking(keras.Model):
        def __init__(self):
            super().__init__()
            self.user = keras.Sequential(
                [layers.StringLookup(vocabulary=list("abcdef")), layers.Embedding(7, 4)]
            )
            self.item = keras.Sequential(
                [layers.IntegerLookup(vocabulary=[1, 2, 3, 4]), layers.Embedding(5, 4)]
            )
            self.rate = keras.Sequential([layers.Dense(8, activation="relu"), layers.Dense(1)])

        def call(self, features):
            return self.rate(
                tf.concat([self.user(features["user"]), self.item(features["item"])], axis=1)
            )

        def compute(self, inputs, training):
            inputs = dict(inputs)
            labels = inputs.pop("rating")
            predictions = self(inputs)
            return self.compute_loss(y=labels, y_pred=predictions), labels, predictions

        def train_step(self, inputs):
            with tf.GradientTape() as tape:
                loss, labels, predictions = self.compute(inputs, training=True)
            grads = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(grads, self.trainable_variables))
            for metric in self.metrics:
                if metric.name == "loss":
                    metric.update_state(loss)
                else:
                    metric.update_state(labels, predictions)
            return {m.name: m.result() for m in self.metrics}

    draw = rng(10)
    n = 60
    rows = {
        "user": draw.choice(list("abcdefg"), n),
        "item": draw.integers(1, 6, n),
        "rating": draw.integers(1, 6, (n, 1)).astype("float32"),
    }
    model = Ranking()
    model.compile(
        optimizer=keras.optimizers.Adagrad(0.5),
        loss="mse",
        metrics=[keras.metrics.RootMeanSquaredError(name="rmse")],
    )
    ds = tf.data.Dataset.from_tensor_slices(rows)
    by.fit(model, ds.batch(16), epochs=2)


@by_hand(only="tensorflow")
def named_tuples_of_experience_and_a_loss_of_shape_one():
    Experience = collections.namedtuple("Experience", "obs target weight")
    net = keras.Sequential([keras.Input((3,)), layers.Dense(4, "tanh"), layers.Dense(1)])
    opt = keras.optimizers.RMSprop(0.01)

    @tf.function
    def fit_one(experience):
        with tf.GradientTape() as tape:
            error = tf.square(tf.squeeze(net(experience.obs), 1) - experience.target)
            loss = tf.reshape(tf.reduce_mean(error * experience.weight), (1,))
        opt.apply(tape.gradient(loss, net.trainable_variables), net.trainable_variables)
        return loss

    draw = rng(11)
    ten = [
        Experience(
            draw.normal(size=(8, 3)).astype("float32"),
            draw.normal(size=8).astype("float32"),
            np.ones(8, "float32"),
        )
        for _ in range(6)
    ]
    # Passed whole, since the function has one argument.
    return (
        (lambda *parts: fit_one(Experience(*parts))),
        [tuple(e) for e in ten],
        2,
        lambda: {"weights": net.get_weights()},
    )


@by_hand(only="tensorflow")
def loss_scale_of_float16_by_hand():
    inputs = keras.Input((13,))
    h = layers.Dense(16, activation="relu", dtype="mixed_float16")(inputs)
    model = keras.Model(inputs, layers.Dense(3, dtype="float32")(h))
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01), initial_scale=1024.0
    )
    loss_object = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    acc = keras.metrics.SparseCategoricalAccuracy("acc")

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            predictions = model(x, training=True)
            loss = loss_object(y, predictions)
            scaled_loss = optimizer.scale_loss(loss)
        scaled_gradients = tape.gradient(scaled_loss, model.trainable_variables)
        optimizer.apply_gradients(zip(scaled_gradients, model.trainable_variables))
        acc.update_state(y, predictions)
        return loss

    data = tf.data.Dataset.from_tensor_slices(wine()).batch(32)
    return train_step, data, 2, lambda: {"weights": model.get_weights()}


@by_hand(only="tensorflow")
def ragged_sentences_made_dense_within_the_step():
    vocabulary = "the cat sat on a mat dog ran to house".split()
    texts = [" ".join(rng(i).choice(vocabulary, rng(i).integers(2, 7))) for i in range(32)]
    labels = np.array([("cat" in t.split()) for t in texts])
    lookup = layers.StringLookup(vocabulary=vocabulary, mask_token="")
    model = keras.Sequential(
        [layers.Embedding(12, 8, mask_zero=True), layers.GRU(6), layers.Dense(1)]
    )
    bce = keras.losses.BinaryCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Nadam(0.01)

    def train_step(texts, labels):
        words = tf.strings.split(texts).to_tensor("")
        with tf.GradientTape() as tape:
            loss = bce(tf.cast(labels[:, None], "float32"), model(lookup(words), training=True))
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        )
        return float(loss)

    data = tf.data.Dataset.from_tensor_slices((texts, labels)).batch(8)
    return train_step, data, 2, lambda: {"weights": model.get_weights()}


@by_hand(only="tensorflow")
def a_trainer_object_whose_step_is_a_decorated_method():
    class Trainer:
        def __init__(self, model, lr=0.05):
            self.model = model
            self.opts = {"kernel": keras.optimizers.SGD(lr), "bias": keras.optimizers.SGD(lr * 2)}
            self.history, self.step_no = [], tf.Variable(0)
            self.loss_fn = keras.losses.get("mse")

        def groups(self):
            found = {"kernel": [], "bias": []}
            for v in self.model.trainable_variables:
                found[v.name].append(v)
            return found

        @tf.function(jit_compile=False)
        def train_step(self, x, y):
            groups = self.groups()
            with tf.GradientTape(persistent=True) as t:
                out = self.model(x, training=True)
                loss = tf.reduce_mean(self.loss_fn(y[:, None], out))
            for name, variables in groups.items():
                self.opts[name].apply_gradients(zip(t.gradient(loss, variables), variables))
            del t
            self.step_no.assign_add(1)
            return loss

    from tests.strangers.datasets import diabetes

    net = keras.Sequential([keras.Input((10,)), layers.Dense(8, "relu"), layers.Dense(1)])
    trainer = Trainer(net)
    data = tf.data.Dataset.from_tensor_slices(diabetes()).batch(64)
    return (
        trainer.train_step,
        data,
        2,
        lambda: {"weights": net.get_weights(), "n": trainer.step_no.numpy()},
    )


class MaskedAutoencoder(keras.Model):
    def __init__(self, num_patches=16, dim=8, mask_proportion=0.75, **kwargs):
        super().__init__(**kwargs)
        self.num_mask = int(mask_proportion * num_patches)
        self.projection = layers.Dense(dim)
        self.position = layers.Embedding(num_patches, dim)
        self.mask_token = self.add_weight(shape=(1, 4), initializer="random_normal", trainable=True)
        self.norm = layers.LayerNormalization(epsilon=1e-6)
        self.attention = layers.MultiHeadAttention(2, 4, dropout=0.1)
        self.out = layers.Dense(4)
        self.seed_generator = keras.random.SeedGenerator(42)
        self.resize = layers.Resizing(8, 8)

    def calculate_loss(self, images, test=False):
        patches = tf.image.extract_patches(
            self.resize(images), [1, 2, 2, 1], [1, 2, 2, 1], [1, 1, 1, 1], "VALID"
        )
        patches = tf.reshape(patches, (-1, 16, 4))
        n = tf.shape(patches)[0]
        rand = ops.argsort(keras.random.uniform((n, 16), seed=self.seed_generator), axis=-1)
        mask_indices, unmask_indices = rand[:, : self.num_mask], rand[:, self.num_mask :]
        is_masked = tf.reduce_sum(tf.one_hot(mask_indices, 16), axis=1)[..., None]
        tokens = tf.where(is_masked > 0, self.mask_token[None], patches)
        h = self.projection(tokens) + self.position(tf.range(16))[None]
        h = h + self.attention(self.norm(h), self.norm(h), training=not test)
        decoded = self.out(h)
        loss_patch = tf.gather(patches, mask_indices, axis=1, batch_dims=1)
        loss_output = tf.gather(decoded, mask_indices, axis=1, batch_dims=1)
        return self.compute_loss(y=loss_patch, y_pred=loss_output), loss_patch, loss_output

    def train_step(self, images):
        with tf.GradientTape() as tape:
            total_loss, loss_patch, loss_output = self.calculate_loss(images)
        train_vars = [
            self.projection.trainable_variables,
            self.position.trainable_variables,
            [self.mask_token],
            self.norm.trainable_variables,
            self.attention.trainable_variables,
            self.out.trainable_variables,
        ]
        grads = tape.gradient(total_loss, train_vars)
        tv_list = []
        for grad, var in zip(grads, train_vars):
            for g, v in zip(grad, var):
                tv_list.append((g, v))
        self.optimizer.apply_gradients(tv_list)
        results = {}
        for metric in self.metrics:
            metric.update_state(
                loss_patch, loss_output
            ) if metric.name != "loss" else metric.update_state(total_loss)
            results[metric.name] = metric.result()
        return results

    def test_step(self, images):
        total_loss, loss_patch, loss_output = self.calculate_loss(images, test=True)
        for metric in self.metrics:
            metric.update_state(
                loss_patch, loss_output
            ) if metric.name != "loss" else metric.update_state(total_loss)
        return {m.name: m.result() for m in self.metrics}


class WarmUpCosine(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, learning_rate_base, total_steps, warmup_learning_rate, warmup_steps):
        super().__init__()
        self.learning_rate_base = learning_rate_base
        self.total_steps = total_steps
        self.warmup_learning_rate = warmup_learning_rate
        self.warmup_steps = warmup_steps
        self.pi = tf.constant(np.pi)

    def __call__(self, step):
        cos = tf.cos(
            self.pi
            * (tf.cast(step, tf.float32) - self.warmup_steps)
            / float(self.total_steps - self.warmup_steps)
        )
        learning_rate = 0.5 * self.learning_rate_base * (1 + cos)
        slope = (self.learning_rate_base - self.warmup_learning_rate) / self.warmup_steps
        warmup_rate = slope * tf.cast(step, tf.float32) + self.warmup_learning_rate
        learning_rate = tf.where(step < self.warmup_steps, warmup_rate, learning_rate)
        return tf.where(step > self.total_steps, 0.0, learning_rate, name="learning_rate")


class TrainMonitor(keras.callbacks.Callback):
    def __init__(self, epoch_interval=None):
        self.epoch_interval = epoch_interval

    def on_epoch_end(self, epoch, logs=None):
        if self.epoch_interval and epoch % self.epoch_interval == 0:
            self.model.calculate_loss(np.zeros((2, 8, 8, 1), "float32"), test=True)


@by_fit(only="tensorflow")
def masked_autoencoder_with_lists_of_lists_of_variables(by):
    x, _ = digits(96)
    model = MaskedAutoencoder()
    schedule = WarmUpCosine(5e-3, total_steps=6, warmup_learning_rate=0.0, warmup_steps=2)
    model.compile(
        optimizer=keras.optimizers.AdamW(learning_rate=schedule, weight_decay=1e-4),
        loss=keras.losses.MeanSquaredError(),
        metrics=["mae"],
    )
    ds = tf.data.Dataset.from_tensor_slices(x).batch(32)
    by.fit(model, ds, epochs=2)


class NeRF(keras.Model):
    def __init__(self, nerf_model):
        super().__init__()
        self.nerf_model = nerf_model

    def compile(self, optimizer, loss_fn):
        super().compile()
        self.optimizer = optimizer
        self.loss_fn = loss_fn
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.psnr_metric = keras.metrics.Mean(name="psnr")

    def render(self, rays, training):
        rays_flat, t_vals = rays
        predictions = self.nerf_model(rays_flat, training=training)
        predictions = ops.reshape(predictions, (-1, 8, 8, 5, 4))
        rgb, sigma = ops.sigmoid(predictions[..., :-1]), ops.relu(predictions[..., -1])
        delta = t_vals[..., 1:] - t_vals[..., :-1]
        delta = ops.concatenate(
            [delta[:, None, None, :], ops.ones((ops.shape(delta)[0], 1, 1, 1)) * 1e10], axis=-1
        )
        alpha = 1.0 - ops.exp(-sigma * delta)
        weights = alpha * tf.math.cumprod(1.0 - alpha + 1e-10, axis=-1, exclusive=True)
        return ops.sum(weights[..., None] * rgb, axis=-2)

    def train_step(self, inputs):
        (images, rays) = inputs
        with tf.GradientTape() as tape:
            rgb = self.render(rays, training=True)
            loss = self.loss_fn(images, rgb)
        trainable_variables = self.nerf_model.trainable_variables
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, trainable_variables), trainable_variables)
        )
        psnr = tf.image.psnr(images, rgb, max_val=1.0)
        self.loss_tracker.update_state(loss)
        self.psnr_metric.update_state(psnr)
        return {"loss": self.loss_tracker.result(), "psnr": self.psnr_metric.result()}

    def test_step(self, inputs):
        (images, rays) = inputs
        rgb = self.render(rays, training=True)
        self.loss_tracker.update_state(self.loss_fn(images, rgb))
        self.psnr_metric.update_state(tf.image.psnr(images, rgb, max_val=1.0))
        return {"loss": self.loss_tracker.result(), "psnr": self.psnr_metric.result()}

    @property
    def metrics(self):
        return [self.loss_tracker, self.psnr_metric]


@by_fit(only="tensorflow")
def radiance_field_with_nested_batches(by):
    images = rng(12).uniform(size=(12, 8, 8, 3)).astype("float32")
    rays = rng(13).normal(size=(12, 8 * 8 * 5, 6)).astype("float32")
    t_vals = np.tile(np.linspace(2, 6, 5, dtype="float32"), (12, 1))

    def make(sl):
        img_ds = tf.data.Dataset.from_tensor_slices(images[sl])
        ray_ds = tf.data.Dataset.from_tensor_slices((rays[sl], t_vals[sl]))
        return (
            tf.data.Dataset.zip((img_ds, ray_ds))
            .batch(2, drop_remainder=True, num_parallel_calls=AUTOTUNE)
            .prefetch(AUTOTUNE)
        )

    inputs = keras.Input(shape=(8 * 8 * 5, 6))
    h = inputs
    for i in range(3):
        h = layers.Dense(units=16, activation="relu")(h)
        if i % 2 == 0 and i > 0:
            h = layers.concatenate([h, inputs], axis=-1)
    model = NeRF(keras.Model(inputs=inputs, outputs=layers.Dense(units=4)(h)))
    model.compile(optimizer=keras.optimizers.Adam(), loss_fn=keras.losses.MeanSquaredError())
    by.fit(model, make(slice(0, 8)), validation_data=make(slice(8, 12)), batch_size=2, epochs=2)
