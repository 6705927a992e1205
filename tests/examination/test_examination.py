"""What the doctor names it still names: a sample, drawn by seed; the whole is `score.py`."""

import json
import random
import warnings
from pathlib import Path

import pytest

from tests.examination import operators
from tests.examination.programs import CATEGORIES, PROGRAMS, examined, programs
from tests.examination.score import RIGHT, first, verdict

OPEN = json.loads(Path(__file__).with_name("open.json").read_text(encoding="utf-8"))
"""Programs of which it does not say what is right, on TensorFlow, and what it says."""
SEED, SAMPLE = 20, 12
ONCE_WRONG = (
    "faulty_modes_and_states/warmup_counted_in_python mended",
    "healthy_loops/byol_on_wine",
    "healthy_loops/q_learning_with_target_net",
)
"""Programs of which something else was once said."""


def drawn():
    """Return the names of as many faulty programs as of right ones, of those that were tuned on."""
    known = [each for each in programs() if each.name not in OPEN and not each.is_second]
    for is_faulty in (True, False):
        names = sorted(p.name for p in known if (p.category is not None) == is_faulty)
        yield from random.Random(SEED).sample(names, SAMPLE)
    yield from ONCE_WRONG


@pytest.mark.only_tensorflow
@pytest.mark.parametrize("name", list(drawn()))
def test_what_is_said_of_a_program_is_right(name):
    program = PROGRAMS[name]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = examined(program)

    assert verdict(program.category, first(report.findings)) == "right", str(report)


def test_every_category_has_programs_and_codes():
    given = {program.category for program in programs()} - {None}

    assert given == CATEGORIES.keys() == RIGHT.keys()


@pytest.mark.only_tensorflow
def test_open_programs_exist():
    known = {program.name for program in programs()}

    assert known >= OPEN.keys()


def test_some_operators_are_apart():
    last = [each for each in operators.OPERATORS.values() if each.is_last]

    assert len(last) >= 10
    assert len(operators.OPERATORS) >= 30
