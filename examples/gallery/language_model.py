"""A small transformer that writes like the docstrings of Keras's layers.

It reads 48 characters and predicts, at each, the next one (Vaswani et al., 2017, the decoder).

What Perigee does here: the mean over characters, exact over the epoch (`pg.mean`); the embedding's
gradient on TensorFlow, whose slices for one character must be added up before Adam squares them,
which Keras does not do; generating text with the same Step that was trained.

    python examples/gallery/language_model.py               # any backend; half a minute
"""

import inspect
from pathlib import Path

import keras
import numpy as np
from figures import draw_curves
from keras import ops

import perigee as pg

SEED = 7
LENGTH = 48
SIZE = 48


class LanguageModel(pg.Step):
    """Train a model to predict the next character.

    Args:
        model: From character numbers `(batch, LENGTH)` to logits `(batch, LENGTH, num_characters)`.
    """

    def __init__(self, model):
        self.model = model
        self.optimizer = keras.optimizers.AdamW(4e-3)

    def train_step(self, text):
        objective = lambda: pg.mean(self.losses(text, training=True))  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, self.model)}

    def test_step(self, text):
        return {"loss": pg.mean(self.losses(text, training=False))}

    def predict_step(self, text):
        return self.model(text, training=False)

    def losses(self, text, training):
        """Return one value for each predicted character, `(batch, LENGTH)`."""
        logits = self.model(text[:, :-1], training=training)
        return ops.sparse_categorical_crossentropy(text[:, 1:], logits, from_logits=True)


class Positions(keras.layers.Layer):
    """Add a learned vector to each position of a text."""

    def build(self, shape):
        self.vectors = self.add_weight(shape=shape[1:], initializer="random_normal")

    def call(self, text):
        return text + self.vectors


def make_step():
    _, characters = make_text()
    return LanguageModel(make_model(len(characters)))


def make_model(num_characters, blocks=1):
    text = keras.Input((LENGTH,), dtype="int32")
    hidden = Positions()(keras.layers.Embedding(num_characters, SIZE)(text))
    for _ in range(blocks):
        normal = keras.layers.LayerNormalization()(hidden)
        attention = keras.layers.MultiHeadAttention(num_heads=4, key_dim=SIZE // 4)
        hidden = hidden + attention(normal, normal, use_causal_mask=True)
        normal = keras.layers.LayerNormalization()(hidden)
        inner = keras.layers.Dense(4 * SIZE, activation="gelu")(normal)
        hidden = hidden + keras.layers.Dense(SIZE)(inner)
    logits = keras.layers.Dense(num_characters)(keras.layers.LayerNormalization()(hidden))
    return keras.Model(text, logits)


def make_text():
    """Return the docstrings, and the characters that are in them."""
    layers = [layer for _, layer in sorted(vars(keras.layers).items()) if inspect.isclass(layer)]
    texts = [" ".join((layer.__doc__ or "").split()) for layer in layers]
    texts = [text for text in dict.fromkeys(texts) if text.isascii() and len(text) > 500]
    return texts, sorted(set("".join(texts)))


def make_data(stride=50):
    """Return windows of LENGTH + 1 character numbers to train on, and others to validate on.

    The last tenth of each text is held back.
    """
    texts, characters = make_text()
    parts = [], []
    for text in texts:
        numbers = np.array([characters.index(c) for c in text], "int32")
        end = len(numbers) * 9 // 10
        for part, some in zip(parts, (numbers[:end], numbers[end:]), strict=True):
            if len(some) > LENGTH:
                windows = np.lib.stride_tricks.sliding_window_view(some, LENGTH + 1)
                part.append(windows[::stride])
    train, valid = (np.concatenate(part) for part in parts)
    return train, valid


def draw_text(step, beginning, count=200):
    """Return a text that continues `beginning`, character by character."""
    _, characters = make_text()
    random = np.random.default_rng(SEED)
    numbers = [characters.index(c) for c in beginning]
    for _ in range(count):
        seen = numbers[-LENGTH:]
        window = np.array([seen + [0] * (LENGTH - len(seen))], "int32")
        logits = pg.predict(step, window)[0, len(seen) - 1].astype("float64") / 0.5
        likely = np.exp(logits - logits.max())
        numbers.append(int(random.choice(len(characters), p=likely / likely.sum())))
    return "".join(characters[number] for number in numbers)


def main(epochs=5, directory=None):
    keras.utils.set_random_seed(SEED)
    train, valid = make_data()
    step = make_step()
    history = pg.fit(step, train, validation=valid, epochs=epochs, batch_size=32, run=directory)
    draw_curves(directory, "curves", {k: history.history[k] for k in ("loss", "val_loss")})
    if directory is not None:
        text = draw_text(step, "Args: ")
        Path(directory, "written.txt").write_text(text + "\n", encoding="utf-8")
        print(text)
    return history


if __name__ == "__main__":
    main(directory="runs/language_model")
