"""Who is measured: ways of training one workload for some epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import keras

from benchmarks.contestants._contestant import Contestant as Contestant
from benchmarks.contestants._contestant import steps_an_epoch as steps_an_epoch
from benchmarks.workloads import Workload


def contestants(
    workload: Workload,
    batch_size: int,
    orbit: Path | None = None,
    wanted: Sequence[str] | None = None,
) -> list[Contestant]:
    """Return all but Keras's best setting, which has to be looked for, Perigee on arrays first.

    Args:
        workload: What they train; each trains a copy of its own.
        batch_size: Rows a batch.
        orbit: A folder that holds Orbit, where it is not installed.
        wanted: Keys of those to return; `None` returns all.
    """
    from benchmarks.contestants import keras_fit, perigee_fit

    makers: dict[str, Callable[[Workload, int], Contestant]] = {
        "perigee_arrays": perigee_fit.on_arrays,
        "fit": keras_fit.plain,
    }
    if keras.backend.backend() == "tensorflow":
        from benchmarks.contestants import orbit_trainer, tensorflow_loops

        makers |= {
            "perigee_tf_data": perigee_fit.on_tf_data,
            "by_hand": tensorflow_loops.by_hand,
            "orbit": partial(orbit_trainer.orbit, folder=orbit),
            "stacked": tensorflow_loops.stacked,
            "floor": tensorflow_loops.floor,
        }
    if keras.backend.backend() == "jax":
        from benchmarks.contestants import jax_loops

        makers |= {
            "by_hand": jax_loops.by_hand,
            "scan": jax_loops.scan,
            "floor": jax_loops.floor,
        }
    if keras.backend.backend() == "torch":
        from benchmarks.contestants import torch_loops

        makers["by_hand"] = torch_loops.by_hand
    return [
        make(workload, batch_size) for key, make in makers.items() if not wanted or key in wanted
    ]
