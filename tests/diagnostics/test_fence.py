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
from perigee.diagnostics import _recording, _rules, _trying, fence
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._guards import Guards
from perigee.diagnostics.guards.input_starvation import Starvation
from perigee.diagnostics.guards.loss_diverges import Divergence
from perigee.diagnostics.guards.loss_stalls import Stall
from perigee.diagnostics.guards.metric_stuck import Stuck
from perigee.diagnostics.guards.non_finite_origin import Origins
from perigee.diagnostics.rules import labels
from tests.diagnostics.programs import Own, model, numbers, small, sparse, squares, supervised

pytestmark = pytest.mark.usefixtures("fenced")


def planted(rule):
    """Return a rule that fails where this one stands."""

    @functools.wraps(rule)
    def failing(*arguments, **options):
        raise ZeroDivisionError("planted")

    return failing


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
    return {rule: rule(evidence) for rule in (*_rules.OF_DATA, *_rules.FIRST, *_rules.OF_STEPS)}


RULES = [*_rules.OF_DATA, *_rules.OF_STEPS]


@pytest.mark.once
@pytest.mark.parametrize("rule", RULES, ids=fence.rule_name)
def test_each_rule_may_fail_and_the_others_are_heard(rule):
    said, name = said_by_each(), fence.rule_name(rule)
    failing = planted(rule)
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
    rules = [*_rules.OF_STEPS]
    others = rules[1 - fails :: 2]
    heard = {finding.code for rule in others for finding in said_by_each()[rule]}
    mixed = [planted(r) if i % 2 == fails else r for i, r in enumerate(rules)]
    monkeypatch.setattr(_rules, "OF_STEPS", dict.fromkeys(mixed, "PG001"))

    report = pg.check(*sick())

    assert heard
    assert heard <= {finding.code for finding in report}
    assert {str(finding) for finding in report if finding.code != "PG001"} <= set(said)
    (told,) = failures(report)
    assert told.severity == "hint"
    assert f"{len(mixed[fails::2])} rules" in told.happened


@pytest.mark.parametrize("rule", _rules.FIRST, ids=fence.rule_name)
def test_rules_that_are_asked_first_may_fail(rule, monkeypatch):
    before = {finding.code for finding in pg.check(*sick())}
    monkeypatch.setattr(_rules, "FIRST", {planted(rule): "PG326"})

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


@pytest.mark.parametrize("rule", _trying.OF_TRIALS, ids=fence.rule_name)
def test_each_trial_may_fail_and_the_others_are_heard(rule, monkeypatch):
    other = Finding("PG711", "NothingMoves", "warning", "", "", "")
    rules = [planted(r) if r is rule else lambda _: [other] for r in _trying.OF_TRIALS]
    monkeypatch.setattr(_trying, "OF_TRIALS", dict.fromkeys(rules, "PG711"))
    evidence = SimpleNamespace(training=SimpleNamespace(rehearsal=1), length=None)

    found = _trying.try_out(evidence, [], lambda: None)

    assert other in found
    (told,) = failures(found)
    assert fence.rule_name(rule) in told.happened


def test_an_interruption_is_no_failure(monkeypatch):
    def interrupted(evidence):
        raise KeyboardInterrupt

    monkeypatch.setattr(_rules, "OF_STEPS", {interrupted: "PG001"})

    with pytest.raises(KeyboardInterrupt):
        pg.check(*sick())


def test_the_code_may_be_left_out(monkeypatch):
    monkeypatch.setattr(_rules, "OF_STEPS", {planted(next(iter(_rules.OF_STEPS))): "PG001"})

    assert failures(pg.check(*sick(), ignore=["PG001"])) == []


# Of `fit`.


def trained(step, **arguments):
    """Train, and return the history and the first lines of what was warned of."""
    options = {"steps": 6, "progress": "off", "execution": "eager", "seed": 1} | arguments
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        history = pg.fit(step, numbers(), **options)
    return history, [str(w.message) for w in told if issubclass(w.category, pg.PerigeeWarning)]


FEW_PROGRAMS_NEED = {
    "best": ("loss", ()),
    "eager": (None,),
    "changed": (0, ()),
    "data ended": ("data", "generator", None),
    "hook set": ("Rates", 2, ()),
    "kept callbacks": ((),),
    "kept validation": (None,),
    "kept program": (None,),
    "saved": ("", 0, 0, ""),
}
OF_EACH_FIT = [
    (moment, rule)
    for moment, rules in _rules.OF_FIT.items()
    for rule in rules
    if moment not in FEW_PROGRAMS_NEED
]


def goes_on_although_one_failed(code, path, **given):
    step = Own(small(1), losses.MeanSquaredError())

    history, messages = trained(step, run=path, **given)

    assert history.clock.step == 6
    (told,) = failures(history.findings)
    assert code in told.happened
    assert len(messages) == 1


@pytest.mark.parametrize(
    ("moment", "rule"), OF_EACH_FIT, ids=[fence.rule_name(rule) for _, rule in OF_EACH_FIT]
)
def test_each_rule_of_fit_may_fail_and_the_training_goes_on(moment, rule, monkeypatch, tmp_path):
    rules = _rules.OF_FIT[moment]
    others = {other: code for other, code in rules.items() if other is not rule}
    monkeypatch.setitem(_rules.OF_FIT, moment, {planted(rule): rules[rule], **others})

    divided = {"accumulate": 2} if moment == "divided" else {}
    goes_on_although_one_failed(rules[rule], tmp_path / "run", **divided)


@pytest.mark.parametrize("name", ["_of_shapes", "_check_values"])
def test_what_looks_at_labels_may_fail_and_the_training_goes_on(name, monkeypatch, tmp_path):
    monkeypatch.setattr(labels, name, planted(getattr(labels, name)))

    goes_on_although_one_failed("PG203", tmp_path / "run")


@pytest.mark.once
@pytest.mark.parametrize("moment", FEW_PROGRAMS_NEED)
def test_rules_of_fit_that_few_programs_need_may_fail(moment, monkeypatch):
    ((rule, code),) = _rules.OF_FIT[moment].items()
    monkeypatch.setitem(_rules.OF_FIT, moment, {planted(rule): code})

    (found,) = diagnostics.findings_of(moment, *FEW_PROGRAMS_NEED[moment])

    assert found.happened.split()[2] == f"{code},"


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
    monkeypatch.setattr(_rules, "OF_DATA", {planted(next(iter(_rules.OF_DATA))): "PG320"})

    with pytest.raises(ZeroDivisionError):
        pg.check(Own(small(3), sparse()), numbers())
