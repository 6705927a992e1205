"""Microseconds a step: a small dense model on digits, Perigee's loop against others.

All contestants train the same model on the same arrays with Adam, a loss and one metric, in turn,
in one process, so that a slow moment of the machine meets them all. Reported are medians over the
rounds, and the median of the ratios within a round.

    KERAS_BACKEND=tensorflow python benchmarks/dense_digits.py --batch-size 32
    KERAS_BACKEND=jax python benchmarks/dense_digits.py --batch-size 32
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from sklearn.datasets import load_digits

import perigee as pg

REPEATS = 8  # the 1,797 digits this many times over, for epochs of a useful length


class Classifier(pg.Step):
    """The step that is measured."""

    def __init__(self) -> None:
        self.model = model()
        self.optimizer = keras.optimizers.Adam(1e-3)
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def train_step(self, batch: Any) -> dict[str, Any]:
        images, labels = batch

        def objective() -> Any:
            logits = self.model(images, training=True)
            return self.loss(labels, logits), logits

        loss, logits = self.minimize(objective, self.optimizer, self.model)
        self.accuracy.update_state(labels, logits)
        return {"loss": loss}


def model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def compiled(steps_per_execution: int) -> keras.Model:
    other = model()
    other.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        steps_per_execution=steps_per_execution,
    )
    return other


def contestants(x: np.ndarray, y: np.ndarray, batch_size: int) -> dict[str, Callable[[], Any]]:
    """Return, by name, what trains one epoch."""
    step = Classifier()
    found: dict[str, Callable[[], Any]] = {
        "perigee, arrays": lambda: pg.fit(step, (x, y), batch_size=batch_size, progress="off"),
    }
    for steps in (1, 32):
        keras_model = compiled(steps)
        found[f"Keras fit, {steps} steps a call"] = lambda m=keras_model: m.fit(
            x, y, batch_size=batch_size, verbose=0
        )
    if keras.backend.backend() == "tensorflow":
        found |= _tensorflow(x, y, batch_size)
    if keras.backend.backend() == "jax":
        found |= _jax(x, y, batch_size)
    return found


def _tensorflow(x: np.ndarray, y: np.ndarray, batch_size: int) -> dict[str, Callable[[], Any]]:
    import tensorflow as tf

    trained, optimizer = model(), keras.optimizers.Adam(1e-3)
    optimizer.build(trained.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    accuracy = keras.metrics.SparseCategoricalAccuracy()
    mean = keras.metrics.Mean()
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x)).batch(batch_size)
    data = data.prefetch(tf.data.AUTOTUNE)
    step = Classifier()

    def update(images: Any, labels: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            logits = trained(images, training=True)
            loss = loss_of(labels, logits)
        variables = trained.trainable_variables
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        return loss, logits

    @tf.function
    def by_hand(images: Any, labels: Any) -> None:
        loss, logits = update(images, labels)
        mean.update_state(loss)
        accuracy.update_state(labels, logits)

    def hand_loop() -> None:
        mean.reset_state()
        accuracy.reset_state()
        for images, labels in data:
            by_hand(images, labels)
        float(mean.result())

    images, labels = tf.constant(x[:batch_size]), tf.constant(y[:batch_size])
    batches = tf.constant(-(-len(x) // batch_size))

    @tf.function
    def bare(count: Any) -> Any:
        return tf.while_loop(
            lambda i: i < count,
            lambda i: (i + tf.cast(0 * update(images, labels)[0], tf.int32) + 1,),
            [0],
            parallel_iterations=1,
        )

    return {
        "perigee, tf.data": lambda: pg.fit(step, data, progress="off"),
        "hand-written tf.function loop, tf.data": hand_loop,
        "floor: one fixed batch in a graph loop, no data, no metrics": lambda: bare(batches),
    }


def _jax(x: np.ndarray, y: np.ndarray, batch_size: int) -> dict[str, Callable[[], Any]]:
    import jax

    trained, optimizer = model(), keras.optimizers.Adam(1e-3)
    optimizer.build(trained.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    state = [
        [v.value for v in trained.trainable_variables],
        [v.value for v in trained.non_trainable_variables],
        [v.value for v in optimizer.variables],
    ]

    def loss_and_rest(weights: Any, rest: Any, images: Any, labels: Any) -> Any:
        logits, rest = trained.stateless_call(weights, rest, images, training=True)
        return loss_of(labels, logits), rest

    @jax.jit
    def by_hand(state: Any, images: Any, labels: Any) -> Any:
        weights, rest, slots = state
        (loss, rest), gradients = jax.value_and_grad(loss_and_rest, has_aux=True)(
            weights, rest, images, labels
        )
        weights, slots = optimizer.stateless_apply(slots, gradients, weights)
        return loss, [weights, rest, slots]

    def hand_loop() -> None:
        order = np.random.permutation(len(x))
        losses = []
        for start in range(0, len(x), batch_size):
            chosen = order[start : start + batch_size]
            loss, state[:] = by_hand(state, x[chosen], y[chosen])
            losses.append(loss)
        jax.block_until_ready(losses)

    return {"hand-written jitted step, arrays": hand_loop}


def measure(runs: dict[str, Callable[[], Any]], rounds: int, steps: int) -> dict[str, list[float]]:
    """Return microseconds a step of each contestant in each round, after two warm-up epochs."""
    for run in runs.values():
        run()
        run()
    micros: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            micros[name].append((time.perf_counter() - began) / steps * 1e6)
    return micros


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    x = np.tile((images / 16).astype("float32"), (REPEATS, 1))
    y = np.tile(labels.astype("int32"), REPEATS)
    steps = -(-len(x) // options.batch_size)
    micros = measure(contestants(x, y, options.batch_size), options.rounds, steps)
    ours = micros["perigee, arrays"]
    backend = keras.backend.backend()
    print(f"{backend}, batch {options.batch_size}, {options.rounds} rounds of {steps} steps")
    print("| loop | us a step, median | perigee on arrays against it |\n|---|---|---|")
    for name, values in sorted(micros.items(), key=lambda item: statistics.median(item[1])):
        ratio = statistics.median(a / b for a, b in zip(ours, values, strict=True))
        print(f"| {name} | {statistics.median(values):.0f} | {ratio:.2f} |")
    if options.json:
        facts = {
            "backend": backend,
            "keras": keras.__version__,
            "python": platform.python_version(),
        }
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({**facts, "batch_size": options.batch_size, "microseconds": micros}, file)


if __name__ == "__main__":
    main()
