"""A run that was saved on one framework goes on on another."""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_SECS = 300


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.only_tensorflow
def test_a_run_goes_round_the_frameworks_with_weights_equal_to_the_bit(tmp_path):
    route = ["tensorflow", "jax", "torch", "tensorflow", "jax"]
    route = [name for name in route if importlib.util.find_spec(name)]
    stations = []
    for number, backend in enumerate(route, start=1):
        command = [sys.executable, "-m", "tests.reliability.hand_over"]
        done = subprocess.run(
            [*command, str(tmp_path / "run"), str(number)],
            cwd=ROOT,
            env={**os.environ, "KERAS_BACKEND": backend},
            timeout=TIMEOUT_SECS,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        stations.append(json.loads(done.stdout.splitlines()[-1]))

    for earlier, later in itertools.pairwise(stations):
        assert later["taken"] == earlier["left"]
        assert later["left"] != later["taken"]  # it has trained
        assert later["from"] == earlier["to"]
        assert later["loss"][:-1] == earlier["loss"]
