"""The gradient accumulation of ../accumulation.py, as a hand-written loop for TensorFlow."""

import keras
import tensorflow as tf

MICRO_BATCHES = 4


def train(model, batches, validation, epochs):
    """Train, and return the values of each micro-batch.

    Args:
        model: From images to logits.
        batches: Each (images, labels).
        validation: The same, with other images.
        epochs: Passes over `batches`.
    """
    schedule = keras.optimizers.schedules.CosineDecay(5e-3, decay_steps=345)
    variables = model.trainable_variables
    optimizer = keras.optimizers.AdamW(schedule)
    optimizer.build(variables)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sums = [tf.Variable(tf.zeros(variable.shape), trainable=False) for variable in variables]
    count = tf.Variable(0.0, trainable=False)
    mean_loss, valid_loss = keras.metrics.Mean(), keras.metrics.Mean()

    @tf.function(reduce_retracing=True)
    def collect(images, labels):
        examples = tf.cast(tf.shape(images)[0], "float32")
        with tf.GradientTape() as tape:
            loss = cross_entropy(labels, model(images, training=True))
        for total, gradient in zip(sums, tape.gradient(loss, variables), strict=True):
            total.assign_add(gradient * examples)
        count.assign_add(examples)
        mean_loss.update_state(loss, sample_weight=examples)
        return {"loss": loss}

    @tf.function
    def update():
        optimizer.apply([total / count for total in sums], variables)
        for variable in (*sums, count):
            variable.assign(tf.zeros_like(variable))

    @tf.function(reduce_retracing=True)
    def test_on(images, labels):
        loss = cross_entropy(labels, model(images, training=False))
        valid_loss.update_state(loss, sample_weight=tf.shape(images)[0])

    steps = []
    for epoch in range(epochs):
        mean_loss.reset_state()
        valid_loss.reset_state()
        for number, (images, labels) in enumerate(batches, start=1):
            values = collect(images, labels)
            steps.append({name: float(value) for name, value in values.items()})
            if number % MICRO_BATCHES == 0 or number == len(batches):
                update()
        for images, labels in validation:
            test_on(images, labels)
        print(epoch + 1, f"{float(mean_loss.result()):.4f} {float(valid_loss.result()):.4f}")
    return steps
