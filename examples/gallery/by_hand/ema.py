"""The moving average of ../ema.py, as a hand-written loop for TensorFlow."""

import keras
import tensorflow as tf


def train(model, average, batches, validation, epochs, decay=0.99):
    """Train, and return the values of each step.

    Args:
        model: From images to logits.
        average: An exact copy of it (`clone_model`, then `set_weights`).
        batches: Each (images, labels).
        validation: The same, with other images.
        epochs: Passes over `batches`.
        decay: How much of the average is kept at each step.
    """
    optimizer = keras.optimizers.SGD(0.5, momentum=0.5)
    optimizer.build(model.trainable_variables)
    mean_loss = keras.metrics.Mean()
    accuracy = keras.metrics.SparseCategoricalAccuracy()
    valid_losses = (keras.metrics.Mean(), keras.metrics.Mean())
    valid_accuracies = tuple(keras.metrics.SparseCategoricalAccuracy() for _ in range(2))

    @tf.function(reduce_retracing=True)
    def train_on(images, labels):
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        mean_loss.update_state(losses)
        accuracy.update_state(labels, logits)
        for ours, theirs in zip(average.weights, model.weights, strict=True):
            ours.assign(decay * ours + (1.0 - decay) * theirs)
        return {"loss": loss}

    @tf.function(reduce_retracing=True)
    def test_on(images, labels):
        for network, mean, hits in zip(
            (model, average), valid_losses, valid_accuracies, strict=True
        ):
            logits = network(images, training=False)
            mean.update_state(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
            hits.update_state(labels, logits)

    steps = []
    for epoch in range(epochs):
        metrics = (mean_loss, accuracy, *valid_losses, *valid_accuracies)
        for metric in metrics:
            metric.reset_state()
        for images, labels in batches:
            values = train_on(images, labels)
            steps.append({name: float(value) for name, value in values.items()})
        for images, labels in validation:
            test_on(images, labels)
        print(epoch + 1, *(f"{float(metric.result()):.4f}" for metric in metrics))
    return steps
