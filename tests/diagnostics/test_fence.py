"""A rule that fails ends nothing: it is told of by its code, and all else goes on."""

from __future__ import annotations

import functools
import warnings
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import losses

import perigee as pg
from perigee import diagnostics
from perigee.diagnostics import (
    _recording,
    _rules,
    _trying,
    coverage,
    fence,
    idle,
    labels,
    lookups,
    outside,
    pairing,
    positions,
    resumption,
    retraces,
    undivided,
)
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._guards import Guards
from perigee.diagnostics.divergence import Divergence
from perigee.diagnostics.origins import Origins
from perigee.diagnostics.stalls import Stall
from perigee.diagnostics.starvation import Starvation
from perigee.diagnostics.stuck import Stuck
from tests.diagnostics.programs import Own, model, numbers, small, sparse, squares, supervised

pytestmark = pytest.mark.usefixtures("fenced")


def planted(rule):
    """Return a rule that fails where this one stands."""

    @functools.wraps(rule)
    def failing(*arguments, **options):
        raise ZeroDivisionError("planted")

    return failing


def code_of(rule):
    return fence.rule_name(rule, _rules.BY_WAY_OF.get(rule))


def sick():
    """Return a program with faults of its data and of its step, of which several rules speak."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(5)
    x, y = numbers()
    x[:, 2] = 3.0
    network = model(kl.Dense(8), kl.Dropout(0.95), kl.Dense(8), kl.Dense(1, activation="sigmoid"))
    metric = keras.metrics.MeanAbsoluteError()
    return Own(network, squares, training=False, metrics=[metric], measures=False), (x, y)


def failures(found):
    return [finding for finding in found if finding.code == "PG001"]


# Of `check`.


@functools.cache
def said_by_each():
    """Return what each rule says of the program, by rule, asked once."""
    step, (x, y) = sick()
    evidence = Evidence(step, [(x, y)], [x, y], None, False)
    evidence.rehearse()
    return {rule: rule(evidence) for rule in (*_rules.OF_DATA, lookups.check, *_rules.OF_STEPS)}


RULES = [*_rules.OF_DATA, *_rules.OF_STEPS]


@pytest.mark.once
@pytest.mark.parametrize("rule", RULES, ids=code_of)
def test_each_rule_may_fail_and_the_others_are_heard(rule, monkeypatch):
    said, name = said_by_each(), code_of(rule)
    failing = planted(rule)
    monkeypatch.setattr(_rules, "BY_WAY_OF", {failing: _rules.BY_WAY_OF.get(rule)})
    rules = [failing if r is rule else functools.partial(lambda r, _: said[r], r) for r in RULES]
    behind = fence.Fence()

    found = _rules._run(rules, None, behind)

    others = [finding for r in RULES if r is not rule for finding in said[r]]
    assert found == list(dict.fromkeys(others))
    (told,) = behind.findings()
    assert (told.code, told.name) == ("PG001", "RuleFailed")
    assert name in told.happened and "ZeroDivisionError: planted" in told.happened
    assert "in failing" in told.items[0]


@pytest.mark.spread(1)
@pytest.mark.parametrize("fails", [0, 1])
def test_half_of_the_rules_fail_and_the_other_half_is_heard(fails, monkeypatch):
    said = [str(finding) for finding in pg.check(*sick())]
    others = _rules.OF_STEPS[1 - fails :: 2]
    heard = {finding.code for rule in others for finding in said_by_each()[rule]}
    mixed = [planted(r) if i % 2 == fails else r for i, r in enumerate(_rules.OF_STEPS)]
    places = {
        new: _rules.BY_WAY_OF.get(old) for new, old in zip(mixed, _rules.OF_STEPS, strict=True)
    }
    monkeypatch.setattr(_rules, "BY_WAY_OF", places)
    monkeypatch.setattr(_rules, "OF_STEPS", mixed)

    report = pg.check(*sick())

    assert heard
    assert heard <= {finding.code for finding in report}
    assert {str(finding) for finding in report if finding.code != "PG001"} <= set(said)
    (told,) = failures(report)
    assert told.severity == "hint"
    assert f"{len(mixed[fails::2])} rules" in told.happened


@pytest.mark.parametrize("rule", [lookups], ids=["lookups"])
def test_rules_that_are_asked_first_may_fail(rule, monkeypatch):
    before = {finding.code for finding in pg.check(*sick())}
    monkeypatch.setattr(rule, "check", planted(rule.check))

    report = pg.check(*sick())

    assert {finding.code for finding in report} == before | {"PG001"}


def test_what_rules_look_at_may_fail(monkeypatch):
    asking = {"PG220", "PG211"}  # they compare losses

    def failing(evidence):
        raise ZeroDivisionError("planted")

    before = {finding.code for finding in pg.check(*sick())}
    monkeypatch.setattr(Evidence, "is_repeatable", property(failing))

    report = pg.check(*sick())

    (told,) = failures(report)
    assert "PG220, LossGrows" in told.happened
    assert before - asking <= {finding.code for finding in report}


def test_writing_down_what_a_step_does_may_fail(monkeypatch):
    monkeypatch.setattr(_recording, "_training", planted(_recording._training))

    report = pg.check(*sick())

    assert {"PG322", "PG001"} == {finding.code for finding in report}


def test_what_user_code_raises_is_told_from_it(monkeypatch):
    def broken(y, y_pred):
        raise LookupError("mine")

    monkeypatch.setattr(_recording, "_training", planted(_recording._training))

    with pytest.raises(LookupError, match="mine"):
        pg.check(Own(small(1), broken), numbers())


@pytest.mark.parametrize("rule", _trying.OF_TRIALS, ids=code_of)
def test_each_trial_may_fail_and_the_others_are_heard(rule, monkeypatch):
    other = Finding("PG711", "NothingMoves", "warning", "", "", "")
    rules = [planted(r) if r is rule else lambda _: [other] for r in _trying.OF_TRIALS]
    monkeypatch.setattr(_trying, "OF_TRIALS", rules)
    evidence = SimpleNamespace(training=SimpleNamespace(rehearsal=1))

    found = _trying.try_out(evidence, [], lambda: None)

    assert other in found
    (told,) = failures(found)
    assert code_of(rule) in told.happened


def test_an_interruption_is_no_failure(monkeypatch):
    def interrupted(evidence):
        raise KeyboardInterrupt

    monkeypatch.setattr(_rules, "OF_STEPS", [interrupted])

    with pytest.raises(KeyboardInterrupt):
        pg.check(*sick())


def test_the_code_may_be_left_out(monkeypatch):
    monkeypatch.setattr(_rules, "OF_STEPS", [planted(_rules.OF_STEPS[0])])

    assert failures(pg.check(*sick(), ignore=["PG001"])) == []


# Of `fit`.


def trained(step, **arguments):
    """Train, and return the history and the first lines of what was warned of."""
    options = {"steps": 6, "progress": "off", "execution": "eager", "seed": 1} | arguments
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        history = pg.fit(step, numbers(), **options)
    return history, [str(w.message) for w in told if issubclass(w.category, pg.PerigeeWarning)]


OF_FIT = [
    (pairing, "check", "PG211"),
    (undivided, "check", "PG761"),
    (idle, "check", "PG112"),
    (coverage, "check", "PG110"),
    (retraces, "check", "PG420"),
    (outside, "check", "PG446"),
    (resumption, "check_feed", "PG430"),
    (labels, "_of_shapes", "PG203"),
    (labels, "_check_values", "PG203"),
]


@pytest.mark.parametrize(("module", "name", "code"), OF_FIT, ids=[f"{c} {n}" for _, n, c in OF_FIT])
def test_each_rule_of_fit_may_fail_and_the_training_goes_on(
    module, name, code, monkeypatch, tmp_path
):
    monkeypatch.setattr(module, name, planted(getattr(module, name)))
    step = Own(small(1), losses.MeanSquaredError())

    history, messages = trained(step, run=tmp_path / "run")

    assert history.clock.step == 6
    (told,) = failures(history.findings)
    assert code in told.happened
    assert len(messages) == 1


@pytest.mark.once
def test_rules_of_fit_that_few_programs_need_may_fail(monkeypatch):
    for module, name in [
        (positions, "check"),
        (resumption, "check_validation_feed"),
        (resumption, "check_program"),
        (retraces, "check_changes"),
    ]:
        monkeypatch.setattr(module, name, planted(getattr(module, name)))

    found = [
        *diagnostics.of_a_position("", 0, 0, ""),
        *diagnostics.of_a_validation(None),
        *diagnostics.of_a_run_after_running(None),
        *diagnostics.of_changes(0, ()),
    ]

    assert [f.happened.split()[2] for f in found] == ["PG431,", "PG430,", "PG430,", "PG420,"]


GUARDS = {
    "PG122": (Guards, "_of_a_stall"),
    "PG701": (Origins, "keep"),
    "PG702": (Divergence, "steps"),
    "PG703": (Stall, "steps"),
    "PG704": (Starvation, "epoch"),
    "PG705": (Stuck, "epoch"),
}


@pytest.mark.parametrize("code", GUARDS)
def test_each_guard_may_fail_and_the_training_goes_on(code, monkeypatch):
    def made():
        keras.utils.set_random_seed(5)
        return supervised(small(1), "mse")

    plain, _ = trained(made(), steps=None, epochs=2)
    owner, name = GUARDS[code]
    if code == "PG122":  # it is asked where the loss stalls
        monkeypatch.setattr(Stall, "steps", lambda *_: [Finding("PG703", "", "hint", "", "", "")])
    monkeypatch.setattr(owner, name, planted(getattr(owner, name)))

    history, messages = trained(made(), steps=None, epochs=2)

    (told,) = failures(history.findings)
    assert code in told.happened
    assert history.history == plain.history
    assert len(messages) == len(history.findings) == (2 if code == "PG122" else 1)


def test_a_guard_goes_on_where_another_fails(monkeypatch):
    stalled = Finding("PG703", "LossStalls", "warning", "", "", "")
    monkeypatch.setattr(Divergence, "steps", planted(Divergence.steps))
    looks = iter([[], [stalled]])
    monkeypatch.setattr(Stall, "steps", lambda *_: next(looks, []))

    history, _ = trained(supervised(small(1), "mse"), steps=None, epochs=3)

    assert [finding.code for finding in history.findings] == ["PG001", "PG703"]


def test_a_nan_is_raised_where_looking_for_its_origin_fails(monkeypatch):
    monkeypatch.setattr(Origins, "find", planted(Origins.find))
    step = Own(small(1), lambda y, p: squares(y, p) * np.float32("nan"))

    with pytest.raises(FloatingPointError, match="'loss' was nan") as caught:
        trained(step)

    assert caught.value.origin is None


def test_in_these_tests_a_rule_that_fails_fails_the_test(monkeypatch):
    def raised(rule, error):
        raise error

    monkeypatch.setattr(fence, "failed", raised)
    monkeypatch.setattr(_rules, "OF_DATA", [planted(_rules.OF_DATA[0])])

    with pytest.raises(ZeroDivisionError):
        pg.check(Own(small(3), sparse()), numbers())
