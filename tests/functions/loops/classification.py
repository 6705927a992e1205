"""Trains a small convolutional classifier on the scikit-learn digits."""
# ruff: noqa: B905

import keras
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

keras.utils.set_random_seed(42)

EPOCHS = 4
BATCH_SIZE = 64

digits = load_digits()
images = (digits.images / 16.0).astype("float32")[..., None]
labels = digits.target.astype("int64")
x_train, x_test, y_train, y_test = train_test_split(
    images, labels, test_size=0.2, random_state=0, stratify=labels
)

train_ds = (
    tf.data.Dataset.from_tensor_slices((x_train, y_train))
    .shuffle(2000, seed=1)
    .batch(BATCH_SIZE)
    .prefetch(tf.data.AUTOTUNE)
)
test_ds = tf.data.Dataset.from_tensor_slices((x_test, y_test)).batch(BATCH_SIZE)


class DigitNet(keras.Model):
    """Two convolutions, then a dense head with batch normalization and dropout."""

    def __init__(self):
        super().__init__()
        self.conv1 = keras.layers.Conv2D(16, 3, padding="same", use_bias=False)
        self.bn1 = keras.layers.BatchNormalization()
        self.conv2 = keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")
        self.flatten = keras.layers.Flatten()
        self.d1 = keras.layers.Dense(64, activation="relu")
        self.drop = keras.layers.Dropout(0.3)
        self.d2 = keras.layers.Dense(10)

    def call(self, x, training=False):
        x = tf.nn.relu(self.bn1(self.conv1(x), training=training))
        x = self.flatten(self.conv2(x))
        x = self.drop(self.d1(x), training=training)
        return self.d2(x)


model = DigitNet()

loss_object = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
optimizer = tf.keras.optimizers.Adam(learning_rate=2e-3)

train_loss = tf.keras.metrics.Mean(name="train_loss")
train_accuracy = tf.keras.metrics.SparseCategoricalAccuracy(name="train_accuracy")
test_loss = tf.keras.metrics.Mean(name="test_loss")
test_accuracy = tf.keras.metrics.SparseCategoricalAccuracy(name="test_accuracy")


@tf.function
def train_step(x, y):
    with tf.GradientTape() as tape:
        logits = model(x, training=True)
        loss = loss_object(y, logits)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))

    train_loss(loss)
    train_accuracy(y, logits)


@tf.function
def test_step(x, y):
    logits = model(x, training=False)
    t_loss = loss_object(y, logits)

    test_loss(t_loss)
    test_accuracy(y, logits)


if __name__ == "__main__":
    for epoch in range(EPOCHS):
        train_loss.reset_state()
        train_accuracy.reset_state()
        test_loss.reset_state()
        test_accuracy.reset_state()

        for x_batch, y_batch in train_ds:
            train_step(x_batch, y_batch)

        for x_batch, y_batch in test_ds:
            test_step(x_batch, y_batch)

        print(
            f"Epoch {epoch + 1}, "
            f"Loss: {train_loss.result():0.4f}, "
            f"Accuracy: {train_accuracy.result() * 100:0.2f}, "
            f"Test Loss: {test_loss.result():0.4f}, "
            f"Test Accuracy: {test_accuracy.result() * 100:0.2f}"
        )
