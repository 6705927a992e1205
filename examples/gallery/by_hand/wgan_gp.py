"""The Wasserstein GAN of ../wgan_gp.py, as a hand-written loop for TensorFlow."""

import keras
import tensorflow as tf

SEED = 7
NOISE = 16
CRITIC_STEPS = 3


def train(generator, critic, batches, epochs, penalty=10.0):
    """Train, and return the values of each step.

    Args:
        generator: From noise to images.
        critic: From images to one number each.
        batches: Batches of images.
        epochs: Passes over `batches`.
        penalty: Weight of the penalty on slopes other than 1.
    """
    generator_optimizer = keras.optimizers.Adam(1e-3, beta_1=0.0, beta_2=0.9)
    critic_optimizer = keras.optimizers.Adam(1e-3, beta_1=0.0, beta_2=0.9)
    generator_optimizer.build(generator.trainable_variables)
    critic_optimizer.build(critic.trainable_variables)
    seed = keras.random.SeedGenerator(SEED)
    names = ("critic_loss", "slope", "generator_loss", "gap")
    means = {name: keras.metrics.Mean() for name in names}

    def record(values, images):
        for name, value in values.items():
            means[name].update_state(value, sample_weight=tf.shape(images)[0])
        return values

    @tf.function(reduce_retracing=True)
    def update_critic(images):
        noise = keras.random.normal((tf.shape(images)[0], NOISE), seed=seed)
        drawn = generator(noise, training=True)
        mix = keras.random.uniform((tf.shape(images)[0], 1), seed=seed)
        between = mix * images + (1.0 - mix) * drawn
        with tf.GradientTape() as tape:
            gain = critic(images, training=True) - critic(drawn, training=True)
            with tf.GradientTape() as inner_tape:
                inner_tape.watch(between)
                scores = critic(between, training=True)
            gradient = inner_tape.gradient(scores, between)
            slopes = tf.sqrt(tf.reduce_sum(tf.square(gradient), axis=-1) + 1e-12)
            loss = tf.reduce_mean(penalty * tf.square(slopes - 1.0) - gain[:, 0])
        gradients = tape.gradient(loss, critic.trainable_variables)
        critic_optimizer.apply(gradients, critic.trainable_variables)
        return record({"critic_loss": loss, "slope": tf.reduce_mean(slopes)}, images)

    @tf.function(reduce_retracing=True)
    def update_generator(images):
        noise = keras.random.normal((tf.shape(images)[0], NOISE), seed=seed)
        with tf.GradientTape() as tape:
            drawn = generator(noise, training=True)
            loss = -tf.reduce_mean(critic(drawn, training=True))
        gradients = tape.gradient(loss, generator.trainable_variables)
        generator_optimizer.apply(gradients, generator.trainable_variables)
        difference = tf.reduce_mean(drawn, axis=0) - tf.reduce_mean(images, axis=0)
        gap = tf.reduce_mean(tf.square(difference))
        return record({"generator_loss": loss, "gap": gap}, images)

    steps = []
    for epoch in range(epochs):
        for metric in means.values():
            metric.reset_state()
        for images in batches:
            is_critic = len(steps) % (CRITIC_STEPS + 1) < CRITIC_STEPS
            values = (update_critic if is_critic else update_generator)(images)
            steps.append({name: float(value) for name, value in values.items()})
        print(epoch + 1, *(f"{float(metric.result()):.4f}" for metric in means.values()))
    return steps
