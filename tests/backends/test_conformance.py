"""The same Steps on TensorFlow, JAX and torch: the same losses, logs and weights.

Each framework runs the whole table in a process of its own, one after another. Both kinds of mixed
precision run on the CPU on all three.
"""

import fcntl
import functools
import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import keras
import pytest

from tests.backends.problems import PROBLEMS, Problem
from tests.backends.run_problem import DEVICES, FRAMEWORKS, PLANTED_ON
from tests.backends.trajectories import (
    Distance,
    Results,
    Trajectory,
    are_identical,
    distance,
    without_rates,
)

ROOT = Path(__file__).parents[2]
INSTALLED = [name for name in FRAMEWORKS if importlib.util.find_spec(name)]
TIMEOUT_SECS = 900

RANDOM = [name for name, problem in PROBLEMS.items() if problem.is_random]
COMPARED = [name for name in PROBLEMS if name not in RANDOM]
PLANTED = [(PLANTED_ON, name, bug) for name, problem in PROBLEMS.items() for bug in problem.planted]
PLANTED += [(framework, name, "learning rate") for framework in FRAMEWORKS for name in COMPARED]

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != INSTALLED[0],
        reason=f"frameworks are compared once, where {INSTALLED[0]} runs",
    ),
]


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """Return a function that gives what a framework found; its process runs at the first call.

    The workers of pytest-xdist share what it found.
    """
    is_shared = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if is_shared else base) / "conformance"
    folder.mkdir(exist_ok=True)

    @functools.cache
    def results_of(framework: str) -> Results:
        if framework not in INSTALLED:
            pytest.skip(f"{framework} is not installed")
        path = folder / f"{framework}.npz"
        with open(folder / f"{framework}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                find(framework, path)
        return Results.load(path)

    def find(framework: str, path: Path) -> None:
        environment = {
            **os.environ,
            "KERAS_BACKEND": framework,
            "CUDA_VISIBLE_DEVICES": "",
            "JAX_PLATFORMS": "cpu",
            "OMP_NUM_THREADS": "1",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={max(DEVICES.values())}",
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.backends.run_problem", str(path)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECS,
        )
        assert done.returncode == 0, done.stderr[-4000:]

    return results_of


def exceeded(problem: Problem, ours: Trajectory, theirs: Trajectory) -> dict[str, str]:
    """Return the tolerances that are exceeded, and where most."""
    found: Distance = distance(ours, theirs)
    return {
        name: found.places[name]
        for name in ("first", "later", "weights")
        if not getattr(found, name) <= getattr(problem.tolerance, name)
    }


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize(("one", "other"), list(combinations(FRAMEWORKS, 2)))
def test_two_frameworks_train_alike(results, name, one, other):
    ours, theirs = (results(framework).trajectories[name]["ours"] for framework in (one, other))

    assert exceeded(PROBLEMS[name], ours, theirs) == {}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_blocks_of_steps_train_as_single_ones_do(results, name, framework):
    runs = results(framework).trajectories[name]
    ours = replace(runs["ours"], steps={})  # of single steps nothing is recorded in blocks

    assert exceeded(PROBLEMS[name], ours, runs["in blocks"]) == {}


@pytest.mark.parametrize("name", PROBLEMS)
def test_several_devices_of_jax_train_as_one(results, name):
    runs = results("jax").trajectories[name]  # random ones too: the masks are the same

    assert exceeded(PROBLEMS[name], runs["ours"], runs["on several devices"]) == {}


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_step_with_random_draws_repeats_itself_bit_for_bit(results, name, framework):
    runs = results(framework).trajectories[name]

    assert are_identical(runs["ours"], runs["again"])


@pytest.mark.parametrize(("framework", "name", "bug"), PLANTED)
def test_a_planted_bug_is_seen(results, framework, name, bug):
    runs = results(framework).trajectories[name]
    if bug not in runs:
        pytest.skip("a schedule gives the learning rate")
    ours, planted = without_rates(runs["ours"]), without_rates(runs[bug])

    if PROBLEMS[name].is_random:
        assert not are_identical(ours, planted)
    else:
        assert exceeded(PROBLEMS[name], ours, planted) != {}


@pytest.mark.parametrize(
    ("name", "bug", "seen_by"),
    [
        ("two outputs", "loss weight", {"first", "later", "weights"}),
        ("schedule, clipping and decay", "clipping norm", {"later", "weights"}),
        ("classifier", "mean of batch means", {"later"}),
        ("averaged weights", "momentum of the average", {"weights"}),
    ],
)
def test_each_tolerance_sees_what_it_is_there_for(results, name, bug, seen_by):
    runs = results(PLANTED_ON).trajectories[name]

    assert set(exceeded(PROBLEMS[name], runs["ours"], runs[bug])) == seen_by


def test_no_training_is_longer_than_it_needs_to_be(results):
    longest = 50
    lengths = {
        name: len(values)
        for name, runs in results(INSTALLED[0]).trajectories.items()
        for values in runs["ours"].steps.values()
    }

    assert lengths.keys() == PROBLEMS.keys()
    assert all(5 < length <= longest for length in lengths.values())
