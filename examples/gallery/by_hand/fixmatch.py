"""FixMatch of ../fixmatch.py, as a hand-written loop for TensorFlow."""

import keras
import tensorflow as tf


def train(model, weak, strong, batches, validation, epochs, sure=0.9):
    """Train, and return the values of each step.

    Args:
        model: From images to logits.
        weak: A layer that changes images a little.
        strong: One that changes them more.
        batches: Each (images, labels, unlabeled).
        validation: Each (images, labels).
        epochs: Passes over `batches`.
        sure: How probable a class must be to count as a label.
    """
    optimizer = keras.optimizers.Adam(2e-3)
    optimizer.build(model.trainable_variables)
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits
    accuracy = keras.metrics.SparseCategoricalAccuracy()
    names = ("loss", "label_loss", "guess_loss", "sure")
    means = {name: keras.metrics.Mean() for name in names}

    @tf.function(reduce_retracing=True)
    def train_on(images, labels, unlabeled):
        images = weak(images)
        guesses = tf.nn.softmax(model(weak(unlabeled), training=False))
        counts = tf.cast(tf.reduce_max(guesses, axis=-1) >= sure, "float32")
        changed = strong(unlabeled)
        with tf.GradientTape() as tape:
            label_loss = tf.reduce_mean(cross_entropy(labels, model(images, training=True)))
            logits = model(changed, training=True)
            guess_losses = counts * cross_entropy(tf.argmax(guesses, axis=-1), logits)
            guess_loss = tf.reduce_mean(guess_losses)
            loss = label_loss + guess_loss
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        parts = (loss, label_loss, guess_loss, tf.reduce_mean(counts))
        values = dict(zip(names, parts, strict=True))
        for name, value in values.items():
            means[name].update_state(value, sample_weight=tf.shape(images)[0])
        return values

    @tf.function(reduce_retracing=True)
    def test_on(images, labels):
        accuracy.update_state(labels, model(images, training=False))

    steps = []
    for epoch in range(epochs):
        for metric in (*means.values(), accuracy):
            metric.reset_state()
        for batch in batches:
            values = train_on(*batch)
            steps.append({name: float(value) for name, value in values.items()})
        for images, labels in validation:
            test_on(images, labels)
        shown = [float(metric.result()) for metric in (*means.values(), accuracy)]
        print(epoch + 1, *(f"{value:.4f}" for value in shown))
    return steps
