"""Labels, head, loss and metric are read together; causes are told before symptoms."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as kl

import perigee as pg
from perigee.diagnostics._causes import EXPLAINS, sorted_out
from tests.diagnostics.programs import Own, answers, classes, compiled, model, small, sparse
from tests.diagnostics.tasks import FAULTY, HEALTHY


@pytest.mark.spread(14)
@pytest.mark.parametrize("name", FAULTY)
def test_what_belongs_to_no_task_is_found_first(name):
    code, make = FAULTY[name]
    keras.utils.set_random_seed(3)

    first, *_ = pg.check(*make())

    # On TensorFlow, Keras may find the logits before a sigmoid: then all is right but the words.
    assert first.code == code
    assert first.severity != "hint"


@pytest.mark.spread(10)
@pytest.mark.parametrize("name", HEALTHY)
def test_odd_programs_of_one_task_are_left_alone(name):
    keras.utils.set_random_seed(3)

    report = pg.check(*HEALTHY[name]())

    assert [str(finding) for finding in report if finding.severity != "hint"] == []


STEADY = (
    "ids_by_squares",
    "small_scores_above_0_as_probabilities",
    "accuracy_of_small_logits",
    "relu_for_a_later_batch",
    "softmax_as_a_function",
)
SEEDS = 20


@pytest.mark.slow
@pytest.mark.parametrize("name", [*STEADY, "zeros_in_the_head", "log_loss_of_probabilities"])
def test_a_verdict_does_not_depend_on_the_seed(name):
    make = FAULTY[name][1] if name in FAULTY else HEALTHY[name]
    seen = set()
    for seed in range(SEEDS):
        keras.utils.set_random_seed(seed)
        target, data = make()
        if "later" not in name:
            order = np.random.default_rng(seed).permutation(len(data[0]))
            data = tuple(array[order] for array in data)
        report = pg.check(target, data)
        seen.add(tuple(f.code for f in report if f.severity != "hint"))

    assert len(seen) == 1


def test_a_unit_that_is_dead_by_chance_is_a_hint():
    x, y = answers()
    x = np.abs(x)
    for seed in range(99):
        keras.utils.set_random_seed(seed)
        network = model(kl.Dense(1, activation="relu"))
        kernel = network.get_weights()[0]
        if kernel.max() > 0 and not np.any(network.predict_on_batch(x)):
            break

    report = pg.check(Own(network, lambda y, p: keras.ops.square(y - p)[:, 0]), (x, y))

    assert "PG211" not in [f.code for f in report]
    assert {f.severity for f in report if f.code in ("PG120", "PG122")} == {"hint"}


def finding(code, severity="warning"):
    return pg.Finding(code, f"Name{code}", severity, "happened.", "expected.", "fix.")


def test_what_a_finding_explains_is_folded_beneath_it():
    found = [finding("PG130"), finding("PG224", "hint"), finding("PG122", "error")]

    (only,) = sorted_out(found)

    assert only.code == "PG122"
    assert only.explains == ("PG130 NamePG130", "PG224 NamePG224")
    assert "Explains: PG130 NamePG130, PG224 NamePG224." in str(only)
    assert "PG130 NamePG130" in only._repr_html_()
    assert only.facts()["explains"] == ["PG130 NamePG130", "PG224 NamePG224"]


def test_what_is_explained_by_others_in_between_is_folded_too():
    found = [finding("PG120", "error"), finding("PG122", "error"), finding("PG321")]

    (only,) = sorted_out(found)

    assert only.code == "PG321"
    assert only.explains == ("PG122 NamePG122", "PG120 NamePG120")


def test_a_hint_explains_nothing():
    assert len(sorted_out([finding("PG122", "hint"), finding("PG130")])) == 2


def test_of_one_severity_causes_come_first():
    found = [finding("PG133"), finding("PG440"), finding("PG999"), finding("PG230")]

    assert [f.code for f in sorted_out(found)] == ["PG230", "PG440", "PG133", "PG999"]


def test_what_explains_an_error_comes_where_it_would():
    found = [finding("PG222", "error"), finding("PG226"), finding("PG440", "error")]

    assert [f.code for f in sorted_out(found)] == ["PG226", "PG440"]


@pytest.mark.once
def test_no_finding_explains_itself_by_others():
    def below(code, above=()):
        assert code not in above
        for other in EXPLAINS.get(code, ()):
            below(other, (*above, code))

    for code in EXPLAINS:
        below(code)


def test_a_fix_that_is_wrong_while_its_cause_stands_is_not_told():
    network = model(kl.Dense(8, activation="relu"), kl.Dense(1))

    report = pg.check(compiled(network, "binary_crossentropy", ["accuracy"]), answers())

    assert [f.code for f in report] == ["PG206"]
    assert "threshold" not in str(report)


def test_fit_raises_the_first_cause_and_names_the_others():
    x, y = answers()
    loss = keras.losses.BinaryCrossentropy()
    step = Own(small(1), lambda y, p: loss(y, 9.0 * p))

    for _ in range(2):  # nothing is remembered of a step that was refused
        with pytest.raises(pg.PerigeeError) as caught:
            pg.fit(step, (x, 2 * y - 1), steps=1, progress="off", execution="eager")

        assert caught.value.code == "PG205"
        assert "PG206 LogitsError" in "".join(caught.value.__notes__)


def test_fit_continues_once_the_cause_is_mended():
    x, y = classes()
    step = Own(small(3), sparse())
    with pytest.raises(pg.PerigeeError):
        pg.fit(step, (x, y + 1), steps=1, progress="off", execution="eager")

    assert pg.fit(step, (x, y), steps=1, progress="off", execution="eager").clock.step == 1
