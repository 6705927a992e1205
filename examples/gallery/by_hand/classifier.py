"""The classifier of ../classifier.py, as a hand-written loop for TensorFlow."""

import keras
import tensorflow as tf


def train(model, batches, validation, epochs):
    """Train, and return the values of each step.

    Args:
        model: From images to logits.
        batches: Each (images, labels).
        validation: The same, with other images.
        epochs: Passes over `batches`.
    """
    optimizer = keras.optimizers.Adam(2e-3)
    optimizer.build(model.trainable_variables)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    accuracy = keras.metrics.SparseCategoricalAccuracy()
    mean_loss = keras.metrics.Mean()

    @tf.function(reduce_retracing=True)
    def train_on(images, labels):
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = cross_entropy(labels, logits) + tf.add_n(model.losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        mean_loss.update_state(loss, sample_weight=tf.shape(images)[0])
        accuracy.update_state(labels, logits)
        return {"loss": loss}

    @tf.function(reduce_retracing=True)
    def test_on(images, labels):
        logits = model(images, training=False)
        loss = cross_entropy(labels, logits) + tf.add_n(model.losses)
        mean_loss.update_state(loss, sample_weight=tf.shape(images)[0])
        accuracy.update_state(labels, logits)

    steps = []
    for epoch in range(epochs):
        shown = []
        for run_on, data in ((train_on, batches), (test_on, validation)):
            mean_loss.reset_state()
            accuracy.reset_state()
            for images, labels in data:
                values = run_on(images, labels)
                if values is not None:
                    steps.append({name: float(value) for name, value in values.items()})
            shown += [float(mean_loss.result()), float(accuracy.result())]
        print(epoch + 1, *(f"{value:.4f}" for value in shown))
    return steps
