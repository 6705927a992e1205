"""The language model of ../language_model.py, as a hand-written loop for TensorFlow.

It generates no text.
"""

import keras
import tensorflow as tf


def train(model, batches, validation, epochs):
    """Train, and return the values of each step.

    Args:
        model: From character numbers to logits.
        batches: Windows of character numbers.
        validation: The same, with others.
        epochs: Passes over `batches`.
    """
    optimizer = keras.optimizers.AdamW(4e-3)
    optimizer.build(model.trainable_variables)
    train_loss, valid_loss = keras.metrics.Mean(), keras.metrics.Mean()

    def losses_of(text, training):
        logits = model(text[:, :-1], training=training)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(text[:, 1:], logits)

    @tf.function(reduce_retracing=True)
    def train_on(text):
        with tf.GradientTape() as tape:
            losses = losses_of(text, training=True)
            loss = tf.reduce_mean(losses)
        # The embedding's gradient has one slice for each place. If a character occurs twice,
        # Adam would square its slices one by one, not their sum.
        sliced = tape.gradient(loss, model.trainable_variables)
        gradients = [tf.convert_to_tensor(gradient) for gradient in sliced]
        optimizer.apply(gradients, model.trainable_variables)
        train_loss.update_state(losses)
        return {"loss": loss}

    @tf.function(reduce_retracing=True)
    def test_on(text):
        valid_loss.update_state(losses_of(text, training=False))

    steps = []
    for epoch in range(epochs):
        train_loss.reset_state()
        valid_loss.reset_state()
        for text in batches:
            values = train_on(text)
            steps.append({name: float(value) for name, value in values.items()})
        for text in validation:
            test_on(text)
        print(epoch + 1, f"{float(train_loss.result()):.4f} {float(valid_loss.result()):.4f}")
    return steps
