"""The distillation of ../distillation.py, as a hand-written loop for TensorFlow.

The teacher's own training is the loop of classifier.py.
"""

import keras
import tensorflow as tf


def train(student, teacher, batches, validation, epochs, temperature=3.0, weight=0.8):
    """Train the student, and return the values of each step.

    Args:
        student: From images to logits.
        teacher: The same.
        batches: Each (images, labels).
        validation: The same, with other images.
        epochs: Passes over `batches`.
        temperature: Divides logits to soften labels.
        weight: The weight of the soft labels; the true ones get the rest.
    """
    optimizer = keras.optimizers.Adam(3e-3)
    optimizer.build(student.trainable_variables)
    accuracy = keras.metrics.SparseCategoricalAccuracy()
    valid_accuracy = keras.metrics.SparseCategoricalAccuracy()
    means = {name: keras.metrics.Mean() for name in ("loss", "soft_loss")}

    @tf.function(reduce_retracing=True)
    def train_on(images, labels):
        soft = tf.nn.softmax(teacher(images, training=False) / temperature)
        with tf.GradientTape() as tape:
            logits = student(images, training=True)
            hard_loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            soft_loss = tf.nn.softmax_cross_entropy_with_logits(soft, logits / temperature)
            soft_loss = tf.reduce_mean(soft_loss) * temperature**2
            loss = (1.0 - weight) * tf.reduce_mean(hard_loss) + weight * soft_loss
        gradients = tape.gradient(loss, student.trainable_variables)
        optimizer.apply(gradients, student.trainable_variables)
        accuracy.update_state(labels, logits)
        values = {"loss": loss, "soft_loss": soft_loss}
        for name, value in values.items():
            means[name].update_state(value, sample_weight=tf.shape(images)[0])
        return values

    @tf.function(reduce_retracing=True)
    def test_on(images, labels):
        valid_accuracy.update_state(labels, student(images, training=False))

    steps = []
    for epoch in range(epochs):
        metrics = (*means.values(), accuracy, valid_accuracy)
        for metric in metrics:
            metric.reset_state()
        for images, labels in batches:
            values = train_on(images, labels)
            steps.append({name: float(value) for name, value in values.items()})
        for images, labels in validation:
            test_on(images, labels)
        print(epoch + 1, *(f"{float(metric.result()):.4f}" for metric in metrics))
    return steps
