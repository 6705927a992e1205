"""What one backend saves, every other one loads, bit by bit."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from perigee.checkpoints import Checkpoints
from tests.checkpoints.zoo import ZOO

ROOT = Path(__file__).parents[2]
TIMEOUT_SECS = 300


def hand_over(backend, target, *source):
    subprocess.run(
        [sys.executable, "-m", "tests.checkpoints.hand_over", str(target), *map(str, source)],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend},
        check=True,
        timeout=TIMEOUT_SECS,
        capture_output=True,
    )


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.only_tensorflow
def test_the_zoo_goes_round_all_backends_without_a_bit_changed(tmp_path):
    route = ["tensorflow", "jax", "torch", "tensorflow"]
    route = [name for name in route if importlib.util.find_spec(name)]
    stations = [tmp_path / f"{number}-{name}" for number, name in enumerate(route)]
    for number, backend in enumerate(route):
        hand_over(backend, stations[number], *stations[max(number - 1, 0) : number])

    for number, name in enumerate(ZOO):
        first, *others = (
            Checkpoints(station / str(number)).load().content.arrays for station in stations
        )
        for other in others:
            assert list(other) == list(first), name
            for key, value in first.items():
                if value.dtype.kind in "iu":  # seeds and counters have other dtypes elsewhere
                    np.testing.assert_array_equal(other[key], value, err_msg=f"{name}: {key}")
                else:
                    assert other[key].dtype == value.dtype, (name, key)
                    assert other[key].tobytes() == value.tobytes(), (name, key)
                assert other[key].shape == value.shape, (name, key)
