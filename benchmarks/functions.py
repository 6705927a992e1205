"""What functions cost as a Step: against the same Step as a class, and against their own loop.

One model, one raw tape, and three ways of training with it, from arrays of the same rows: the
functions given to `FunctionStep`; a class with the same code; and the loop that a tutorial writes
around the functions, which calls a `tf.function` once a batch of `tf.data`. Perigee runs both Steps
in blocks of the same size.

    python -m benchmarks.functions --backend tensorflow
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks import options
from benchmarks.facts import facts, write
from benchmarks.timing import in_turn, median_interval, paired_ratios

BATCH_SIZE = 32
STEPS_PER_CALL = 256
EPOCHS = 2
"""Epochs of a round, each of which shuffles, resets its metric and reads it."""
LIMITS = {"a class": 1.03, "their own loop": 0.30}
"""What the upper end of the interval is to be at most, against each of the others."""


def parser() -> argparse.ArgumentParser:
    made = options.parser(__doc__)
    made.add_argument("--rounds", type=int, default=81)
    return made


def main() -> None:
    chosen = options.parse(parser())
    if chosen.backend != "tensorflow":
        raise SystemExit("This is about the loops of TensorFlow's tutorials.")
    result = measure(chosen)
    ours, *others = result["runs"]
    for run in result["runs"]:
        print(f"{run['name']}: {statistics.median(run['microseconds']):.1f} us a step")
    for run in others:
        ratios = paired_ratios(ours["microseconds"], run["microseconds"]).tolist()
        low, high = median_interval(ratios)
        print(
            f"{ours['name']} / {run['name']}: {statistics.median(ratios):.3f} "
            f"({low:.3f} to {high:.3f}), at most {LIMITS[run['name']]}"
        )
    write(result, "functions-tensorflow", chosen.out)


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Train in each way in turn, and return what the report needs of it."""
    import keras
    import tensorflow as tf

    import perigee as pg
    from benchmarks.contestants import steps_an_epoch
    from benchmarks.contestants.tensorflow_loops import dataset
    from benchmarks.workloads.classification import Dense

    tf.get_logger().setLevel("ERROR")
    keras.utils.set_random_seed(0)
    rounds, epochs = (2, 1) if chosen.quick else (chosen.rounds, EPOCHS)
    workload = Dense()
    if chosen.quick:
        workload.rows = 4 * BATCH_SIZE
    images, labels = workload.data()
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def functions() -> tuple[Callable[[Any, Any], Any], keras.Metric]:
        """Return what a tutorial writes: a compiled function, and the metric that it updates."""
        model, optimizer = workload.model(), workload.optimizer()
        accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

        @tf.function
        def train_step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                logits = model(x, training=True)
                loss = loss_fn(y, logits)
            gradients = tape.gradient(loss, model.trainable_weights)
            optimizer.apply_gradients(zip(gradients, model.trainable_weights, strict=True))
            accuracy.update_state(y, logits)
            return loss

        return train_step, accuracy

    class Classify(pg.Step):
        def __init__(self) -> None:
            self.model, self.optimizer = workload.model(), workload.optimizer()
            self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

        def train_step(self, batch: Any) -> dict[str, Any]:
            x, y = batch
            with tf.GradientTape() as tape:
                logits = self.model(x, training=True)
                loss = loss_fn(y, logits)
            gradients = tape.gradient(loss, self.model.trainable_weights)
            self.optimizer.apply_gradients(
                zip(gradients, self.model.trainable_weights, strict=True)
            )
            self.accuracy.update_state(y, logits)
            return {"loss": loss}

    def fitted(step: pg.Step) -> Callable[[], object]:
        return lambda: pg.fit(
            step,
            (images, labels),
            epochs=epochs,
            batch_size=BATCH_SIZE,
            execution=pg.Execution("graph", STEPS_PER_CALL),
            progress="off",
        )

    by_hand, accuracy = functions()
    batches = dataset(workload, BATCH_SIZE)

    def loop() -> float:
        for _ in range(epochs):
            accuracy.reset_state()
            for x, y in batches:
                by_hand(x, y)
        return float(accuracy.result())

    runs = {
        "functions": fitted(pg.FunctionStep(functions()[0])),
        "a class": fitted(Classify()),
        "their own loop": loop,
    }
    in_turn(runs, 1 if chosen.quick else 3)  # warm
    seconds = in_turn(runs, rounds)
    steps = steps_an_epoch(workload.rows, BATCH_SIZE) * epochs
    return {
        "kind": "functions",
        **facts(chosen.backend),
        "batch_size": BATCH_SIZE,
        "steps_per_call": STEPS_PER_CALL,
        "rounds": rounds,
        "runs": [
            {
                "name": name,
                "limit": LIMITS.get(name),
                "microseconds": [round(value / steps * 1e6, 2) for value in seconds[name]],
            }
            for name in runs
        ],
    }


if __name__ == "__main__":
    main()
