"""The GAN of ../gan.py, as a hand-written loop for TensorFlow."""

import keras
import tensorflow as tf

SEED = 7
NOISE = 16


def train(generator, discriminator, batches, epochs):
    """Train, and return the values of each step.

    Args:
        generator: From noise to images.
        discriminator: From images to scores.
        batches: Batches of images.
        epochs: Passes over `batches`.
    """
    generator_optimizer = keras.optimizers.Adam(2e-3, beta_1=0.5)
    discriminator_optimizer = keras.optimizers.Adam(2e-3, beta_1=0.5)
    generator_optimizer.build(generator.trainable_variables)
    discriminator_optimizer.build(discriminator.trainable_variables)
    seed = keras.random.SeedGenerator(SEED)
    names = ("discriminator_loss", "generator_loss", "gap")
    means = {name: keras.metrics.Mean() for name in names}

    @tf.function(reduce_retracing=True)
    def train_on(images):
        noise = keras.random.normal((tf.shape(images)[0], NOISE), seed=seed)
        drawn = generator(noise, training=True)
        with tf.GradientTape() as tape:
            real = discriminator(images, training=True)
            fake = discriminator(drawn, training=True)
            discriminator_loss = tf.reduce_mean(tf.nn.softplus(-real) + tf.nn.softplus(fake))
        gradients = tape.gradient(discriminator_loss, discriminator.trainable_variables)
        discriminator_optimizer.apply(gradients, discriminator.trainable_variables)
        with tf.GradientTape() as tape:
            scores = discriminator(generator(noise, training=True), training=True)
            generator_loss = tf.reduce_mean(tf.nn.softplus(-scores))
        gradients = tape.gradient(generator_loss, generator.trainable_variables)
        generator_optimizer.apply(gradients, generator.trainable_variables)
        difference = tf.reduce_mean(drawn, axis=0) - tf.reduce_mean(images, axis=0)
        values = {
            "discriminator_loss": discriminator_loss,
            "generator_loss": generator_loss,
            "gap": tf.reduce_mean(tf.square(difference)),
        }
        for name, value in values.items():
            means[name].update_state(value, sample_weight=tf.shape(images)[0])
        return values

    steps = []
    for epoch in range(epochs):
        for metric in means.values():
            metric.reset_state()
        for images in batches:
            values = train_on(images)
            steps.append({name: float(value) for name, value in values.items()})
        print(epoch + 1, *(f"{float(metric.result()):.4f}" for metric in means.values()))
    return steps
