"""The adversarial training of ../adversarial_training.py, as a hand-written loop for TensorFlow."""

import keras
import tensorflow as tf


def train(model, batches, validation, epochs, bound=0.1, attack_steps=3):
    """Train, and return the values of each step.

    Args:
        model: From images to logits.
        batches: Each (images, labels).
        validation: The same, with other images.
        epochs: Passes over `batches`.
        bound: How far each pixel may be changed.
        attack_steps: The number of steps of the change.
    """
    optimizer = keras.optimizers.Adam(2e-3)
    optimizer.build(model.trainable_variables)
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits
    train_loss, valid_loss = keras.metrics.Mean(), keras.metrics.Mean()
    train_hits, valid_hits, clean_hits = (
        keras.metrics.SparseCategoricalAccuracy() for _ in range(3)
    )

    def attack(images, labels):
        change = tf.zeros_like(images)
        for _ in range(attack_steps):
            changed = images + change
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(changed)
                losses = cross_entropy(labels, model(changed, training=False))
            slope = tape.gradient(losses, changed)
            change = change + 2 * bound / attack_steps * tf.sign(slope)
            change = tf.clip_by_value(change, -bound, bound)
        return images + change

    @tf.function(reduce_retracing=True)
    def train_on(images, labels):
        attacked = attack(images, labels)
        with tf.GradientTape() as tape:
            logits = model(attacked, training=True)
            losses = cross_entropy(labels, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        train_loss.update_state(losses)
        train_hits.update_state(labels, logits)
        return {"loss": loss}

    @tf.function(reduce_retracing=True)
    def test_on(images, labels):
        clean_hits.update_state(labels, model(images, training=False))
        logits = model(attack(images, labels), training=False)
        valid_loss.update_state(cross_entropy(labels, logits))
        valid_hits.update_state(labels, logits)

    steps = []
    for epoch in range(epochs):
        metrics = (train_loss, train_hits, valid_loss, valid_hits, clean_hits)
        for metric in metrics:
            metric.reset_state()
        for images, labels in batches:
            values = train_on(images, labels)
            steps.append({name: float(value) for name, value in values.items()})
        for images, labels in validation:
            test_on(images, labels)
        print(epoch + 1, *(f"{float(metric.result()):.4f}" for metric in metrics))
    return steps
