"""A training that is killed and started again ends bit for bit like one that was never killed."""

import itertools
import os
import sys
from pathlib import Path

import keras
import pytest

from tests.reliability.processes import run
from tests.reliability.trainings import (
    EPOCH_BOUNDARY,
    FIRST_STEP,
    IN_VALIDATION,
    KILLS,
    LAST_BATCH,
    MID_EPOCH,
    Case,
    train,
)

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are forked"),
]

BACKEND = keras.backend.backend()
# Each kind of data and way to run at least once, with the instants at which one process after the
# other is killed; `benchmarks/reliability/resume.py` has them all, each on its own.
COVERED = {
    Case(): [FIRST_STEP, IN_VALIDATION, MID_EPOCH, LAST_BATCH, EPOCH_BOUNDARY],
    Case("list", optimizers="one"): [EPOCH_BOUNDARY, IN_VALIDATION],
    Case("generator", mode="eager", accumulate=2, optimizers="one"): [LAST_BATCH],
    Case("pydataset", accumulate=2, optimizers="one"): [MID_EPOCH],
    Case("drawn"): [MID_EPOCH],
}
if BACKEND == "tensorflow":
    COVERED |= {
        Case(mode="xla", steps_per_call=4, nonfinite="skip"): [MID_EPOCH],
        Case("tf.data"): [MID_EPOCH, LAST_BATCH],
        Case("tf.data-by-index"): [MID_EPOCH],
    }
else:  # instants are the same on every framework, so one has them all
    COVERED |= {Case(): [MID_EPOCH], Case(steps_per_call=4, nonfinite="skip"): [MID_EPOCH]}
if BACKEND == "torch":
    COVERED |= {Case("torch"): [MID_EPOCH, EPOCH_BOUNDARY]}


def test_processes_are_forked_from_one_that_has_imported_all_and_started_nothing(tmp_path):
    parent = run(tmp_path, os.getppid).returned()

    threads = os.listdir(f"/proc/{parent}/task")
    library = {"tensorflow": "tensorflow", "jax": "jaxlib", "torch": "libtorch"}[BACKEND]

    assert len(threads) == 1
    assert library in Path(f"/proc/{parent}/maps").read_text()


OF_NO_FRAMEWORK = {"list", "generator", "drawn", "pydataset"}
"""Kinds of data that are the same everywhere."""


QUICK = [Case(), Case("drawn"), Case("tf.data")]


def covered(case, kills):
    """Return a case, with its marks."""
    marks = [] if case in QUICK else [pytest.mark.slow]
    marks += [pytest.mark.once] if case.data in OF_NO_FRAMEWORK else []
    marks += [pytest.mark.sample] if case == Case("drawn") else []
    return pytest.param(case, kills, marks=marks, id=str(case))


@pytest.mark.only_tensorflow
def test_every_instant_is_covered():
    assert set(itertools.chain(*COVERED.values())) == set(KILLS)


@pytest.mark.parametrize("case, kills", [covered(*item) for item in COVERED.items()])
def test_a_training_killed_again_and_again_goes_on_exactly(tmp_path, case, kills):
    path = str(tmp_path / "run")
    for kill in kills:
        assert run(tmp_path, train, path, case, kill).was_killed(), kill

    ended = run(tmp_path, train, path, case).returned()

    assert ended == run(tmp_path, train, str(tmp_path / "straight"), case).returned()
