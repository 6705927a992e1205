"""SimCLR of ../simclr.py, as a hand-written loop for TensorFlow."""

import keras
import tensorflow as tf


def train(encoder, head, view, batches, epochs, temperature=0.2):
    """Train, and return the values of each step.

    Args:
        encoder: From images to features.
        head: From features to the compared vectors.
        view: A layer that changes images at random.
        batches: Batches of images.
        epochs: Passes over `batches`.
        temperature: Divides similarities.
    """
    variables = encoder.trainable_variables + head.trainable_variables
    optimizer = keras.optimizers.Adam(2e-3)
    optimizer.build(variables)
    mean_loss = keras.metrics.Mean()
    recognized = keras.metrics.SparseCategoricalAccuracy()

    @tf.function(reduce_retracing=True)
    def train_on(images):
        one, two = view(images), view(images)
        count = tf.shape(images)[0]
        partners = (tf.range(2 * count) + count) % (2 * count)
        with tf.GradientTape() as tape:
            views = tf.concat([one, two], axis=0)
            compared = head(encoder(views, training=True), training=True)
            compared = tf.math.l2_normalize(compared, axis=-1)
            similarities = tf.matmul(compared, compared, transpose_b=True) / temperature
            similarities = similarities - 1e9 * tf.eye(2 * count)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(partners, similarities)
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, variables), variables)
        mean_loss.update_state(loss, sample_weight=count)
        recognized.update_state(partners, similarities)
        return {"loss": loss}

    steps = []
    for epoch in range(epochs):
        mean_loss.reset_state()
        recognized.reset_state()
        for images in batches:
            values = train_on(images)
            steps.append({name: float(value) for name, value in values.items()})
        print(epoch + 1, f"{float(mean_loss.result()):.4f} {float(recognized.result()):.4f}")
    return steps
