"""Guards: what they find while a training runs, told once, at no cost to the numbers."""

from __future__ import annotations

import json
import warnings

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import perigee as pg
from perigee._execution.timing import timed_by
from perigee._step.state import snapshot, track
from perigee.diagnostics import GUARDS
from perigee.diagnostics.guards.input_starvation import Starvation
from perigee.diagnostics.guards.loss_diverges import Divergence
from perigee.diagnostics.guards.loss_stalls import Stall
from perigee.diagnostics.guards.metric_stuck import Stuck
from perigee.diagnostics.guards.non_finite_origin import Origins
from perigee.writers.json_lines import read_json_lines
from tests.diagnostics.programs import Own, compiled, model, numbers, small, squares, supervised


def sgd(rate):
    return keras.optimizers.SGD(rate)


def watched(step, data=None, **arguments):
    """Train, and return the history and the codes that were warned of."""
    arguments = {"batch_size": 32, "progress": "off", "seed": 3, "execution": "graph"} | arguments
    if keras.backend.backend() == "torch":
        arguments["execution"] = "eager"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        history = pg.fit(step, numbers() if data is None else data, **arguments)
    messages = [str(w.message) for w in told if issubclass(w.category, pg.PerigeeWarning)]
    return history, messages


def dead():
    bias = keras.initializers.Constant(-99.0)
    return model(kl.Dense(8, activation="relu", bias_initializer=bias), kl.Dense(1))


def zero():
    return model(kl.Dense(1, kernel_initializer="zeros"))


def stalled():
    # Only the last bias could learn, and it is near its best.
    return Own(dead(), squares, optimizer=sgd(1e-6))


def stuck():
    metric = keras.metrics.Accuracy()
    return supervised(small(1), "mse", [metric]), {"epochs": 6}


LONG = {"epochs": 2, "steps_per_epoch": 260}
"""A little more than the 500 steps after which a loss may stall."""

SICK = {
    "PG122": lambda: (stalled(), LONG),
    "PG702": lambda: (Own(zero(), squares, optimizer=sgd(1.5)), {"epochs": 15}),
    "PG703": lambda: (stalled(), {**LONG, "guards": ["LossStalls"]}),
    "PG705": stuck,
}


@pytest.mark.parametrize("code", SICK)
def test_a_guard_tells_once_with_the_step(code, tmp_path):
    step, arguments = SICK[code]()
    history, messages = watched(step, run=tmp_path / "run", **arguments)

    codes = [finding.code for finding in history.findings]
    assert codes.count(code) == 1
    assert len(messages) == len(codes)
    found = next(f for f in history.findings if f.code == code)
    assert "step " in found.happened and found.name == GUARDS[code]
    lines = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    told = [line["finding"]["code"] for line in lines if line["kind"] == "finding"]
    kept = json.loads((tmp_path / "run" / "run.json").read_text())["findings"]
    assert told == codes == [finding["code"] for finding in kept]
    assert all(finding["happened"] and finding["step"] > 0 for finding in kept)


def test_a_healthy_training_is_not_told_of():
    metric = keras.metrics.MeanAbsoluteError()
    history, messages = watched(supervised(small(1), "mse", [metric]), **LONG)

    assert history.findings == [] and messages == []


@pytest.mark.parametrize("guards", ["off", ["PG705", "LossStalls"]])
def test_only_the_guards_that_are_asked_for_tell(guards):
    step, arguments = SICK["PG702"]()
    history, messages = watched(step, guards=guards, **arguments)

    assert history.findings == [] and messages == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("offf", "did you mean 'off'"),
        (["LossDiverge"], "did you mean LossDiverges"),
        (["PG220"], "did you mean PG420"),
        (3, "pass a list"),
    ],
)
def test_a_guard_that_does_not_exist_is_refused(given, message):
    with pytest.raises(pg.PerigeeError, match=r"guards=") as caught:
        pg.fit(Own(small(1), squares), numbers(), guards=given)

    assert caught.value.code == "PG601" and message in caught.value.fix


def test_what_is_meant_in_a_step_is_not_told():
    step, arguments = SICK["PG702"]()
    type(step).ignore_findings = ("PG702",)
    try:
        assert watched(step, **arguments)[1] == []
    finally:
        del type(step).ignore_findings


@pytest.mark.parametrize("way", ["own", "compiled"])
def test_guards_change_no_number(way):
    def trained(guards):
        keras.utils.set_random_seed(5)
        net = model(kl.Dense(8), kl.BatchNormalization(), kl.ReLU(), kl.Dropout(0.3), kl.Dense(1))
        step = pg.KerasStep(compiled(net, "mse")) if way == "compiled" else Own(net, squares)
        history, _ = watched(step, epochs=3, guards=guards)
        return history.history, snapshot(track(step).variables)

    (logs, values), (plain_logs, plain_values) = trained("default"), trained("off")

    assert logs == plain_logs
    for one, other in zip(values, plain_values, strict=True):
        np.testing.assert_array_equal(one, other)


# Where a NaN began.


class Root(kl.Layer):
    """The square root of its inputs: NaN below 0."""

    def call(self, inputs):
        return ops.sqrt(inputs)


def rooted():
    """Return a step whose layer `root` gets a number below 0 after some steps."""
    ones = keras.initializers.Ones()
    dense = kl.Dense(1, kernel_initializer="zeros", bias_initializer=ones)
    net = model(dense, Root(name="root"))
    return Own(net, lambda y, p: ops.square(p + 2.0)[:, 0], optimizer=sgd(0.02))


def far(y, p):
    return -ops.log(p[:, 0] - 1e6)


def norm(y, p):
    return ops.sqrt(ops.sum(ops.square(p), axis=-1))


def linear():
    """Return a model that makes a NaN of a NaN; a maximum, such as relu, may swallow it."""
    return model(kl.Dense(1))


def spoiled():
    x, y = numbers()
    x[40, 3] = np.nan
    return x, y


BAD = {
    "a layer": (rooted, numbers, "in the output of layer 'sequential/root' (Root)"),
    "the data": (lambda: Own(linear(), squares), spoiled, "in the data: batch[0] holds nan at ["),
    "the loss": (
        lambda: Own(small(1), far),
        numbers,
        "after the last layer, in the computation of 'loss'",
    ),
    "the gradients": (
        lambda: Own(zero(), norm),
        numbers,
        "in the gradients of step 1, whose loss was finite: those of model/dense/kernel",
    ),
    "a compiled model": (
        lambda: pg.KerasStep(compiled(small(1), far)),
        numbers,
        "after the last layer",
    ),
}


@pytest.mark.parametrize("place", BAD)
def test_an_error_says_where_a_nan_began(place):
    keras.backend.clear_session()
    make, data, where = BAD[place]
    step = make()

    with pytest.raises(FloatingPointError) as caught:
        watched(step, data(), epochs=40)

    assert caught.value.code == "PG408"
    assert f"it began {where}" in str(caught.value)


def test_a_training_that_stops_warns_of_the_place(tmp_path):
    history, messages = watched(
        Own(linear(), squares), spoiled(), epochs=2, nonfinite="stop", run=tmp_path / "run"
    )

    assert history.stop_reason == "non-finite"
    assert [finding.code for finding in history.findings] == ["PG701"]
    assert len(messages) == 1 and "in the data" in messages[0]


def test_looking_for_the_place_changes_nothing():
    def failed(guards):
        keras.utils.set_random_seed(5)
        step = rooted()
        with pytest.raises(FloatingPointError) as caught:
            watched(step, epochs=40, guards=guards)
        return caught.value.step, snapshot(track(step).variables)

    (at, values), (plain_at, plain_values) = failed("default"), failed("off")

    assert at == plain_at > 2
    for one, other in zip(values, plain_values, strict=True):
        np.testing.assert_array_equal(one, other)


def test_data_that_cannot_be_drawn_again_leaves_the_step_alone():
    with pytest.raises(FloatingPointError, match="'loss' was nan at step 1") as caught:
        watched(Own(small(1), far), iter([numbers()] * 3), batch_size=None)

    assert caught.value.origin is None


def test_good_states_are_kept_only_where_that_costs_little():
    seconds = iter([0.0, 1.0, 2.0, 100.0, 1000.0, 1001.0])
    step, kept = Own(small(1), squares), []

    class Feed:
        resumes, is_stream = "exactly", False

        class position:
            passes, batches = 1, 0

        def state(self):
            kept.append(1)
            return {}

    origins = Origins(step, reopen=None)
    with timed_by(lambda: next(seconds)):
        for _ in range(4):  # at 0, 2, 100 and 1000: each takes a second
            origins.keep(Feed(), pg.History().clock)

    assert len(kept) == 2


# The rules by themselves.


def steps(guard, losses, size, *more):
    """Give a guard losses in blocks of `size`, and return what it finds."""
    losses = np.asarray(losses, "float64")
    numbers = np.arange(1, len(losses) + 1)
    blocks = range(0, len(losses), size)
    found = [guard.steps(losses[i : i + size], numbers[i : i + size], *more) for i in blocks]
    return [finding for some in found for finding in some]


@pytest.mark.parametrize("size", [1, 7, 256])
def test_a_loss_diverges_at_the_same_step_whatever_the_blocks(size):
    losses = [1.0, *[2.0] * 4, *[7.0] * 19, 1.0, *[7.0] * 30]

    (finding,) = steps(Divergence(), losses, size)

    assert "up to step 45" in finding.happened
    assert steps(Divergence(), losses[:25] + [5.9] * 40, size) == []


def test_losses_below_zero_do_not_diverge():
    assert steps(Divergence(), np.linspace(-5, 50, 200), 8) == []


def noisy(values, deviation=0.1):
    return values + np.random.default_rng(2).normal(size=len(values)) * deviation


def test_a_loss_that_stays_where_it_is_stalls_after_500_steps():
    (finding,) = steps(Stall(), noisy(np.full(900, 2.3)), 64, 1)

    assert "Up to step 500 " in finding.happened
    assert steps(Stall(), noisy(np.full(900, 2.3)), 64, 0) == []  # no epoch is over


@pytest.mark.parametrize(
    "losses",
    [
        np.linspace(2.3, 2.2, 900),
        np.concatenate([np.linspace(2.3, 0.5, 5), np.full(900, 0.5)]),
        np.concatenate([np.full(300, 2.3), np.linspace(2.3, 1.0, 100), np.full(500, 1.0)]),
        np.full(400, 2.3),
        np.linspace(0.0, -5.0, 900),
    ],
    ids=["slowly", "at once", "late", "too short", "below zero"],
)
def test_a_loss_that_falls_does_not_stall(losses):
    assert steps(Stall(), noisy(losses, 0.02), 64, 3) == []


def test_a_training_that_goes_on_does_not_stall():
    step = stalled()
    watched(step, epochs=2, guards="off")

    assert watched(step, **LONG)[1] == []


def test_a_model_that_knows_the_labels_already_does_not_stall():
    x, y = numbers()
    y = y + np.random.default_rng(4).normal(scale=0.05, size=y.shape).astype("float32")
    known = keras.Sequential([keras.Input((5,)), kl.Dense(1)])
    known.layers[0].set_weights([np.linalg.lstsq(x, y, rcond=None)[0], np.zeros(1)])

    history, _ = watched(Own(known, squares, optimizer=sgd(1e-3)), (x, y), **LONG)

    assert history.findings == []


def test_waiting_for_data_is_a_hint_once():
    guard = Starvation()
    little, much = {"data": 4.0, "device": 1.0}, {"data": 9.0, "device": 3.0}

    assert guard.epoch(little, 10) == []
    (finding,) = guard.epoch(much, 20)
    assert (finding.code, finding.severity) == ("PG704", "hint")
    assert "75% of the time" in finding.happened and "step 20" in finding.happened
    assert guard.epoch(much, 30) == []
    assert Starvation().epoch({"data": 9.0, "device": 10.0}, 20) == []


def of_epochs(values, losses=(5.0, 4.0, 3.0, 2.0, 1.0, 0.5), metric=None):
    guard, metrics = Stuck(), {"m": metric or keras.metrics.Accuracy()}
    return [
        finding
        for index, (value, loss) in enumerate(zip(values, losses, strict=False))
        for finding in guard.epoch({"m": value, "loss": loss}, metrics, 10 * index)
    ]


def test_a_metric_is_stuck_from_the_first_epoch_to_the_fifth():
    (finding,) = of_epochs([0.1] * 6)

    assert "m: 0.1" in finding.items and "step 40" in finding.happened
    assert of_epochs([0.1] * 4) == []
    assert of_epochs([0.1, 0.1, 0.1, 0.1, 0.2, 0.2]) == []
    assert of_epochs([0.3] + [0.1] * 5) == []
    assert of_epochs([1.0] * 6) == []
    assert of_epochs([0.984375] * 6) == []
    assert len(of_epochs([1.5] * 6)) == 1
    assert of_epochs([0.1] * 6, losses=[2.0] * 6) == []
    assert of_epochs([8.0] * 6, metric=keras.metrics.Mean()) == []


def test_a_run_that_is_taken_up_again_tells_once(tmp_path):
    step, arguments = SICK["PG705"]()
    first, _ = watched(step, run=tmp_path / "run", **arguments)
    again, messages = watched(SICK["PG705"]()[0], run=tmp_path / "run", epochs=9)

    assert [f.code for f in first.findings] == ["PG705"]
    assert again.clock.epoch == 9 and messages == []
    lines = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["kind"] for line in lines].count("finding") == 1


def test_the_guards_are_these():
    assert tuple(GUARDS) == ("PG122", "PG420", "PG701", "PG702", "PG703", "PG704", "PG705")
