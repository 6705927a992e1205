"""Programs that are right and unlike the others: odd data, odd models, odd calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers as kl
from keras import losses, ops

import perigee as pg
from tests.diagnostics.programs import (
    CLASSES,
    FEATURES,
    Own,
    adam,
    classes,
    compiled,
    inputs,
    model,
    numbers,
    small,
    squares,
    supervised,
    weighted,
    words,
)

ROWS = 16
"""Of a batch."""

Made = tuple[Any, Any, dict[str, Any]]

PROGRAMS: dict[str, tuple[Callable[[], Made], tuple[str, ...]]] = {}
"""By name: what returns a Step or model, data and options of `check`; and the frameworks."""


def program(*frameworks: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Put a function into the table; it returns the target, the data, and options if any."""

    def put(make: Callable[[], Any]) -> Callable[[], Any]:
        def made() -> Made:
            target, data, *options = make()
            return target, data, options[0] if options else {}

        PROGRAMS[make.__name__] = made, frameworks or ("tensorflow", "jax", "torch")
        return make

    return put


def batches(*arrays: Any, size: int = ROWS) -> list[Any]:
    """Cut trees of arrays into batches, as a list of tuples."""
    rows = len(keras.tree.flatten(arrays)[0])
    return [
        keras.tree.map_structure(lambda leaf: leaf[i : i + size], arrays)  # noqa: B023
        for i in range(0, rows, size)
    ]


class Step(pg.Step):
    """A step around one model, whose loss and predictions `forward` returns."""

    def __init__(self, network: Any, forward: Callable[..., Any], **held: Any) -> None:
        self.model, self.optimizer, self.forward = network, adam(), forward
        for name, value in held.items():
            setattr(self, name, value)

    def train_step(self, batch: Any) -> dict[str, Any]:
        loss = self.minimize(lambda: self.forward(self, batch), self.optimizer, self.model)
        return {"loss": loss}

    def test_step(self, batch: Any) -> dict[str, Any]:
        return {"loss": self.forward(self, batch, False)}


# Losses.


def of_classes(**options: Any) -> losses.Loss:
    return losses.SparseCategoricalCrossentropy(from_logits=True, **options)


@program()
def unreduced_loss() -> Any:
    return Own(small(CLASSES), of_classes(reduction=None)), classes()


@program()
def unreduced_and_weighted() -> Any:
    loss = of_classes(reduction="none")
    x, _, w = weighted()
    data = x, classes()[1], w
    return Own(small(CLASSES), lambda y, p, w: pg.mean(loss(y, p), w)), data


@program()
def ignored_class() -> Any:
    x, y = classes()
    y = np.where(np.arange(len(y)) % 4 == 0, -1, y).astype("int32")
    loss = losses.SparseCategoricalCrossentropy(ignore_class=-1)
    return supervised(small(CLASSES, "softmax"), loss), (x, y)


@program("tensorflow", "jax")  # on torch the loss itself fails behind a convolution
def void_pixels() -> Any:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(ROWS, 6, 6, 3)).astype("float32")
    y = np.where(draw.random((ROWS, 6, 6)) < 0.2, 255, x[..., :3].argmax(axis=-1)).astype("int32")
    head = kl.Conv2D(CLASSES, 3, padding="same", activation="softmax")
    loss = losses.SparseCategoricalCrossentropy(ignore_class=255)
    return compiled(keras.Sequential([keras.Input((6, 6, 3)), head]), loss), (x, y)


@program()
def huge_delta() -> Any:
    return Own(small(1), losses.Huber(delta=50.0)), numbers()


# Calls.


class TwoTensors(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = kl.Dense(8, activation="relu"), kl.Dense(1)
        self.drop = kl.Dropout(0.1)

    def call(self, x: Any, context: Any, mode: str = "plain", training: Any = None) -> Any:
        assert mode in ("sum", "product")
        mixed = x + context if mode == "sum" else x * context
        return self.head(self.drop(self.hidden(mixed), training=training))


@program()
def two_tensors() -> Any:
    def forward(step: Any, batch: Any, training: bool = True) -> Any:
        (x, context), y = batch
        return squares(y, step.model(x, context, mode="sum", training=training))

    x, y = numbers()
    return Step(TwoTensors(), forward), ((x, x[::-1].copy()), y)


@program()
def all_by_keyword() -> Any:
    def forward(step: Any, batch: Any, training: bool = True) -> Any:
        (x, context), y = batch
        p = step.model(x=x, context=context, mode="product", training=training)
        return squares(y, p)

    x, y = numbers()
    return Step(TwoTensors(), forward), ((x, np.ones_like(x)), y)


class Nested(keras.Model):
    """Takes a dict that holds a tuple, and returns a dict with `None` in it."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = kl.Dense(4, activation="tanh"), kl.Dense(4, activation="tanh")
        self.head = kl.Dense(1)

    def call(self, given: Any) -> Any:
        one, two = given["pair"]
        hidden = self.left(one) + self.right(two)
        return {"value": self.head(hidden), "hidden": (hidden, None), "nothing": None}


@program()
def nested_in_and_out() -> Any:
    def forward(step: Any, batch: Any, training: bool = True) -> Any:
        given, y = batch
        return squares(y, step.model(given, training=training)["value"])

    x, y = numbers()
    return Step(Nested(), forward), batches({"pair": (x, x * 2)}, y)


class Table(keras.Model):
    """Has no inputs: rows to be learned."""

    def build(self, shape: Any = None) -> None:
        self.rows = self.add_weight(shape=(1, FEATURES), initializer="normal", name="rows")

    def call(self, nothing: Any = None) -> Any:
        return ops.convert_to_tensor(self.rows)


@program()
def no_inputs() -> Any:
    def forward(step: Any, batch: Any, training: bool = True) -> Any:
        return ops.mean(ops.square(batch - step.model()), axis=-1)

    table = Table()
    table.build()
    return Step(table, forward), inputs()


@program()
def two_outputs() -> Any:
    entry = keras.Input((FEATURES,))
    hidden = kl.Dense(8, activation="relu")(entry)
    network = keras.Model(entry, {"one": kl.Dense(1)(hidden), "two": kl.Dense(CLASSES)(hidden)})
    x, y = numbers()
    loss = {"one": "mse", "two": of_classes()}
    return supervised(network, loss), (x, {"one": y, "two": classes()[1]})


@program()
def shared_layers() -> Any:
    left, right, encoder = keras.Input((FEATURES,)), keras.Input((FEATURES,)), kl.Dense(4)
    gap = kl.Subtract()([encoder(left), encoder(right)])
    network = keras.Model([left, right], kl.Dense(1)(gap))
    x, y = numbers()
    return supervised(network, "mse"), ((x, x[::-1].copy()), y)


@program()
def unbuilt_sequential() -> Any:
    return supervised(keras.Sequential([kl.Dense(8, activation="relu"), kl.Dense(1)]), "mse"), (
        numbers()
    )


# Masks and words.


@program()
def masked_recurrence() -> Any:
    ids, _ = words()
    layers = [kl.Embedding(9, 4, mask_zero=True), kl.LSTM(4), kl.Dense(1)]
    network = keras.Sequential([keras.Input((6,), dtype="int32"), *layers])
    return supervised(network, "mse"), (ids, np.count_nonzero(ids, axis=1)[:, None] / 6.0)


class Reads(kl.Layer):
    """Needs the mask that its inputs carry."""

    def __init__(self) -> None:
        super().__init__()
        self.supports_masking = True
        self.dense = kl.Dense(1)

    def call(self, x: Any, mask: Any = None) -> Any:
        assert mask is not None
        kept = ops.cast(mask, x.dtype)[..., None]
        return self.dense(ops.sum(x * kept, axis=1) / ops.sum(kept, axis=1))


@program()
def masks_between_layers() -> Any:
    class Both(pg.Step):
        def __init__(self) -> None:
            self.embedding, self.reads = kl.Embedding(9, 4, mask_zero=True), Reads()
            self.optimizer = adam()

        def train_step(self, batch: Any) -> dict[str, Any]:
            ids, y = batch

            def objective() -> Any:
                return squares(y, self.reads(self.embedding(ids)))

            weights = [self.embedding, self.reads]
            layers = [v for layer in weights for v in layer.trainable_variables]
            return {"loss": self.minimize(objective, self.optimizer, layers)}

    ids, _ = words()
    step = Both()
    step.embedding.build((None, 6))
    step.reads.dense.build((None, 4))
    return step, (ids, np.count_nonzero(ids, axis=1)[:, None].astype("float32") / 6)


@program()
def ids_as_numbers() -> Any:
    ids, _ = words()
    layers = [kl.Embedding(9, 4, mask_zero=True), kl.GlobalAveragePooling1D(), kl.Dense(1)]
    network = keras.Sequential([keras.Input((6,)), *layers])
    y = np.count_nonzero(ids, axis=1)[:, None] / 6.0
    return supervised(network, "mse"), (ids.astype("float32"), y)


@program()
def ids_between_numbers() -> Any:
    ids, _ = words()  # Keras truncates them; no other number need be one
    forward = lambda s, b, t=True: squares(b[1], s.model(b[0] + 0.5, training=t))  # noqa: E731
    layers = [kl.Embedding(9, 4), kl.GlobalAveragePooling1D(), kl.Dense(1)]
    network = keras.Sequential([keras.Input((6,)), *layers])
    return Step(network, forward), (ids.astype("float32"), np.float32(ids > 0).mean(1)[:, None])


# Data.


@program()
def of_float64() -> Any:
    x, y = numbers()
    return supervised(small(1), "mse"), (x.astype("float64"), y.astype("float64"))


@program("tensorflow", "jax")
def of_bfloat16() -> Any:
    import ml_dtypes

    x, y = (array.astype(ml_dtypes.bfloat16) for array in numbers())
    loss = lambda y, p: squares(ops.cast(y, "float32"), p)  # noqa: E731
    return Own(small(1), loss), batches(x, y)


@program()
def of_bytes() -> Any:
    x = np.random.default_rng(0).integers(0, 256, size=(ROWS, 4, 4, 3)).astype("uint8")
    y = (x.mean(axis=(1, 2, 3)) > 127).astype("uint8")
    layers = [kl.Rescaling(1 / 255), kl.Flatten(), kl.Dense(1)]
    loss = losses.BinaryCrossentropy(from_logits=True)
    return supervised(keras.Sequential([keras.Input((4, 4, 3)), *layers]), loss), (x, y)


@program()
def of_complex_numbers() -> Any:
    def forward(step: Any, batch: Any, training: bool = True) -> Any:
        x, y = batch
        parts = ops.concatenate([ops.real(x), ops.imag(x)], axis=-1)
        return squares(ops.real(y), step.model(parts, training=training))

    x, y = numbers()
    return Step(keras.Sequential([kl.Dense(1)]), forward), (
        (x + 1j * x[::-1]).astype("complex64"),
        y.astype("complex64"),
    )


@program()
def labels_of_rank_0() -> Any:
    x, y = numbers()
    forward = lambda s, b, t=True: ops.square(ops.mean(s.model(b[0], training=t)) - b[1])  # noqa: E731
    data = [(part, np.float32(label.mean())) for part, label in batches(x, y)]
    return Step(small(1), forward), data


@program()
def labels_of_rank_1() -> Any:
    x, y = numbers()
    return supervised(small(1), "mse"), (x, y[:, 0])


@program()
def labels_of_rank_3() -> Any:
    x = np.random.default_rng(0).normal(size=(ROWS, 3, FEATURES)).astype("float32")
    return supervised(keras.Sequential([kl.Dense(2)]), "mae"), (x, x[..., :2] * 0.5)


@program()
def batches_of_one() -> Any:
    return supervised(small(1), "mse"), numbers(), {"batch_size": 1}


@program()
def an_empty_batch() -> Any:
    x, y = numbers()
    return Own(small(1), squares), [*batches(x, y), (x[:0], y[:0])]


@program()
def without_labels() -> Any:
    forward = lambda s, x, t=True: ops.mean(ops.square(x - s.model(x, training=t)), axis=-1)  # noqa: E731
    return Step(model(kl.Dense(3, activation="tanh"), kl.Dense(FEATURES)), forward), inputs()


@program()
def batches_of_two_structures() -> Any:
    class TakingTurns(pg.Step):
        """Trains an actor by some batches and a critic by others, as in PPO."""

        def __init__(self) -> None:
            self.actor, self.critic = small(1), small(1)
            self.actor_optimizer, self.critic_optimizer = adam(1e-3), adam(1e-2)

        def train_step(self, batch: Any) -> dict[str, Any]:
            if "gain" in batch:
                y, network, optimizer = batch["gain"], self.actor, self.actor_optimizer
            else:
                y, network, optimizer = batch["value"], self.critic, self.critic_optimizer
            loss = lambda: squares(y, network(batch["x"], training=True))  # noqa: E731
            return {"loss": self.minimize(loss, optimizer, network)}

    x, y = numbers()
    turns = zip(batches(x, y), batches(x, 3 * y - 1), strict=True)
    data = [({"x": a[0], "gain": a[1]}, {"x": b[0], "value": b[1]}) for a, b in turns]
    return TakingTurns(), [batch for pair in data for batch in pair]


@program()
def a_test_step_that_adapts() -> Any:
    class Adapts(Own):
        """Takes a step on the labels before it measures, as one-shot learning does."""

        def test_step(self, batch: Any) -> dict[str, Any]:
            x, y = batch
            adapt = lambda: squares(y, self.model(x, training=True))  # noqa: E731
            self.minimize(adapt, self.optimizer, self.model)
            return super().test_step(batch)

    return Adapts(small(1), squares, metrics=[keras.metrics.MeanAbsoluteError()]), numbers()


# Of one framework.


def text() -> tuple[np.ndarray, np.ndarray]:
    names = np.array(["good film", "bad film", "a good one", "a bad one"] * ROWS)
    return names, np.array([[1.0], [0.0]] * (2 * ROWS), "float32")


@program("tensorflow")
def strings_in_the_model() -> Any:
    x, y = text()
    reader = kl.TextVectorization(10, output_sequence_length=3)
    reader.adapt(x)
    layers = [reader, kl.Embedding(10, 4), kl.GlobalAveragePooling1D(), kl.Dense(1)]
    network = keras.Sequential([keras.Input((), dtype="string"), *layers])
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(ROWS)
    step = supervised(network, losses.BinaryCrossentropy(from_logits=True))
    return step, data, {"validation": data}


@program("tensorflow")
def strings_in_arrays() -> Any:
    x, y = text()
    reader = kl.TextVectorization(10, output_sequence_length=3)
    reader.adapt(x)
    layers = [reader, kl.Embedding(10, 4), kl.GlobalAveragePooling1D(), kl.Dense(1)]
    network = keras.Sequential([keras.Input((), dtype="string"), *layers])
    network.compile(
        adam(),
        losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0)],
    )
    return network, (x, y)


@program("tensorflow")
def string_labels() -> Any:
    import tensorflow as tf

    names = np.array(["cat", "dog", "owl"])

    def forward(step: Any, batch: Any, training: bool = True) -> Any:
        x, y = batch
        p = step.model(x, training=training)
        return of_classes(reduction=None)(step.lookup(y), p)

    x, y = classes()
    lookup = kl.StringLookup(vocabulary=list(names), num_oov_indices=0)
    data = tf.data.Dataset.from_tensor_slices((x, names[y])).batch(ROWS)
    return Step(small(CLASSES), forward, lookup=lookup), data


@program("tensorflow")
def strings_in_the_pipeline() -> Any:
    import tensorflow as tf

    x, y = text()
    reader = kl.TextVectorization(10, output_sequence_length=3)
    reader.adapt(x)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(ROWS).map(lambda x, y: (reader(x), y))
    layers = [kl.Embedding(10, 4), kl.GlobalAveragePooling1D(), kl.Dense(1)]
    loss = losses.BinaryCrossentropy(from_logits=True)
    return supervised(keras.Sequential(layers), loss), data


@program("tensorflow")
def ragged_batches() -> Any:
    import tensorflow as tf

    def forward(step: Any, batch: Any, training: bool = True) -> Any:
        ids, y = batch
        return squares(y, step.model(ids.to_tensor(shape=(None, 6)), training=training))

    ids, _ = words()
    ragged = tf.RaggedTensor.from_tensor(ids, padding=0)
    y = np.count_nonzero(ids, axis=1)[:, None].astype("float32") / 6
    layers = [kl.Embedding(9, 4, mask_zero=True), kl.GlobalAveragePooling1D(), kl.Dense(1)]
    data = tf.data.Dataset.from_tensor_slices((ragged, y)).batch(ROWS)
    return Step(keras.Sequential(layers), forward), data


@program("tensorflow")
def sparse_batches() -> Any:
    import tensorflow as tf

    def forward(step: Any, batch: Any, training: bool = True) -> Any:
        x, y = batch
        return squares(y, step.model(tf.sparse.to_dense(x), training=training))

    x, y = numbers()
    held = tf.sparse.from_dense(np.where(np.abs(x) > 0.7, x, 0).astype("float32"))
    data = tf.data.Dataset.from_tensor_slices((held, y)).batch(ROWS)
    return Step(keras.Sequential([kl.Dense(1)]), forward), data


@program("jax")
def stateless_template() -> Any:
    import jax

    class Template(keras.Model):
        """The `train_step` of Keras's guide for JAX."""

        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.head = kl.Dense(8, activation="relu"), kl.Dense(1)

        def call(self, x: Any, training: Any = None) -> Any:
            return self.head(self.hidden(x))

        def loss_and_updates(self, trainable: Any, others: Any, x: Any, y: Any) -> Any:
            y_pred, others = self.stateless_call(trainable, others, x, training=True)
            return self.compute_loss(x, y, y_pred), (y_pred, others)

        def train_step(self, state: Any, data: Any) -> Any:
            trainable, others, slots, metrics = state
            x, y = data
            differentiate = jax.value_and_grad(self.loss_and_updates, has_aux=True)
            (loss, (_, others)), gradients = differentiate(trainable, others, x, y)
            trainable, slots = self.optimizer.stateless_apply(slots, gradients, trainable)
            return {"loss": loss}, (trainable, others, slots, metrics)

    network = Template()
    network(inputs())
    return compiled(network, "mse"), numbers()
