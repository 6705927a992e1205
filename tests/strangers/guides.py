"""Programs in the idioms of Keras's guides."""

import keras
import numpy as np
from keras import layers, ops

from tests.strangers.corpus import by_fit
from tests.strangers.datasets import digits, wine


@by_fit
def logistic_regression_on_wine(by):
    x, y = wine()
    model = keras.Sequential([keras.Input((13,)), layers.Dense(3, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y, epochs=3, batch_size=32, validation_split=0.2)
    by.evaluate(model, x, y, batch_size=50)
    by.predict(model, x)


@by_fit
def convnet(by):
    x, y = digits()
    num_classes = 10
    model = keras.Sequential(
        [
            keras.Input(shape=(8, 8, 1)),
            layers.Conv2D(8, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Flatten(),
            layers.Dropout(0.5, seed=1),
            layers.Dense(num_classes, activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    y = keras.utils.to_categorical(y, num_classes)
    by.fit(model, x, y, batch_size=64, epochs=2, validation_split=0.1)
    by.evaluate(model, x, y)


class LinearWithActivity(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.w = self.add_weight(shape=(input_shape[-1], self.units), initializer="random_normal")
        self.b = self.add_weight(shape=(self.units,), initializer="zeros")

    def call(self, inputs):
        self.add_loss(1e-2 * ops.mean(inputs))
        return ops.matmul(inputs, self.w) + self.b


@by_fit
def own_layer_that_adds_a_loss(by):
    x, y = wine()
    model = keras.Sequential([LinearWithActivity(8), layers.ReLU(), LinearWithActivity(3)])
    model.compile(
        optimizer=keras.optimizers.RMSprop(learning_rate=1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
    )
    by.fit(model, x, y, batch_size=16, epochs=2)
    by.predict(model, np.asarray(x[:7]))
