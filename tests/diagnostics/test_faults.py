"""How well `check` does: what it finds of planted faults, and that it leaves healthy programs be.

`make faults` measures the same with all mutants.
"""

from __future__ import annotations

import pytest

from tests.diagnostics.elsewhere import OPT_OUTS, names, program
from tests.diagnostics.faults import CODES, alarms, verdict
from tests.diagnostics.healthy import PROGRAMS
from tests.diagnostics.mutants import MUTANTS, OPERATORS
from tests.diagnostics.separations import measured
from tests.diagnostics.split import digest, is_held_out

pytestmark = pytest.mark.once

SAMPLE, ALL, WANTED = 12, 40, 0.9
GUARDED = 4
FEWEST_PROGRAMS, MOST_OPT_OUTS = 40, 3


def sample(count):
    """Return one mutant of each operator that is surely found, so many of them."""
    sure = [o.name for o in OPERATORS.values() if o.certainty in ("certain", "low")]
    mutants = [m for m in MUTANTS.values() if not is_held_out(m.name)]
    mutants.sort(key=lambda mutant: digest(mutant.name))
    first = {m.operator.name: m for m in reversed(mutants) if m.operator.rule in CODES}
    chosen = [first[name] for name in sure if name in first]
    return sorted(chosen, key=lambda mutant: digest(mutant.name))[:count]


@pytest.mark.parametrize("count", [SAMPLE, pytest.param(ALL, marks=pytest.mark.slow)])
def test_most_faults_are_found_by_the_right_code(count):
    mutants = sample(count)
    said = {mutant.name: verdict(mutant) for mutant in mutants}

    assert len(mutants) == count
    missed = {name: what for name, what in said.items() if what != "found"}
    assert len(missed) <= (1 - WANTED) * count, missed


@pytest.mark.slow
def test_guards_say_nothing_of_healthy_programs():
    names = sorted((name for name in PROGRAMS if not is_held_out(name)), key=digest)

    assert {name: alarms(PROGRAMS[name].parts) for name in names[:GUARDED]} == {
        name: [] for name in names[:GUARDED]
    }


def test_there_are_enough_healthy_programs():
    assert len(PROGRAMS) + len(names()) >= FEWEST_PROGRAMS
    assert sum(map(len, OPT_OUTS.values())) <= MOST_OPT_OUTS


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_examples_and_problems_get_no_error_and_no_warning(name):
    found = program(name).findings(OPT_OUTS.get(name, ()))

    assert [str(finding) for finding in found if finding.severity != "hint"] == []


@pytest.mark.slow
def test_probes_stand_apart():
    table = measured(most=2)

    assert min(table["label roll"]["correct"]) > 1e-3
    assert max(table["label roll"]["broadcast"]) < 1e-5
    assert all(abs(value - 1) < 1e-3 for value in table["additivity"]["correct"])
    assert min(table["additivity"]["sum"]) > 16
    assert all(abs(value - 1) > 1e-2 for value in table["additivity"]["broadcast"])
    assert all(abs(value - 1) < 1e-3 for value in table["duplicate"]["correct"])
    assert all(abs(value - 2) < 1e-2 for value in table["duplicate"]["sum"])
    assert max(table["mixing"]["correct"]) < 1e-4
    assert min(table["mixing"]["mixing"]) > 1e-3
    assert max(table["score shift"]["wants logits"]) < 1e-6
    assert min(table["score shift"]["wants probabilities"]) > 0.5
