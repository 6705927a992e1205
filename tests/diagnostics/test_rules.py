"""Each rule finds its fault, planted by one line, and leaves the program without it alone."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import perigee as pg
from perigee import diagnostics
from perigee._cli.pages import all_pages
from perigee.diagnostics import known_codes
from perigee.diagnostics._rules import FIRST, OF_DATA, OF_FIT, OF_STEPS
from perigee.diagnostics._trying import OF_TRIALS
from tests.diagnostics.goldens import first, golden, goldens
from tests.diagnostics.planted import (
    HEALTHY,
    ONLY_COMPILED,
    SIBLINGS,
    SICK,
    dropped,
    in_batches,
    normalized,
    shuffled,
)
from tests.diagnostics.programs import (
    Own,
    classes,
    codes,
    compiled,
    model,
    numbers,
    rows,
    small,
    sparse,
    squares,
    supervised,
)

FOUND = re.compile(r'code="(PG\d{3})"')
TABLE = Path(__file__).parents[2] / "docs" / "check.md"

ALSO_RAISED = {"PG102"}
"""Codes of errors that a rule of `check` raises, besides the findings that it makes."""

PLANTED = SICK | (ONLY_COMPILED if keras.backend.backend() != "torch" else {})


def planted(code, name):
    """Return a case; every rule is tried on each framework, with all its programs on the first."""
    marks = () if name == first(code) else (pytest.mark.once, pytest.mark.slow)
    return pytest.param(code, name, id=f"{code} {name}", marks=marks)


@pytest.mark.parametrize(
    ("code", "name"), [planted(code, name) for code in PLANTED for name in PLANTED[code]]
)
def test_a_rule_finds_its_fault(code, name):
    said = [finding for finding in pg.check(*PLANTED[code][name]()) if finding.code == code]

    assert said
    if name == first(code):
        assert golden(said[0]) == goldens()[code]


@cache
def healthy(name):
    return codes(*HEALTHY[name]())


@pytest.mark.spread(14, once=True)
@pytest.mark.parametrize("name", HEALTHY)
def test_no_rule_says_anything_of_a_healthy_program(name):
    # Words are repeated: on TensorFlow a compiled model is told what Keras does there.
    assert [code for code in healthy(name) if code != "PG136"] == []


ELSEWHERE = {
    *("PG129", "PG136", "PG137", "PG141", "PG142", "PG208", "PG245", "PG323", "PG329", "PG443"),
    *("PG461", "PG462"),
}
"""Rules whose programs stand elsewhere: of tapes, of one framework, of more than `check(step)`."""


@pytest.mark.once
def test_codes_pages_goldens_and_programs_are_of_the_same_rules():
    rules = {*OF_DATA.values(), *FIRST.values(), *OF_STEPS.values(), *ALSO_RAISED}
    sick = set(SICK | ONLY_COMPILED)

    assert rules == sick | ELSEWHERE
    assert set(goldens()) == sick
    assert set(all_pages()) == known_codes()
    sources = [
        p.read_text(encoding="utf-8") for p in Path(diagnostics.__file__).parent.glob("*.py")
    ]
    assert {code for text in sources for code in FOUND.findall(text)} <= known_codes()
    told = set(re.findall(r"PG\d{3}", TABLE.read_text(encoding="utf-8").partition("## Rules")[2]))
    assert rules <= told


TABLES = (OF_DATA, FIRST, OF_STEPS, OF_TRIALS, *OF_FIT.values())


@pytest.mark.once
@pytest.mark.parametrize(
    ("rule", "code"),
    [each for table in TABLES for each in table.items()],
    ids=lambda each: each if isinstance(each, str) else each.__module__.rpartition(".")[2],
)
def test_a_rule_makes_findings_of_the_code_that_is_declared(rule, code):
    source = Path(sys.modules[rule.__module__].__file__).read_text(encoding="utf-8")
    made = set(FOUND.findall(source))

    assert made <= {code}
    assert made or all_pages()[code].name.endswith("Error")  # it raises instead


@pytest.mark.once
def test_each_rule_has_two_sick_and_three_healthy_programs():
    sick = SICK | ONLY_COMPILED

    assert set(sick) == set(SIBLINGS)
    assert [code for code in sick if len(sick[code]) < 2] == []
    assert [code for code, names in SIBLINGS.items() if len(set(names) & set(HEALTHY)) < 3] == []


@pytest.mark.only_torch
@pytest.mark.parametrize("code", ONLY_COMPILED)
def test_what_is_a_fault_of_compiled_steps_alone_is_none_of_others(code):
    for make in ONLY_COMPILED[code].values():
        assert code not in codes(*make())


class Views(Own):
    """Two views of each example are to agree."""

    def agree(self, x):
        one, two = self.model(x), self.model(ops.flip(x, axis=1))
        return ops.mean(ops.square(one - two), axis=-1)

    def train_step(self, batch):
        x, _ = batch
        return {"loss": self.minimize(lambda: self.agree(x), self.optimizer, self.model)}


class ViewsAndAllBesides(Views):
    def train_step(self, batch):
        loss, _ = self.minimize(lambda: (self.agree(batch[0]), 0), self.optimizer, self.model)
        return {"loss": loss}


def test_labels_that_the_step_leaves_out_by_name_are_not_ignored_by_mistake():
    assert codes(Views(small(3), squares), classes()) == []
    assert codes(ViewsAndAllBesides(small(3), squares), classes()) == ["PG221"]


class Crossing(Own):
    """Multiplies errors (batch, 1) by weights (batch,)."""

    def train_step(self, batch):
        x, y, weights = batch

        def objective():
            return ops.mean(ops.square(self.model(x) - y[:, None]) * weights)

        return {"loss": self.minimize(objective, self.optimizer)}


@pytest.mark.parametrize("seed", range(4))
def test_weights_of_examples_that_meet_all_errors_are_found_though_centered_ones_cancel(seed):
    x, y = numbers()
    draw = np.random.default_rng(seed)
    weights = (draw.random(len(x)) < 0.6).astype("float32")

    assert "PG211" in codes(Crossing(small(1), squares), (x, y[:, 0], weights))


def given(network, *weights):
    """Return a model with these kernels, and biases of 0."""
    for layer, kernel in zip(network.layers[-len(weights) :], weights, strict=True):
        layer.kernel.assign(np.array(kernel, "float32"))
    return network


def test_a_loss_of_exclusive_classes_has_the_right_sign_however_many_scores_are_above_0():
    network = small(3)
    network.layers[-1].kernel.assign(0.01 * network.layers[-1].kernel)
    network.layers[-1].bias.assign([0.1, 0.1, -0.1])

    def loss(y, scores):
        return keras.losses.categorical_crossentropy(y, scores, from_logits=True)

    assert "PG222" not in codes(Own(network, loss), rows())


def test_a_critic_that_falls_far_out_by_chance_has_no_wrong_sign():
    """A critic of `(x, y)`: what it says is no prediction of `y`, though it has its shape."""

    class Critic(Own):
        def train_step(self, batch):
            def objective():
                return ops.mean(self.model(ops.concatenate(batch, 1)))

            return {"loss": self.minimize(objective, self.optimizer)}

    x, y = numbers()
    network = keras.Sequential([keras.Input((2,)), kl.Dense(2, "relu"), kl.Dense(1)])
    given(network, [[0.0, 0.0], [1.0, -1.0]], [[-1.0], [-1.0]])

    assert "PG222" not in codes(Critic(network, squares), (x[:, :1], y))


def test_a_loss_that_is_large_for_these_weights_alone_is_a_hint():
    ids = np.arange(48) % 3
    x = np.eye(3, dtype="float32")[ids]
    network = keras.Sequential([keras.Input((3,)), kl.Dense(3)])
    given(network, -6.0 * np.eye(3))

    report = pg.check(Own(network, sparse()), (x, ids))

    (found,) = [finding for finding in report if finding.code == "PG133"]
    assert found.severity == "hint"
    assert "for these weights" in found.happened


def test_equal_labels_that_the_loss_does_not_use_are_dummies():
    x, y = numbers()
    network = keras.Sequential([keras.Input(x.shape[1:]), kl.Dense(4), kl.UnitNormalization()])

    def spread(_, y_pred):
        return ops.mean(ops.abs(y_pred), axis=-1)

    assert codes(supervised(network, spread), (x, 0 * y)) == []
    assert codes(supervised(small(1), squares), (x, 0 * y)) == ["PG322"]


def test_candidates_of_which_the_first_is_right_are_a_hint():
    x, _ = numbers()
    first = np.tile(np.eye(3, dtype="float32")[:1], (len(x), 1))

    report = pg.check(supervised(small(3), keras.losses.CategoricalCrossentropy(True)), (x, first))

    assert [f.severity for f in report if f.code == "PG322"] == ["hint"]


def test_examples_that_are_validated_and_trained_on_are_found():
    step, data = supervised(small(1), "mse"), numbers()
    some = tuple(array[:20] for array in data)

    assert codes(step, data, validation=some) == ["PG323"]


def test_few_shared_examples_are_left_alone():
    step, (x, y) = supervised(small(1), "mse"), numbers()
    others = np.concatenate([x[:3], x[:40] + 1.0]), np.concatenate([y[:3], y[:40]])

    assert codes(step, (x, y), validation=others) == []


def test_repeated_words_are_no_shared_examples():
    words = np.random.default_rng(2).integers(3, size=(64, 2)).astype("int32")
    network = keras.Sequential(
        [keras.Input((2,), dtype="int32"), kl.Embedding(3, 4), kl.Flatten(), kl.Dense(3)]
    )
    data = words, classes()[1]

    assert codes(supervised(network, sparse()), data, validation=data) == []


def test_examples_of_a_validation_that_differ_are_left_alone():
    step, (x, y) = supervised(small(1), "mse"), numbers()

    assert codes(step, (x, y), validation=(x + 1.0, y)) == []


def test_validation_data_that_differs_each_time_is_found():
    (x, y), rng = numbers(), np.random.default_rng(0)

    def changing():
        yield from in_batches([x + 1.0 + 0.1 * rng.normal(size=x.shape), y])

    for target in (Own(small(1), squares), supervised(small(1), "mse"), compiled(small(1), "mse")):
        assert codes(target, (x, y), validation=changing) == ["PG329"]


def test_validation_data_that_is_shuffled_is_left_alone():
    step, (x, y) = supervised(small(1), "mse"), numbers()
    reordered = shuffled(in_batches([x + 1.0, y]))

    assert codes(step, (x, y), validation=reordered) == []


def test_validation_data_that_is_split_after_it_is_shuffled_is_found():
    step, (x, y) = supervised(small(1), "mse"), numbers()
    reordered = shuffled(in_batches([x + 1.0, y]))

    def half():
        yield from list(reordered())[::2]

    assert codes(step, (x, y), validation=half) == ["PG329"]


@pytest.mark.parametrize("as_", [list, tuple, lambda batches: lambda: iter(batches)])
def test_validation_data_that_stays_is_left_alone(as_):
    x, y = numbers()
    batches = in_batches((x + 1.0, y))
    data = (x + 1.0, y) if as_ is tuple else as_(batches)

    assert codes(supervised(small(1), "mse"), (x, y), validation=data) == []


def test_normalization_of_single_examples_is_found():
    for target in (
        Own(normalized(), sparse()),
        supervised(normalized(), sparse()),
        compiled(normalized(), sparse()),
    ):
        assert "PG443" in codes(target, classes(), batch_size=1)


@pytest.mark.parametrize(
    ("network", "batch_size"),
    [
        (normalized, 2),
        (dropped, 1),
        (lambda: model(kl.Dense(8), kl.LayerNormalization(), kl.ReLU(), kl.Dense(3)), 1),
    ],
)
def test_normalization_over_something_is_left_alone(network, batch_size):
    assert "PG443" not in codes(supervised(network(), sparse()), classes(), batch_size=batch_size)


def test_what_bends_beside_what_does_not_is_no_linear_model():
    """Far from 0 a bounded part is small beside a straight one; positive inputs stay positive."""
    x, y = numbers()
    inputs = keras.Input(x.shape[1:])
    bounded = kl.Dense(8, "tanh")(kl.Dense(8, "tanh")(inputs))
    beside = keras.Model(inputs, kl.Dense(1)(bounded + kl.Dense(8)(inputs)))
    above = model(kl.Dense(8, "relu", kernel_initializer="orthogonal"), kl.Dense(1))

    assert "PG123" not in codes(Own(beside, squares), (x, y))
    assert "PG123" not in codes(Own(above, squares), (np.abs(x), y))
