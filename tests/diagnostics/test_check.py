"""`check` itself: it leaves no trace, and says what it says in a form to work with."""

from __future__ import annotations

import hashlib
import random

import keras
import numpy as np
import pytest
from keras import layers as kl

import perigee as pg
from perigee._step.state import snapshot, track
from tests.diagnostics.faults import findings
from tests.diagnostics.healthy import PROGRAMS
from tests.diagnostics.programs import (
    Own,
    answers,
    classes,
    codes,
    compiled,
    model,
    numbers,
    small,
    sparse,
    squares,
    supervised,
)
from tests.diagnostics.split import is_held_out


def fingerprint(step):
    """Return one number for all that a Step and the host's generators hold."""
    entries = track(step).entries
    digest = hashlib.sha256()
    for entry, value in zip(entries, snapshot([e.variable for e in entries]), strict=True):
        digest.update(entry.key.encode() + value.tobytes())
    digest.update(repr(random.getstate()).encode() + repr(np.random.get_state()).encode())
    return digest.hexdigest()


def drawing():
    return model(kl.Dense(8), kl.BatchNormalization(), kl.ReLU(), kl.Dropout(0.3), kl.Dense(1))


def made(way):
    keras.utils.set_random_seed(3)
    if way == "compiled":
        return pg.KerasStep(compiled(drawing(), "mse", [keras.metrics.MeanAbsoluteError()]))
    metrics = [keras.metrics.MeanAbsoluteError()]
    if way == "supervised":
        return supervised(drawing(), "mse", metrics)
    return Own(drawing(), squares, metrics=metrics)


def trained(step):
    return pg.fit(step, numbers(), steps=4, progress="off", seed=1, execution="eager").history


WAYS = ["own", "supervised", "compiled"]


class Counting(Own):
    """Changes attributes that are no variables."""

    def train_step(self, batch):
        self.calls += 1
        self.drawn.append(float(self.numpy.normal() + self.python.random()))
        self.last = self.calls
        return super().train_step(batch)


class Showing(Own):
    """Shows its inputs beside what it logs, in training and in validation."""

    def train_step(self, batch):
        return {**super().train_step(batch), "seen": pg.sample(image=self.picture(batch))}

    def test_step(self, batch):
        return {"seen": pg.sample(image=self.picture(batch))}

    def picture(self, batch):
        return keras.ops.reshape(batch[0][:1, :4], (1, 2, 2))


def test_what_a_step_shows_is_passed_over():
    step, (x, y) = Showing(small(1), squares), numbers()

    assert pg.check(step, (x[:40], y[:40]), validation=(x[40:], y[40:])).ok


@pytest.mark.parametrize("way", WAYS)
def test_it_leaves_all_state_as_it_was(way):
    step, data = made(way), numbers()
    trained(step)
    before = fingerprint(step)

    report = pg.check(step, data)

    assert report.ok
    assert fingerprint(step) == before


def test_attributes_that_a_step_changes_are_put_back():
    step = Counting(small(1), squares)
    step.calls, step.drawn = 3, [1.0]
    step.numpy, step.python = np.random.default_rng(5), random.Random(5)
    before = step.numpy.bit_generator.state, step.python.getstate()
    drawn = step.drawn

    pg.check(step, numbers())

    assert (step.calls, step.drawn) == (3, [1.0])
    assert step.drawn is drawn
    assert (step.numpy.bit_generator.state, step.python.getstate()) == before
    assert not hasattr(step, "last")


@pytest.mark.parametrize("way", WAYS)
def test_a_training_after_it_is_the_training_without_it(way):
    plain, checked = made(way), made(way)
    before = fingerprint(plain)
    logs = trained(plain)
    keras.utils.set_random_seed(3)
    checked = made(way)
    assert fingerprint(checked) == before

    pg.check(checked, numbers())

    assert trained(checked) == logs
    values = [snapshot(track(step).variables) for step in (plain, checked)]
    for one, two in zip(*values, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.only_jax
def test_what_is_compiled_is_compiled_for_several_rules():
    rehearsals, sizes_of_probes = 2, 2
    calls = []

    def loss(y, y_pred):
        calls.append(y.shape)
        return squares(y, y_pred)

    class Training(Own):
        test_step = pg.Step.test_step

    pg.check(Training(small(1), loss), numbers(), batch_size=16)

    assert len(calls) == rehearsals + sizes_of_probes
    assert {shape[0] for shape in calls} == {16, 32}


def test_a_generator_function_is_called_anew_each_time():
    calls = []

    def batches():
        calls.append(1)
        yield from [numbers()] * 2

    assert pg.check(supervised(small(1), "mse"), batches).ok
    assert calls


def test_a_generator_that_has_not_started_is_looked_at_and_gives_all_its_batches_afterwards():
    num_batches, random = 3, np.random.default_rng(4)

    def batches(scale, *, features=5):
        for _ in range(num_batches):
            x = scale * random.normal(size=(16, features)).astype("float32")
            yield x, x[:, :1]

    generator = batches(2.0)
    expected = np.random.default_rng(4).normal(size=(num_batches, 16, 5)).astype("float32")

    pg.check(supervised(small(1), "mse"), generator)

    np.testing.assert_array_equal([x for x, _ in generator], 2.0 * expected)


@pytest.mark.once
@pytest.mark.parametrize("of", ["started", "another iterator"])
def test_a_generator_that_would_lose_batches_is_refused(of):
    waiting = iter([numbers()])
    generator = (batch for batch in ([numbers()] * 2 if of == "started" else zip(waiting)))
    if of == "started":
        next(generator)

    with pytest.raises(pg.PerigeeError, match="begin again"):
        pg.check(supervised(small(1), "mse"), generator)

    assert len(list(generator)) == 1


def test_an_iterator_is_refused_as_its_batches_would_be_lost():
    waiting = iter([numbers()])

    with pytest.raises(pg.PerigeeError, match="begin again") as caught:
        pg.check(supervised(small(1), "mse"), waiting)

    assert caught.value.code == "PG601"
    assert len(list(waiting)) == 1


def test_a_compiled_model_is_taken_as_it_is():
    assert codes(compiled(small(1, "softmax"), "mse"), answers())[0] == "PG224"


def test_a_model_that_is_not_compiled_is_refused():
    with pytest.raises(pg.PerigeeError, match="not compiled"):
        pg.check(small(1), numbers())


def test_what_fit_would_refuse_is_a_finding():
    loss = sparse()
    step = Own(small(3, "softmax"), lambda y, y_pred: loss(y, y_pred * 1.0))

    (finding,) = pg.check(step, classes())

    assert (finding.code, finding.severity) == ("PG206", "error")
    assert finding.happened and finding.expected and finding.fix


def test_what_user_code_raises_comes_out():
    def broken(y, y_pred):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        pg.check(Own(small(1), broken), numbers())


def test_codes_that_are_ignored_are_not_told():
    step = supervised(small(1, "sigmoid"), "mse")

    assert codes(step, numbers()) == ["PG226"]
    assert codes(step, numbers(), ignore=["PG226"]) == []


def test_a_step_says_itself_what_is_meant():
    class Meant(Own):
        ignore_findings = ("PG226", "PG110")

    step = Meant(small(1, "sigmoid"), squares)
    assert codes(step, numbers()) == []

    step.unused = small(2)  # what `fit` finds, it does not tell of either
    history = pg.fit(step, numbers(), steps=1, progress="off", execution="eager")

    assert history.findings == []


def test_a_code_of_a_step_that_does_not_exist_is_refused():
    step = Own(small(1), squares)
    step.ignore_findings = ["PG2226"]

    with pytest.raises(pg.PerigeeError, match=r"(?s)ignore_findings=.*did you mean PG226"):
        pg.check(step, numbers())


def test_a_level_that_does_not_exist_is_refused():
    with pytest.raises(pg.PerigeeError, match="level='fast'"):
        pg.check(Own(small(1), squares), numbers(), level="fast")


@pytest.mark.parametrize("ignore", [["PG999"], "PG226"])
def test_a_code_that_does_not_exist_is_refused(ignore):
    with pytest.raises(pg.PerigeeError, match="ignore="):
        pg.check(supervised(small(1), "mse"), numbers(), ignore=ignore)


def test_a_report_reads_from_the_worst_on():
    x, y = numbers()
    x[:, 2] = 3.0
    report = pg.check(supervised(small(1, "sigmoid"), "mse"), (x, y))

    severities = [finding.severity for finding in report]
    assert severities == ["warning", "hint"]
    assert not report.ok
    assert str(report).startswith("1 warning, 1 hint.\n\nwarning: UnreachableTargets [PG226]: ")


def test_hints_leave_a_report_in_order():
    x, y = numbers()
    x[:, 2] = 3.0
    report = pg.check(supervised(small(1), "mse"), (x, y))

    assert [finding.severity for finding in report] == ["hint"]
    assert report.ok


def test_an_empty_report_says_so():
    assert str(pg.check(supervised(small(1), "mse"), numbers())) == "Nothing found."


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PROGRAMS if not is_held_out(name)])
def test_a_healthy_program_gets_no_error_and_no_warning(name):
    found = findings(PROGRAMS[name].parts)

    assert [str(finding) for finding in found if finding.severity != "hint"] == []


class Falling(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule as users write one: without `get_config`."""

    def __call__(self, step):
        return 0.1 / (1.0 + keras.ops.cast(step, "float32"))


def test_a_schedule_needs_no_configuration(tmp_path):
    x, y = numbers()
    network = small(1)
    network.compile(keras.optimizers.SGD(Falling()), "mse")

    assert "PG001" not in {finding.code for finding in pg.check(network, (x, y))}
    history = pg.keras_fit(network, x, y, verbose=0, run=tmp_path / "run")
    assert len(history.history["loss"]) == 1
