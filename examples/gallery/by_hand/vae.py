"""The variational autoencoder of ../vae.py, as a hand-written loop for TensorFlow."""

import keras
import tensorflow as tf

SEED = 7


def train(encoder, decoder, batches, epochs):
    """Train, and return the values of each step.

    Args:
        encoder: From images to means and log-variances.
        decoder: From latent values to logits of pixels.
        batches: Batches of images.
        epochs: Passes over `batches`.
    """
    variables = encoder.trainable_variables + decoder.trainable_variables
    optimizer = keras.optimizers.Adam(2e-3)
    optimizer.build(variables)
    seed = keras.random.SeedGenerator(SEED)
    means = {name: keras.metrics.Mean() for name in ("loss", "reconstruction", "divergence")}

    @tf.function(reduce_retracing=True)
    def train_on(images):
        with tf.GradientTape() as tape:
            mean, log_variance = tf.split(encoder(images, training=True), 2, axis=-1)
            draw = keras.random.normal(tf.shape(mean), seed=seed)
            latent = mean + draw * tf.exp(log_variance / 2)
            logits = decoder(latent, training=True)
            pixels = tf.nn.sigmoid_cross_entropy_with_logits(labels=images, logits=logits)
            reconstruction = tf.reduce_mean(tf.reduce_sum(pixels, axis=-1))
            spread = tf.square(mean) + tf.exp(log_variance) - log_variance - 1.0
            divergence = tf.reduce_mean(tf.reduce_sum(spread, axis=-1) / 2)
            loss = reconstruction + divergence
        optimizer.apply(tape.gradient(loss, variables), variables)
        values = {"loss": loss, "reconstruction": reconstruction, "divergence": divergence}
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
