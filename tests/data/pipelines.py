"""Pipelines of `tf.data`, and what is drawn from them; as a script, the states of a whole run.

python -m tests.data.pipelines FILE
"""

import base64
import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from perigee.data import TFDatasetFeed

IS_NATIVE = keras.config.backend() == "tensorflow"
STEPS = 14
"""Two whole passes of each of the pipelines that end, ends included, and more."""

PEEKED_EVERY = 3

Dataset = tf.data.Dataset


def _of_files():
    return (
        Dataset.range(4)
        .shuffle(4, seed=1)
        .interleave(lambda i: Dataset.range(5).map(lambda x: x + 10 * i), cycle_length=2)
        .shuffle(6, seed=2)
        .batch(4)
        .prefetch(1)
    )


def _of_arrays():
    arrays = {"x": np.arange(20, dtype="float32").reshape(10, 2), "text": ["é", "b"] * 5}
    dataset = Dataset.from_tensor_slices((arrays, np.arange(10)))
    dataset = dataset.shuffle(10, seed=4).batch(3)
    return dataset.map(lambda x, y: (x, y + 1), num_parallel_calls=2).prefetch(tf.data.AUTOTUNE)


def _by_global_seed():
    tf.random.set_seed(5)
    dataset = Dataset.range(20).shuffle(20).batch(4)
    tf.random.set_seed(None)
    return dataset


def _by_index():
    def nth(i):
        shuffled = tf.random.experimental.index_shuffle(i % 19, [1, i // 19], 18)
        return tf.cast(shuffled, tf.int64)

    return Dataset.range(19 * 20).map(nth).batch(4)


def _from_generator():
    def batches():
        yield from np.random.default_rng(3).normal(size=(4, 2)).astype("float32")

    return Dataset.from_generator(batches, output_signature=tf.TensorSpec((2,), tf.float32))


EXACT = {
    "shuffled": lambda: Dataset.range(20).shuffle(20, seed=3).batch(4).prefetch(2),
    "the same each pass": lambda: (
        Dataset.range(9).shuffle(9, seed=1, reshuffle_each_iteration=False).batch(4)
    ),
    "files": _of_files,
    "arrays": _of_arrays,
    "global seed": _by_global_seed,
    "by index": _by_index,
    "repeated": lambda: Dataset.range(9).shuffle(9, seed=3).repeat(2).batch(4).prefetch(2),
    "endless": lambda: Dataset.range(9).shuffle(9, seed=3).repeat().batch(4),
    "concatenated": lambda: (
        Dataset.range(5)
        .shuffle(5, seed=1)
        .concatenate(Dataset.range(9).shuffle(9, seed=3))
        .batch(4)
    ),
    "cached": lambda: Dataset.range(9).shuffle(9, seed=3).cache().batch(4),
    "shuffled from a cache": lambda: Dataset.range(9).cache().shuffle(9, seed=3).batch(4),
    "random numbers": lambda: (
        Dataset.random(seed=3, rerandomize_each_iteration=True).take(9).batch(2)
    ),
    "mixed": lambda: Dataset.sample_from_datasets(
        [Dataset.range(9).shuffle(9, seed=4), Dataset.range(20, 29)], seed=2
    ).batch(4),
    "used twice": lambda: (
        (shuffled := Dataset.range(9).shuffle(9, seed=4))
        and Dataset.zip(shuffled, shuffled).batch(4)
    ),
    "filtered": lambda: Dataset.range(30).shuffle(30, seed=3).filter(lambda x: x % 2 == 0).batch(4),
}
BY_REPLAY = {
    "a generator": _from_generator,
    "shuffled in a function": lambda: (
        Dataset.range(3).flat_map(lambda i: Dataset.range(5).shuffle(5, seed=4)).batch(4)
    ),
    "random in a function": lambda: Dataset.range(4).map(lambda i: tf.random.uniform([2], seed=3)),
}
if IS_NATIVE:
    EXACT["ragged"] = lambda: (
        Dataset.range(9).shuffle(9, seed=3).map(tf.range).ragged_batch(4).map(lambda x: (x, x * 2))
    )
    EXACT["sparse"] = lambda: Dataset.range(9).shuffle(9, seed=3).batch(4).map(tf.sparse.from_dense)


def plain(batch):
    """Return a batch, or `None`, as text that two equal batches have in common."""
    if batch is None:
        return None

    def values(leaf):
        if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
            return [values(part) for part in tf.nest.flatten(leaf, expand_composites=True)]
        array = np.asarray(leaf)
        return [str(array.dtype), array.tolist()]

    return repr([values(leaf) for leaf in tf.nest.flatten(batch)])


def draw_steps(feed, count):
    return [plain(feed.draw()) for _ in range(count)]


def encoded(value):
    """What JSON does with an array of a state."""
    return {"array": base64.b64encode(value.tobytes()).decode()}


def decoded(value):
    is_array = set(value) == {"array"}
    return np.frombuffer(base64.b64decode(value["array"]), np.uint8) if is_array else value


def whole_run(make):
    """Return a straight run, and its states before each step, taken as they are and after a peek.

    Each state is taken in a run of its own, which must go on as if it had not been.
    """
    straight = draw_steps(TFDatasetFeed(make()), 2 * STEPS)
    states = {}
    for peeks in (False, True):
        for step in range(0, STEPS, PEEKED_EVERY if peeks else 1):
            feed = TFDatasetFeed(make())
            assert draw_steps(feed, step) == straight[:step]
            if peeks:
                feed.peek()
            states[f"{step} peeked" if peeks else str(step)] = feed.state()
            assert draw_steps(feed, STEPS) == straight[step : step + STEPS], step
    return {"straight": straight, "states": states}


if __name__ == "__main__":
    runs = {name: whole_run(make) for name, make in {**EXACT, **BY_REPLAY}.items()}
    Path(sys.argv[1]).write_text(json.dumps(runs, default=encoded), encoding="utf-8")
