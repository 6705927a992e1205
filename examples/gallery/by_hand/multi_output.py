"""The two outputs of ../multi_output.py, as a hand-written loop for TensorFlow."""

import keras
import tensorflow as tf


def train(model, batches, validation, epochs):
    """Train, and return the values of each step.

    Args:
        model: From images to a dict of `digit` and `center`.
        batches: Each (images, labels).
        validation: The same, with other images.
        epochs: Passes over `batches`.
    """
    optimizer = keras.optimizers.Adam(2e-3)
    optimizer.build(model.trainable_variables)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    squared_error = keras.losses.MeanSquaredError()
    accuracy = keras.metrics.SparseCategoricalAccuracy()
    names = ("loss", "digit_loss", "center_loss")
    means = {name: keras.metrics.Mean() for name in names}

    def losses_of(labels, outputs):
        digit_loss = cross_entropy(labels["digit"], outputs["digit"])
        center_loss = squared_error(labels["center"], outputs["center"])
        loss = digit_loss + 10.0 * center_loss
        return {"loss": loss, "digit_loss": digit_loss, "center_loss": center_loss}

    def record(losses, labels, outputs):
        for name, value in losses.items():
            means[name].update_state(value, sample_weight=tf.shape(labels["digit"])[0])
        accuracy.update_state(labels["digit"], outputs["digit"])

    @tf.function(reduce_retracing=True)
    def train_on(images, labels):
        with tf.GradientTape() as tape:
            outputs = model(images, training=True)
            losses = losses_of(labels, outputs)
        gradients = tape.gradient(losses["loss"], model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        record(losses, labels, outputs)
        return losses

    @tf.function(reduce_retracing=True)
    def test_on(images, labels):
        outputs = model(images, training=False)
        record(losses_of(labels, outputs), labels, outputs)

    steps = []
    for epoch in range(epochs):
        shown = []
        for run_on, data in ((train_on, batches), (test_on, validation)):
            for metric in (*means.values(), accuracy):
                metric.reset_state()
            for images, labels in data:
                values = run_on(images, labels)
                if values is not None:
                    steps.append({name: float(value) for name, value in values.items()})
            shown += [float(metric.result()) for metric in (*means.values(), accuracy)]
        print(epoch + 1, *(f"{value:.4f}" for value in shown))
    return steps
