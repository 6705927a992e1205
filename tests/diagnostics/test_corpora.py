"""The corpora themselves: enough, each of its own name, healthy where they are to be healthy."""

from __future__ import annotations

import warnings

import pytest

import perigee as pg
from tests.diagnostics.healthy import BATCH, PROGRAMS
from tests.diagnostics.mutants import MUTANTS, OPERATORS
from tests.diagnostics.running import differ, outcome
from tests.diagnostics.split import digest, is_held_out

pytestmark = pytest.mark.once  # what is asked here does not depend on the framework

FEWEST_PROGRAMS, FEWEST_MUTANTS = 40, 200
SAMPLE = 24
"""Mutants that are trained here; `make faults` will train them all."""

OPEN = [m for m in MUTANTS.values() if not is_held_out(m.name)]

HEALTHY = [pytest.param(program, id=name) for name, program in PROGRAMS.items()]


def test_there_are_enough_programs_and_mutants():
    assert len(PROGRAMS) >= FEWEST_PROGRAMS
    assert len(MUTANTS) >= FEWEST_MUTANTS


def test_the_split_is_for_ever_the_same():
    assert [is_held_out(name) for name in ("digits", "gan", "counts")] == [False, False, True]


@pytest.mark.parametrize("names", [PROGRAMS, MUTANTS], ids=["programs", "mutants"])
def test_about_a_fifth_is_held_out(names):
    share = sum(map(is_held_out, names)) / len(names)

    assert 0.12 < share < 0.28


def test_held_out_programs_are_not_seen_through_mutants():
    assert [m.name for m in OPEN if is_held_out(m.program.name)] == []


def test_every_operator_makes_a_mutant():
    assert {mutant.operator.name for mutant in MUTANTS.values()} == set(OPERATORS)


def test_every_way_of_training_has_sick_and_healthy_programs():
    for way in ("own", "supervised", "keras"):
        assert any(way in program.traits for program in PROGRAMS.values())
        assert any(way in mutant.program.traits for mutant in OPEN)


@pytest.mark.spread(15)
@pytest.mark.parametrize("program", HEALTHY)
def test_a_healthy_program_trains_without_a_word(program):
    step, data = program.parts.build()
    arguments = {"steps": 1, "batch_size": BATCH, "execution": "eager", "progress": "off"}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="__array__ implementation")
        history = pg.fit(step, data, **arguments)

    assert history.clock.step == 1


@pytest.mark.spread(4)
@pytest.mark.filterwarnings("ignore:UncoveredVariables")  # found already
@pytest.mark.parametrize(
    "mutant",
    sorted(
        (m for m in OPEN if m.operator.changes == "training"),
        key=lambda mutant: digest(mutant.name),
    )[:SAMPLE],
    ids=lambda mutant: mutant.name,
)
def test_a_mutant_trains_something_else(mutant):
    healthy = outcome(mutant.program.parts)

    assert "error" not in healthy
    assert differ(outcome(mutant.parts), healthy)
