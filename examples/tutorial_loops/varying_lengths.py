"""Batches whose sizes vary, without an input signature.

The hand-written loop is retraced for each new length of sequences, and for the short last batch,
unless an `input_signature` spells out every rank and dtype; a signature is part of the source, and
has to follow each change of the data.

Here the first axis is open from the start, and an axis that turns out to vary is opened when it
does: two traces on TensorFlow for any number of lengths. (JAX compiles for each shape.) What may
not vary is the structure, the dtypes and the ranks; a batch that differs in those raises (PG303)
with both shown.
"""

import keras
import numpy as np

import perigee as pg

WORDS = 20

seen_shapes = []
"""Shapes that the step's Python code has met: it runs when the step is rehearsed and traced."""


class Sequences(pg.Step):
    """Classify sequences of words."""

    def __init__(self, model):
        self.model = model
        self.optimizer = keras.optimizers.SGD(1.0)
        self.loss = keras.losses.BinaryCrossentropy(from_logits=True)

    def train_step(self, batch):
        words, y = batch
        seen_shapes.append(tuple(words.shape))

        def objective():
            return self.loss(y, self.model(words, training=True))

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def make_step():
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(WORDS, 8),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1),
        ]
    )
    return Sequences(model)


def make_data(lengths=(5, 9, 7, 12, 6, 10, 8), batch_size=16):
    """Return batches of words `(batch, length)` and labels `(batch, 1)`; the last one is short."""
    random = np.random.default_rng(0)
    batches = []
    for index, length in enumerate(lengths):
        rows = batch_size if index + 1 < len(lengths) else batch_size // 3
        words = random.integers(WORDS, size=(rows, length)).astype("int32")
        labels = np.mean(words < WORDS // 2, axis=1, keepdims=True) > 0.5
        batches.append((words, labels.astype("float32")))
    return batches


def main(epochs=20):
    """Train, and return the history and the shapes for which the step was traced."""
    keras.utils.set_random_seed(7)
    seen_shapes.clear()
    history = pg.fit(make_step(), make_data(), epochs=epochs)
    traced = [shape for shape in seen_shapes if shape[0] is None]
    print(f"traced for {traced}; rehearsed on {seen_shapes[0]}")
    return history, traced


if __name__ == "__main__":
    main()
