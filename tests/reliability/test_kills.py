"""SIGKILL at random instants of a run, most of them inside a save."""

import sys

import pytest

from perigee.checkpoints import Checkpoints
from tests.reliability import killing
from tests.reliability.killing import Figures, kill_often
from tests.reliability.processes import run

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.only_tensorflow,  # the files are the same everywhere
    pytest.mark.skipif(sys.platform != "linux", reason="processes are forked"),
]
COUNTS = {"anywhere": 8, "in a background save": 8, "in the last save": 8}


def test_kills_leave_a_run_that_goes_on_exactly(tmp_path):
    figures = Figures()

    killed, steps = kill_often(tmp_path, COUNTS, seed=1, figures=figures)

    print(figures)
    assert (figures.unreadable, figures.lost) == (0, 0)
    # How many of those meant to come inside a save do so depends on the machine.
    assert figures.inside >= sum(COUNTS.values()) // 6
    straight = run(tmp_path, killing.train, str(tmp_path / "straight"), steps, 1).returned()
    assert killed == straight
    for name in ("killed", "straight"):
        left = Checkpoints(tmp_path / name / "checkpoints").directory.iterdir()
        assert not [place.name for place in left if place.suffix]
