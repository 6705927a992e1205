"""Steps on two replicas: Perigee beside the loop that one writes for `tf.distribute` by hand.

Both train the same dense model with Adam on the same batches, on two logical CPUs, in turn.
The loop by hand is that of TensorFlow's own tutorial: a compiled function for each step, over
`experimental_distribute_dataset`.

    python -m benchmarks.replicas --backend tensorflow
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks import options
from benchmarks.facts import facts, write
from benchmarks.timing import in_turn, median_interval, paired_ratios

REPLICAS, ROWS, BATCH_SIZE, CLASSES = 2, 6_400, 32, 10


def parser() -> argparse.ArgumentParser:
    made = options.parser(__doc__)
    made.add_argument("--rounds", type=int, default=15)
    return made


def main() -> None:
    chosen = options.parse(parser())
    result = measure(chosen)
    low, high = result["interval"]
    print(f"by hand   {result['by_hand']} us a step")
    print(f"Perigee   {result['perigee']} us a step")
    print(f"ratio {result['ratio']} ({low} to {high}), round by round")
    write(result, "replicas-tensorflow", chosen.out)


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Train in turn, and return what the report needs of it."""
    import keras
    import numpy as np
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * REPLICAS
    )
    keras.utils.set_random_seed(0)
    rows = 8 * BATCH_SIZE if chosen.quick else ROWS
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 64)).astype("float32")
    y = random.integers(CLASSES, size=rows).astype("int32")
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH_SIZE).prefetch(8)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(REPLICAS)])
    runs = {
        "by hand": _by_hand(strategy, data),
        "Perigee": _with_perigee(strategy, data),
        "Perigee, arrays": _with_perigee(strategy, (x, y)),
    }
    for run in runs.values():
        run()  # compiles
    seconds = in_turn(runs, 2 if chosen.quick else chosen.rounds)
    steps = rows // BATCH_SIZE
    ratios = paired_ratios(seconds["Perigee"], seconds["by hand"])
    medians = {key: float(np.median(times)) / steps * 1e6 for key, times in seconds.items()}
    return {
        "kind": "replicas",
        **facts(chosen.backend),
        "replicas": REPLICAS,
        "batch_size": BATCH_SIZE,
        "rounds": len(ratios),
        "by_hand": round(medians["by hand"]),
        "perigee": round(medians["Perigee"]),
        "perigee_arrays": round(medians["Perigee, arrays"]),
        "ratio": round(float(np.median(ratios)), 3),
        "interval": [round(end, 3) for end in median_interval(ratios)],
    }


def _model() -> Any:
    import keras

    layers = [keras.layers.Dense(64, activation="relu"), keras.layers.Dense(CLASSES)]
    return keras.Sequential([keras.Input((64,)), *layers])


def _by_hand(strategy: Any, data: Any) -> Any:
    import keras
    import tensorflow as tf

    with strategy.scope():
        model, optimizer = _model(), keras.optimizers.Adam(1e-3)
        optimizer.build(model.trainable_variables)
    shares = strategy.experimental_distribute_dataset(data)
    losses = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)

    def step(batch: Any) -> Any:
        images, labels = batch
        with tf.GradientTape() as tape:
            values = losses(labels, model(images, training=True))
            loss = tf.nn.compute_average_loss(values, global_batch_size=BATCH_SIZE)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    @tf.function
    def distributed_step(batch: Any) -> Any:
        return strategy.reduce("SUM", strategy.run(step, args=(batch,)), axis=None)

    def train() -> None:
        total, count = 0.0, 0
        for batch in shares:
            total, count = total + distributed_step(batch), count + 1
        float(total / count)

    return train


def _with_perigee(strategy: Any, data: Any) -> Any:
    import keras

    import perigee as pg

    with strategy.scope():
        step = pg.Supervised(
            _model(),
            keras.optimizers.Adam(1e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    arguments = {"batch_size": BATCH_SIZE, "shuffle": False} if isinstance(data, tuple) else {}
    return lambda: pg.fit(step, data, progress="off", **arguments)


if __name__ == "__main__":
    main()
