"""A training that is killed and started again ends bit for bit like one that was never killed."""

import os
import sys
from pathlib import Path

import keras
import pytest

from tests.reliability.processes import run
from tests.reliability.trainings import (
    EPOCH_BOUNDARY,
    IN_VALIDATION,
    KILLS,
    LAST_BATCH,
    MID_EPOCH,
    Case,
    train,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")

BACKEND = keras.backend.backend()
# Each kind of data and way to run at least once; `benchmarks/reliability/resume.py` has them all.
COVERED = {
    Case(): KILLS,
    Case(optimizers="one"): [EPOCH_BOUNDARY],
    Case(mode="eager", accumulate=2, optimizers="one"): [LAST_BATCH],
    Case(steps_per_call=1, accumulate=4, optimizers="one"): [IN_VALIDATION],
    Case(steps_per_call=4, nonfinite="skip"): [MID_EPOCH],
    Case("list", optimizers="one"): [IN_VALIDATION],
    Case("pydataset", accumulate=2, optimizers="one"): [MID_EPOCH],
    Case("generator"): [EPOCH_BOUNDARY],
    Case("drawn", steps_per_call=1): [EPOCH_BOUNDARY],
    Case("drawn"): [MID_EPOCH],
}
if BACKEND == "tensorflow":
    COVERED |= {
        Case(mode="xla"): [MID_EPOCH],
        Case("tf.data"): [MID_EPOCH, LAST_BATCH],
        Case("tf.data", steps_per_call=1, accumulate=2, optimizers="one"): [IN_VALIDATION],
        Case("tf.data-by-index"): [MID_EPOCH],
    }
if BACKEND == "torch":
    COVERED |= {Case("torch"): [MID_EPOCH, EPOCH_BOUNDARY]}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Return what a case comes to when nothing happens to it, each trained once."""
    known = {}

    def outcome(case):
        if case not in known:
            folder = tmp_path_factory.mktemp("straight")
            known[case] = run(folder, train, str(folder / "run"), case).returned()
        return known[case]

    return outcome


def test_processes_are_forked_from_one_that_has_imported_all_and_started_nothing(tmp_path):
    parent = run(tmp_path, os.getppid).returned()

    threads = os.listdir(f"/proc/{parent}/task")
    library = {"tensorflow": "tensorflow", "jax": "jaxlib", "torch": "libtorch"}[BACKEND]

    assert len(threads) == 1
    assert library in Path(f"/proc/{parent}/maps").read_text()


def covered(case, kill):
    """Return a case; JAX compiles in each process for long, so most are slow there."""
    is_slow = BACKEND == "jax" and case != Case()
    return pytest.param(case, kill, marks=pytest.mark.slow if is_slow else (), id=f"{case}-{kill}")


@pytest.mark.parametrize(
    "case, kill", [covered(c, k) for c, kills in COVERED.items() for k in kills]
)
def test_a_killed_training_goes_on_exactly(straight, tmp_path, case, kill):
    path = str(tmp_path / "run")
    assert run(tmp_path, train, path, case, kill).was_killed()

    assert run(tmp_path, train, path, case).returned() == straight(case)


def test_a_training_killed_again_and_again_goes_on_exactly(straight, tmp_path):
    path = str(tmp_path / "run")
    for kill in (MID_EPOCH, EPOCH_BOUNDARY, LAST_BATCH):
        assert run(tmp_path, train, path, Case(), kill).code <= 0

    assert run(tmp_path, train, path, Case()).returned() == straight(Case())
