"""The meta-learning of ../inner_loop.py, as a hand-written loop for TensorFlow."""

import keras
import tensorflow as tf


def train(model, batches, validation, epochs, inner_steps=1, inner_rate=0.1):
    """Train, and return the values of each step.

    Args:
        model: From points to points.
        batches: Each (x, y, other x, other y), with one row per task.
        validation: The same, with other tasks.
        epochs: Passes over `batches`.
        inner_steps: How many steps of descent a task gets.
        inner_rate: Their learning rate.
    """
    variables = model.trainable_variables
    optimizer = keras.optimizers.Adam(2e-3)
    optimizer.build(variables)
    train_loss, valid_loss = keras.metrics.Mean(), keras.metrics.Mean()

    def error(weights, x, y):
        y_pred, _ = model.stateless_call(weights, [], x)
        return tf.reduce_mean(tf.square(y - y_pred))

    def adapt(x, y):
        weights = [tf.identity(variable) for variable in variables]
        for _ in range(inner_steps):
            with tf.GradientTape() as tape:
                tape.watch(weights)
                loss = error(weights, x, y)
            pairs = zip(weights, tape.gradient(loss, weights), strict=True)
            weights = [weight - inner_rate * slope for weight, slope in pairs]
        return weights

    def losses_of(batch):
        losses = []
        for task in range(batch[0].shape[0]):
            x, y, other_x, other_y = (part[task] for part in batch)
            losses.append(error(adapt(x, y), other_x, other_y))
        return tf.stack(losses)

    @tf.function
    def train_on(*batch):
        with tf.GradientTape() as tape:
            losses = losses_of(batch)
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, variables), variables)
        train_loss.update_state(losses)
        return {"loss": loss}

    @tf.function
    def test_on(*batch):
        valid_loss.update_state(losses_of(batch))

    steps = []
    for epoch in range(epochs):
        train_loss.reset_state()
        valid_loss.reset_state()
        for batch in batches:
            values = train_on(*batch)
            steps.append({name: float(value) for name, value in values.items()})
        for batch in validation:
            test_on(*batch)
        print(epoch + 1, f"{float(train_loss.result()):.4f} {float(valid_loss.result()):.4f}")
    return steps
