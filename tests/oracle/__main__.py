"""Many trainings against the interpreter; see `--help`.

    python -m tests.oracle --backend tensorflow --count 2000

In float32 what differs by more than 1e-4 is a failure, with `--x64` what differs by 1e-9. That is
for TensorFlow only: Keras on JAX and torch multiplies matrices of float64 in float32.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

PER_DESIGN = 25
"""Trainings that share what is compiled."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=__doc__)
    parser.add_argument("--backend", default="tensorflow", choices=("tensorflow", "jax", "torch"))
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the first design")
    parser.add_argument("--x64", action="store_true", help="in float64")
    given = parser.parse_args()
    if given.x64 and given.backend != "tensorflow":
        parser.error("Keras computes in float64 on TensorFlow only")
    os.environ["KERAS_BACKEND"] = given.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    if given.backend == "jax":
        import jax

        jax.config.update("jax_disable_most_optimizations", True)  # each program runs a few times
    if given.x64:
        keras.config.set_floatx("float64")
    from tests.oracle import drawn

    began, done, undecided, failures = time.monotonic(), 0, 0, 0
    for number in range(given.first, given.first - (-given.count // PER_DESIGN)):
        count = min(PER_DESIGN, given.count - done)
        results = drawn.trainings(given.seed, number, count)
        for index, (design, training, outcome) in enumerate(results):
            found = drawn.compared(design, training, outcome)
            undecided += found is None
            if found:
                failures += 1
                print(
                    f"design {number}, training {index}: {found}\n  {design}\n  {training.course}"
                )
        done += count
        keras.backend.clear_session()
        print(f"{done} trainings, {failures} differ, {time.monotonic() - began:.0f} s", flush=True)
    print(f"{done} trainings: {failures} differ; rounding decides about {undecided}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
