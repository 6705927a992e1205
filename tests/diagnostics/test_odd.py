"""Programs that are right and odd: no rule fails on them, and none speaks of a fault."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._step.losses import computation_of
from perigee.diagnostics import _trials
from tests.diagnostics.odd import PROGRAMS

STEPS = 30


@pytest.fixture
def brief_trials(monkeypatch):
    """Try a few steps only: what is asked here is whether the rules run."""
    monkeypatch.setattr(_trials, "MOST_STEPS", STEPS)


RUNNING = [name for name, (_, on) in PROGRAMS.items() if keras.backend.backend() in on]

TRIED = {
    "unreduced_loss",
    "ignored_class",
    "nested_in_and_out",
    "batches_of_two_structures",
    "ragged_batches",
    "strings_in_the_model",
    "stateless_template",
}
"""Programs that are tried for some steps too."""


def spoken(name, **options):
    make, _ = PROGRAMS[name]
    target, data, more = make()
    report = pg.check(target, data, **options, **more)
    return [str(finding) for finding in report if finding.severity != "hint"]


@pytest.mark.spread(12)
@pytest.mark.parametrize("name", [name for name in RUNNING if name not in TRIED])
def test_no_rule_fails_or_speaks_of_a_fault(name):
    assert spoken(name) == []


@pytest.mark.parametrize("name", [name for name in RUNNING if name in TRIED])
def test_no_trial_fails_or_speaks_of_a_fault(name, brief_trials):
    assert spoken(name, level="full") == []


@pytest.mark.once
def test_a_loss_keeps_all_that_it_was_made_with():
    far = 40.0
    loss = keras.losses.Huber(delta=2 * far, reduction=None)
    true, pred = np.zeros((4, 1), "float32"), np.full((4, 1), far, "float32")

    assert computation_of(loss).mean(true, pred) == pytest.approx(far**2 / 2)
    assert loss.reduction is None
