"""Why steps that draw are seldom planned with XLA on TensorFlow: microseconds of one draw.

A draw has a key, computed from its seed. XLA joins that computation to the loop over the numbers,
and repeats it for each of them. A barrier between the two shows what the draw costs without that,
and the graph's own kernel what it costs there.

    python -m benchmarks.draws_in_xla
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Any

from benchmarks import options
from benchmarks.timing import measured_in_turn

SHAPE = (32, 128)
DRAWS = 100


def parser() -> argparse.ArgumentParser:
    made = options.parser(__doc__)
    made.add_argument("--rounds", type=int, default=9)
    return made


def main() -> None:
    chosen = options.parse(parser())
    for name, micros in measure(chosen).items():
        print(f"{name}: {min(micros):.1f} (least of {len(micros)})")


def measure(chosen: argparse.Namespace) -> dict[str, list[float]]:
    """Return microseconds of processor time that each way to draw takes, in each round."""
    import tensorflow as tf
    from tensorflow.compiler.tf2xla.python import xla

    def number(seed: Any) -> Any:
        return tf.fill(SHAPE, tf.cast(seed[0], "float32"))

    def uniform(seed: Any) -> Any:
        return tf.random.stateless_uniform(SHAPE, seed)

    def behind_a_barrier(seed: Any) -> Any:
        made = tf.raw_ops.StatelessRandomGetKeyCounter(seed=tf.cast(seed, tf.int64))
        key, counter = xla.optimization_barrier(made.key, made.counter)
        return tf.raw_ops.StatelessRandomUniformV2(shape=SHAPE, key=key, counter=counter, alg=1)

    def many(draw: Any) -> Any:
        total = tf.zeros(SHAPE)
        for number in tf.range(DRAWS):
            total += draw(tf.stack([number, 7]))
        return total

    ways = {
        "nothing drawn, XLA": (number, True),
        "graph": (uniform, False),
        "XLA": (uniform, True),
        "XLA, the key behind a barrier": (behind_a_barrier, True),
    }
    runs = {
        name: partial(_microseconds, tf.function(partial(many, draw), jit_compile=compiles))
        for name, (draw, compiles) in ways.items()
    }
    measured_in_turn(runs, 1)  # compiles
    return measured_in_turn(runs, 2 if chosen.quick else chosen.rounds)


def _microseconds(run: Any) -> float:
    began = time.process_time()
    run().numpy()
    return (time.process_time() - began) / DRAWS * 1e6


if __name__ == "__main__":
    main()
