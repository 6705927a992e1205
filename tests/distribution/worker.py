"""One of several processes that train together.

    TF_CONFIG=... KERAS_DISTRIBUTION_...=... python -m tests.distribution.worker FOLDER WHAT...

Each WHAT is a function of `trainings`, and all of them run in one process: a framework takes
seconds to import, and processes take as long to find each other.
"""

import json
import os
import sys
import time
from pathlib import Path


def main(folder: Path, names: list[str]) -> None:
    """Find the others, train, and write what came of it."""
    is_alone = "KERAS_DISTRIBUTION_NUM_PROCESSES" not in os.environ
    place = {} if is_alone else (_on_jax() if _is_jax() else _on_tensorflow())
    from tests.distribution import trainings

    here = trainings.Place(folder, **place)
    for name in names:
        began = time.perf_counter()
        found = getattr(trainings, name)(here)
        print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)
        (folder / here.file(name)).write_text(json.dumps(found), encoding="utf-8")


def _is_jax() -> bool:
    return os.environ["KERAS_BACKEND"] == "jax"


def _on_tensorflow() -> dict:
    # The strategy must be made before TensorFlow has done anything.
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    resolver = strategy.cluster_resolver
    processes = resolver.cluster_spec().num_tasks("worker")
    return {"process": resolver.task_id, "processes": processes, "strategy": strategy}


def _on_jax() -> dict:
    import jax
    import keras

    keras.distribution.initialize()
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    return {"process": jax.process_index(), "processes": jax.process_count()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
