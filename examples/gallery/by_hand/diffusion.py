"""The denoising diffusion of ../diffusion.py, as a hand-written loop for TensorFlow.

It generates no images.
"""

import keras
import numpy as np
import tensorflow as tf

SEED = 7


def train(model, batches, validation, epochs):
    """Train, and return the values of each step.

    Args:
        model: From noisy images and times to the noise.
        batches: Batches of images.
        validation: The same, with others.
        epochs: Passes over `batches`.
    """
    optimizer = keras.optimizers.Adam(2e-3)
    optimizer.build(model.trainable_variables)
    seed, valid_seed = keras.random.SeedGenerator(SEED), keras.random.SeedGenerator(SEED + 1)
    first_state = keras.ops.convert_to_numpy(valid_seed.state.value)
    train_loss, valid_loss = keras.metrics.Mean(), keras.metrics.Mean()

    def losses_of(images, seed, training):
        count = tf.shape(images)[0]
        noise = keras.random.normal((count, 64), seed=seed)
        times = keras.random.uniform((count, 1), seed=seed)
        angles = 0.02 + (np.pi / 2 - 0.04) * times
        noisy = tf.cos(angles) * images + tf.sin(angles) * noise
        found = model([noisy, times], training=training)
        return tf.reduce_mean(tf.square(noise - found), axis=-1)

    @tf.function(reduce_retracing=True)
    def train_on(images):
        with tf.GradientTape() as tape:
            losses = losses_of(images, seed, training=True)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        train_loss.update_state(losses)
        return {"loss": loss}

    @tf.function(reduce_retracing=True)
    def test_on(images):
        valid_loss.update_state(losses_of(images, valid_seed, training=False))

    steps = []
    for epoch in range(epochs):
        train_loss.reset_state()
        valid_loss.reset_state()
        valid_seed.state.assign(first_state)
        for images in batches:
            values = train_on(images)
            steps.append({name: float(value) for name, value in values.items()})
        for images in validation:
            test_on(images)
        print(epoch + 1, f"{float(train_loss.result()):.4f} {float(valid_loss.result()):.4f}")
    return steps
