"""The plan is measured where that can pay, and nothing shows of it but the plan."""

import json
import math
import os
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee import _backends
from perigee._execution import Blocks, Plan, Program, Trial, make_plan, planning
from perigee._execution.timing import timed_by
from perigee.data import open_feed
from tests.execution.trainings import (
    BATCH,
    FEATURES,
    FUSES,
    HOST_KINDS,
    Beginning,
    Everything,
    as_data,
    cut,
    exact,
    rows,
    train,
)

ROOT = Path(__file__).parents[2]
TIMEOUT_SECS = 200

PLANS = _backends.current().capabilities.plans
[USUAL, *OTHERS] = PLANS
ENOUGH_STEPS = 100

measured = pytest.mark.skipif(not OTHERS, reason="there is nothing to choose from")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Give each test a memory of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "perigee" / "plans"


@pytest.fixture
def measuring(monkeypatch):
    """Measure everything, whatever it costs."""
    monkeypatch.setattr(planning, "_LEAST_STEPS", 1)
    monkeypatch.setattr(planning, "_BUDGET_SECONDS", math.inf)
    monkeypatch.setattr(planning, "_BEST_GAIN", math.inf)


@pytest.fixture
def costs(monkeypatch):
    """Return a function that makes plans cost what it is told, in microseconds and seconds.

    Measuring them costs nothing.
    """
    original = planning._Trials._timed

    def cost(microseconds, compile_seconds=0.1):
        def timed(self, pair, limit):
            trial = original(self, pair, limit)
            return replace(trial, microseconds=microseconds[pair], compile_seconds=compile_seconds)

        monkeypatch.setattr(planning._Trials, "_timed", timed)

    with timed_by(lambda: 0.0):
        yield cost


@pytest.fixture
def refused(monkeypatch):
    """Refuse to measure."""

    def refuse(*args):
        raise AssertionError("it was measured")

    monkeypatch.setattr(planning._Trials, "run", refuse)


def cheapest(pair):
    return {other: 100.0 if other == pair else 200.0 for other in PLANS}


class Fitting(pg.Step):
    """Fits a model by a sum, whose gradient looks nothing up; `extra` goes through each batch."""

    def __init__(self, extra=lambda batch: batch):
        self.model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(2)])
        self.optimizer = keras.optimizers.SGD(0.02, momentum=0.9)
        self.noise = keras.random.SeedGenerator(3)
        self.extra = extra

    def train_step(self, batch):
        batch = self.extra(batch)
        loss = self.minimize(lambda: self.loss(batch), self.optimizer, self.model)
        return {"loss": loss}

    def loss(self, batch):
        return ops.sum(ops.square(self.model(batch, training=True) - batch[:, :1])) / BATCH


def fit(step, data=None, **arguments):
    """Train a Step, on four batches a pass and for 5 epochs by default, and return its plan."""
    data = rows(4 * BATCH) if data is None else data
    if isinstance(data, np.ndarray):
        arguments = {"batch_size": BATCH, **arguments}
    if "steps" not in arguments:
        arguments = {"epochs": 5, **arguments}
    return pg.fit(step, data, progress="off", seed=0, **arguments).plan


def pair(plan):
    return plan.mode, plan.is_fused


# When it is measured.


EXPLICIT = ["eager", *(["graph"] if FUSES else [])]


@pytest.mark.parametrize("mode", EXPLICIT)
@pytest.mark.parametrize("steps_per_call", ["auto", 1, 8])
def test_a_mode_that_is_asked_for_is_taken_as_it_is(mode, steps_per_call, measuring, refused):
    plan = fit(Fitting(), execution=pg.Execution(mode, steps_per_call))

    is_fused = mode != "eager" and steps_per_call != 1
    assert (plan.mode, plan.is_fused, plan.origin) == (mode, is_fused, "requested")
    assert plan.trials == ()


@pytest.mark.parametrize("steps_per_call", [1, 8])
def test_a_number_of_steps_that_is_asked_for_is_taken_as_it_is(steps_per_call, measuring, refused):
    plan = fit(Fitting(), execution=pg.Execution(steps_per_call=steps_per_call))

    assert (plan.is_fused, plan.origin) == (FUSES and steps_per_call > 1, "requested")


def test_what_was_asked_for_once_is_not_asked_for_again(measuring):
    step = Fitting()
    asked = fit(step, execution="eager")

    plan = fit(step)

    assert asked.origin == "requested"
    assert plan.origin != "requested"
    assert pair(plan) in PLANS


@measured
@pytest.mark.parametrize(
    ("steps", "is_measured"), [(ENOUGH_STEPS - 1, False), (ENOUGH_STEPS, True)]
)
@pytest.mark.parametrize("kind", ["arrays", *HOST_KINDS])
def test_only_trainings_of_enough_steps_are_measured(kind, steps, is_measured):
    data = as_data(kind, cut(rows(4 * BATCH), [BATCH] * 4))

    plan = fit(Fitting(), data, steps=steps)

    assert bool(plan.trials) == is_measured
    if not is_measured:
        assert (pair(plan), plan.origin) == (USUAL, "usual")


@measured
@pytest.mark.parametrize(
    ("arguments", "is_measured"),
    [
        ({"epochs": 3}, False),
        ({"epochs": 3, "steps": 9}, False),
        ({"epochs": 3, "steps_per_epoch": 4}, True),
        ({"steps": 9}, True),
    ],
    ids=str,
)
def test_a_training_of_unknown_length_is_not_measured(arguments, is_measured, measuring):
    plan = fit(Fitting(), as_data("function", cut(rows(9), [3, 3, 3])), **arguments)

    assert bool(plan.trials) == is_measured


@pytest.mark.only_tensorflow
def test_data_that_allows_one_way_only_is_not_measured(measuring, refused):
    plan = fit(Fitting(), as_data("tf.data", cut(rows(9), [3, 3, 3])), steps=9)

    assert (pair(plan), plan.origin) == (USUAL, "usual")


@pytest.mark.only_torch
def test_one_way_only_is_not_measured(measuring, refused):
    assert str(fit(Fitting())) == "eager, one step per call (usual)"


# What is chosen.


@measured
@pytest.mark.parametrize("winner", PLANS, ids=str)
def test_the_fastest_is_chosen(winner, measuring, costs):
    costs(cheapest(winner))

    plan = fit(Fitting())

    assert (pair(plan), plan.origin) == (winner, "measured")
    assert [pair(trial) for trial in plan.trials] == [USUAL, *OTHERS]
    assert [trial.microseconds for trial in plan.trials] == list(cheapest(winner).values())


@measured
@pytest.mark.parametrize(("share", "is_chosen"), [(0.96, False), (0.94, True)])
def test_a_small_gain_changes_nothing(share, is_chosen, measuring, costs):
    costs({USUAL: 100.0, OTHERS[0]: 100.0 * share})

    assert (pair(fit(Fitting())) == OTHERS[0]) == is_chosen


@measured
def test_the_usual_plan_is_measured_again_before_another_one_takes_its_place(
    measuring, monkeypatch
):
    costs = iter([200.0, 150.0, 100.0])  # the usual one was disturbed the first time

    def timed(self, pair, limit):
        return Trial(*pair, next(costs), 0.1)

    monkeypatch.setattr(planning._Trials, "_timed", timed)

    plan = fit(Fitting())

    assert (pair(plan), plan.origin) == (USUAL, "measured")
    assert [trial.microseconds for trial in plan.trials] == [100.0, 150.0]


def prepared(step, data=None):
    """Return what `make_plan` takes but for the number of steps."""
    data = rows(4 * BATCH) if data is None else data
    feed = open_feed(data, batch_size=BATCH, shuffle=False)
    batch = feed.peek()
    return Program.of(step, "train_step", batch, pg.Execution()), Blocks(feed), batch


@pytest.mark.only_tensorflow
def test_operations_that_xla_lacks_leave_it_out(measuring):
    import tensorflow as tf

    def through_eigenvalues(batch):
        square = tf.linalg.diag(tf.stop_gradient(batch))
        return batch + 0 * tf.math.real(tf.linalg.eigvals(square))

    step = Fitting(through_eigenvalues)
    start = Beginning(step)

    plan = fit(step)

    assert (pair(plan), plan.origin) == (USUAL, "usual")
    assert plan.trials[1].note == "skipped: InvalidArgumentError while compiling"
    assert start.step.optimizer.iterations.numpy() == 5 * 4


class Convolving(Fitting):
    def __init__(self):
        super().__init__()
        self.model = keras.Sequential(
            [keras.Input((FEATURES, 1)), keras.layers.Conv1D(2, 2), keras.layers.Flatten()]
        )

    def loss(self, batch):
        return ops.sum(ops.square(self.model(batch[..., None], training=True))) / BATCH


@pytest.mark.only_jax
def test_convolutions_are_usually_not_looped_over_on_a_cpu():
    plan = fit(Convolving())

    assert (pair(plan), plan.origin) == (("graph", False), "usual")


@pytest.mark.only_jax
def test_a_loop_over_convolutions_is_measured_against_single_steps(measuring, costs):
    costs({("graph", True): 100.0, ("graph", False): 200.0})

    plan = fit(Convolving())

    assert [pair(trial) for trial in plan.trials] == [("graph", False), ("graph", True)]
    assert (pair(plan), plan.origin) == (("graph", True), "measured")


# What XLA would change.


def silent_under_xla():
    import tensorflow as tf

    writer = tf.summary.create_file_writer(os.environ["XDG_CACHE_HOME"])

    def writes(batch):
        with writer.as_default(step=0):
            tf.summary.scalar("mean", tf.reduce_sum(batch))

    return {
        "assertion": (lambda x: tf.debugging.assert_less(x, 1e6), "an assertion"),
        "print": (lambda x: tf.print("", output_stream="file:///dev/null"), "a print"),
        "Python function": (
            lambda x: tf.py_function(lambda y: y, [x], tf.float32),
            "a Python function",
        ),
        "NumPy function": (
            lambda x: tf.numpy_function(lambda y: y, [x], tf.float32),
            "a Python function",
        ),
        "summary": (writes, "a summary"),
        "lookup": (
            lambda x: tf.gather(x, tf.cast(x[:, 0] * 0, tf.int32)),
            "a lookup whose indices XLA does not check",
        ),
        "numeric check": (lambda x: tf.debugging.check_numerics(x, "x"), ""),
        "lookup by several indices": (
            lambda x: tf.gather_nd(x, tf.cast(x[:, :1] * 0, tf.int32)),
            "",
        ),
        "scatter": (
            lambda x: tf.tensor_scatter_nd_update(x, tf.cast(x[:1, :1] * 0, tf.int32), x[:1]),
            "",
        ),
    }


@pytest.mark.only_tensorflow
@pytest.mark.parametrize(
    "kind",
    [
        *("assertion", "print", "Python function", "NumPy function", "summary", "lookup"),
        *("numeric check", "lookup by several indices", "scatter"),
    ],
)
def test_what_is_silent_under_xla_is_not_offered_to_it(kind, measuring):
    act, name = silent_under_xla()[kind]

    def acting(batch):
        act(batch)
        return batch

    plan = fit(Fitting(acting))

    assert (pair(plan), plan.origin) == (USUAL, "usual")
    assert plan.trials[1].note.startswith("skipped: there is ")
    assert name in plan.trials[1].note


def test_a_step_that_shows_outside_runs_for_no_batch_that_is_not_trained(measuring):
    seen = []

    def shows(batch):
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.py_function(lambda total: seen.append(float(total)), [ops.sum(batch)], [])
        elif keras.backend.backend() == "jax":
            import jax

            jax.debug.callback(lambda total: seen.append(float(total)), ops.sum(batch))
        else:
            seen.append(float(ops.sum(batch)))
        return batch

    step = Fitting(shows)
    plan = fit(step, epochs=5)
    if keras.backend.backend() == "jax":
        import jax

        jax.effects_barrier()

    # The rehearsal is one more.
    assert 5 * 4 <= len(seen) <= 5 * 4 + 1
    assert plan.origin == "usual"


@pytest.mark.only_tensorflow
def test_an_assertion_within_the_objective_is_seen(measuring):
    import tensorflow as tf

    class Asserting(Fitting):
        def loss(self, batch):
            tf.debugging.assert_less(batch, 1e6)
            return super().loss(batch)

    assert fit(Asserting()).trials[1].note == "skipped: there is an assertion"


@pytest.mark.only_tensorflow
def test_a_plain_step_is_offered_to_xla(measuring):
    assert fit(Fitting()).trials[1].microseconds is not None


@pytest.mark.only_tensorflow
def test_a_step_with_a_mean_is_offered_to_xla(measuring):
    class Averaging(Fitting):
        def loss(self, batch):
            return ops.mean(ops.square(self.model(batch, training=True) - batch[:, :1]))

    assert fit(Averaging()).trials[1].microseconds is not None


DRAWS = {
    "normal": lambda seed: keras.random.normal((FEATURES,), seed=seed),
    "dropout": lambda seed: keras.random.dropout(ops.ones((FEATURES,)), 0.5, seed=seed),
    "truncated normal": lambda seed: keras.random.truncated_normal((FEATURES,), seed=seed),
    "categorical": lambda seed: ops.cast(
        keras.random.categorical(ops.ones((1, 3)), FEATURES, seed=seed), "float32"
    ),
}
NOTE = "draws other random numbers from the same seeds"


@pytest.mark.only_tensorflow
@pytest.mark.parametrize(
    "name",
    [
        *("normal", "dropout", "truncated normal", "categorical"),
    ],
)
def test_the_plan_says_that_xla_draws_other_numbers(name, measuring):
    step = Fitting()
    step.extra = lambda batch: batch + DRAWS[name](step.noise)

    usual, xla = fit(step).trials

    assert (usual.note, xla.note) == ("", NOTE)


@pytest.mark.only_tensorflow
def test_the_plan_of_a_step_without_draws_says_nothing(measuring):
    assert [trial.note for trial in fit(Fitting()).trials] == ["", ""]


# That nothing else shows.


@pytest.mark.spread(1)
@measured
@pytest.mark.parametrize(
    ("kind", "winner"),
    [*((kind, plan) for kind in ("arrays", "function") for plan in PLANS), ("PyDataset", USUAL)],
    ids=str,
)
def test_a_measured_training_is_the_one_that_is_asked_for(kind, winner, measuring, costs):
    costs(cheapest(winner))
    mode, is_fused = winner
    asked = pg.Execution(mode, "auto" if is_fused else 1)
    batches, drawn = cut(rows(11), [3, 3, 3, 2]), []

    def trained(execution):
        drawn.clear()
        keras.utils.set_random_seed(5)
        step = Everything()

        def draws():
            for batch in batches:
                drawn.append(1)
                yield batch

        data = draws if kind == "function" else as_data(kind, batches)
        outcome = train(
            step,
            data,
            steps=14,
            execution=execution,
            hook_every=pg.Every(steps=5),
            **({"batch_size": BATCH} if kind == "arrays" else {}),
        )
        host = random.getstate(), np.random.get_state()[1].tobytes()
        passes = data.passes if kind == "PyDataset" else None
        return outcome, exact(outcome), host, len(drawn), passes

    measured, *ours = trained(pg.Execution())
    wanted, *theirs = trained(asked)

    assert (pair(measured.plan), measured.plan.origin) == (winner, "measured")
    assert (pair(wanted.plan), wanted.plan.origin) == (winner, "requested")
    assert ours == theirs


@measured
@pytest.mark.parametrize("winner", PLANS, ids=str)
def test_what_a_step_draws_from_the_host_while_it_is_compiled_is_not_drawn_by_measuring(
    winner, measuring, costs
):
    costs(cheapest(winner))
    mode, is_fused = winner
    outcomes = []

    for execution in (pg.Execution(), pg.Execution(mode, "auto" if is_fused else 1)):
        keras.utils.set_random_seed(5)
        step = Fitting(lambda batch: batch + np.float32(np.random.normal()) + random.random())
        plan = fit(step, execution=execution)
        state = [np.array(weight) for weight in step.model.get_weights()]
        outcomes.append((pair(plan), [w.tobytes() for w in state], np.random.normal()))

    assert outcomes[0] == outcomes[1]


@measured
def test_measuring_leaves_a_step_and_its_feed_as_they_were(measuring):
    step = Everything()
    fit(step, epochs=1, execution=pg.Execution(USUAL[0]))
    planned = prepared(step)
    _, blocks, _ = planned
    feed = blocks.feed
    before = Beginning(step)
    old, position = [v.tobytes() for v in before._values], feed.position

    plan = make_plan(*planned, steps=10**4)

    assert len(plan.trials) == 2
    assert [v.tobytes() for v in Beginning(step)._values] == old
    assert feed.position == position
    assert np.array_equal(feed.draw(), rows(BATCH))


@measured
def test_an_error_while_measuring_leaves_the_step_as_it_was(measuring, monkeypatch):
    step = Everything()
    fit(step, epochs=1, execution=pg.Execution(USUAL[0]))
    planned = prepared(step)
    old = [v.tobytes() for v in Beginning(step)._values]

    def fail(self, count):
        original(self, count)
        raise KeyboardInterrupt

    name = "_block" if USUAL[1] else "_single"
    original = getattr(planning._Trials, name)
    monkeypatch.setattr(planning._Trials, name, fail)

    with pytest.raises(KeyboardInterrupt):
        make_plan(*planned, steps=10**4)

    assert [v.tobytes() for v in Beginning(step)._values] == old
    assert pair(planned[0].plan) == USUAL


@measured
def test_a_plan_of_a_short_training_is_made_anew_for_a_longer_one(costs, cache):
    other = next(p for p in PLANS if p != USUAL)
    costs(cheapest(other), 0.5)
    program, blocks, batch = prepared(Fitting())
    plans = []

    for steps in (1000, 1000, 10**6, 1000, 10**7):
        program.plan = make_plan(program, blocks, batch, steps)
        plans.append((pair(program.plan), program.plan.origin))

    assert plans[:2] == [(USUAL, "usual"), (USUAL, "remembered")]
    assert plans[2:] == [(other, "measured")] * 3


# The memory.


@measured
@pytest.mark.parametrize("winner", PLANS, ids=str)
def test_a_plan_is_remembered(winner, measuring, costs, monkeypatch, request):
    costs(cheapest(winner))
    first = fit(Fitting())
    request.getfixturevalue("refused")

    again = fit(Fitting())

    assert first.origin == "measured"
    assert again == replace(first, origin="remembered")


@measured
def test_a_plan_is_remembered_for_the_same_training_only(measuring, cache):
    class Other(Fitting):
        pass

    x = rows(4 * BATCH)
    fit(Fitting())
    assert len(list(cache.iterdir())) == 1

    for step, data, arguments in [
        (Other(), x, {}),
        (Fitting(), x, {"epochs": 6}),
        (Fitting(), x, {"batch_size": BATCH - 1, "epochs": None, "steps": 20}),
        (Fitting(), x, {"accumulate": 2}),
        (Fitting(), x[:, :, None], {}),
        (Fitting(), np.repeat(x[:, :, None], 2, axis=2), {}),
    ]:
        if data.ndim == 3:
            step.extra = lambda batch: batch[:, :, 0]
        assert fit(step, data, **arguments).origin != "remembered"

    assert len(list(cache.iterdir())) == 7


PROCESS = """
import json
import perigee as pg
from tests.execution.test_planning import Fitting, fit

plan = fit(Fitting(), steps=100)
print(json.dumps(plan.facts()))
"""


@pytest.mark.process
@pytest.mark.slow
@measured
def test_a_plan_is_remembered_by_another_process():
    plan = fit(Fitting(), steps=ENOUGH_STEPS)
    assert plan.origin != "remembered"

    done = subprocess.run(
        [sys.executable, "-c", PROCESS],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECS,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {**plan.facts(), "origin": "remembered"}


DAMAGED = {
    "empty": b"",
    "cut": b'{"mode": "gra',
    "no text": b"\xff\xfe\x00",
    "a list": b"[1, 2]",
    "another mode": b'{"mode": "fast", "is_fused": true, "trials": []}',
    "no mode": b'{"is_fused": true}',
    "a word for a choice": b'{"mode": "graph", "is_fused": "yes"}',
    "trials that are none": b'{"mode": "graph", "is_fused": true, "trials": 5}',
    "other trials": b'{"mode": "graph", "is_fused": true, "trials": [{"speed": 1}]}',
}


@pytest.mark.spread(3)
@measured
@pytest.mark.parametrize("content", DAMAGED.values(), ids=list(DAMAGED))
def test_a_damaged_memory_is_measured_anew(content, measuring, cache):
    fit(Fitting())
    [file] = cache.iterdir()
    file.write_bytes(content)

    again, third = fit(Fitting()), fit(Fitting())

    assert again.origin in ("measured", "usual")
    assert third.origin == "remembered"


@measured
def test_a_memory_that_is_a_folder_is_measured_anew(measuring, cache):
    fit(Fitting())
    [file] = cache.iterdir()
    file.unlink()
    file.mkdir()

    plan = fit(Fitting())

    assert plan.origin in ("measured", "usual")
    assert list(cache.iterdir()) == [file]


@measured
def test_a_cache_that_cannot_be_written_is_done_without(measuring, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))

    plan = fit(Fitting())

    assert plan.origin in ("measured", "usual")
    assert path.read_text() == "no folder"


@measured
def test_a_plan_is_remembered_for_the_devices_on_which_it_was_measured(measuring, monkeypatch):
    def devices(*names):
        monkeypatch.setattr(_backends.current(), "device_names", lambda: list(names))

    origins = []
    for names in (["cpu"], ["NVIDIA H200"], ["NVIDIA H200"] * 2, ["cpu"]):
        devices(*names)
        origins.append(fit(Fitting()).origin)

    assert "remembered" not in origins[:3]
    assert origins[3] == "remembered"


@pytest.fixture
def remembered(cache, monkeypatch):
    """Return a function that remembers a plan under a number, as if so many seconds ago."""
    monkeypatch.setattr(planning, "_MOST_PLANS", 3)

    def remember(number, age):
        file = cache / f"{number:032x}.json"
        planning._remember(file, Plan(*USUAL, "measured"))
        os.utime(file, (10**9 - age,) * 2)
        return file

    return remember


@pytest.mark.once
def test_only_the_plans_that_were_used_last_are_kept(remembered, cache):
    files = [remembered(number, age=100 - number) for number in range(3)]
    planning._recall(files[0])  # which is in use

    files.append(remembered(3, age=0))

    assert sorted(cache.iterdir()) == [files[0], files[2], files[3]]


@pytest.mark.once
def test_what_else_lies_in_the_cache_stays_and_what_was_left_half_written_goes(remembered, cache):
    cache.mkdir(parents=True)
    others = [cache / "notes.txt", cache / f"{7:032x}.json.bak", cache / f"{8:032x}.json"]
    half = cache / f"{9:032x}.4711-139"
    for file in (*others[:2], half):
        file.write_text("")
        os.utime(file, (0, 0))
    others[2].mkdir()

    files = [remembered(number, age=100 - number) for number in range(4)]

    kept = {*cache.iterdir()}
    assert {*others, *files[-2:]} <= kept
    assert half not in kept


@pytest.mark.once
def test_processes_may_remember_and_forget_at_the_same_time(remembered, cache):
    numbers, plan = range(40), Plan(*USUAL, "measured")

    def work(start):
        for number in numbers:
            file = cache / f"{(start + number) % 7:032x}.json"
            planning._remember(file, plan)
            found = planning._recall(file)
            assert found in (None, replace(plan, origin="remembered"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    remembered(99, age=0)

    assert len([*cache.iterdir()]) == 3


@pytest.mark.only_tensorflow
def test_a_plan_with_xla_is_not_remembered_for_a_step_that_now_asserts(measuring, costs):
    import tensorflow as tf

    costs(cheapest(("xla", True)))
    assert fit(Fitting()).mode == "xla"

    def asserting(batch):
        tf.debugging.assert_less(batch, 1e6)
        return batch

    assert fit(Fitting(asserting)).mode == "graph"


@pytest.mark.only_tensorflow
def test_a_plan_for_arrays_is_none_for_a_dataset(measuring, costs):
    costs(cheapest(("xla", True)))
    step = Fitting()
    assert fit(step).mode == "xla"

    fit(step, as_data("tf.data", cut(rows(9), [3, 3, 3])))

    assert step.optimizer.iterations.numpy() == 5 * 4 + 5 * 3


# What it tells.


def test_a_plan_prints_what_was_tried():
    trials = (
        Trial("graph", True, 123.4, 0.52),
        Trial("xla", True, 98.7, 1.04, NOTE),
        Trial("graph", False, note="skipped: there is a print"),
    )

    assert str(Plan("xla", True, "measured", trials)).splitlines() == [
        "xla, many steps per call (measured)",
        "  graph, many steps per call: 123 us per step, ready after 0.5 s",
        f"  xla, many steps per call: 99 us per step, ready after 1.0 s; {NOTE}",
        "  graph, one step per call: not measured; skipped: there is a print",
    ]


@measured
def test_the_plan_of_a_training_prints_one_line_a_trial(measuring):
    first, *lines = str(fit(Fitting())).splitlines()

    kind = r"(graph|xla), (many steps|one step) per call"
    assert re.fullmatch(rf"{kind} \((measured|usual)\)", first)
    assert len(lines) == len(PLANS)
    for line in lines:
        assert re.fullmatch(rf"  {kind}: \d+ us per step, ready after \d+\.\d s(; .+)?", line)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_a_plan_comes_back_from_its_facts(mode):
    trials = (Trial(mode, False, 12.5, 0.25), Trial("graph", True, note="left out"))
    plan = Plan(mode, False, "measured", trials)

    facts = json.loads(json.dumps(plan.facts()))

    assert Plan.remembered(facts) == replace(plan, origin="remembered")
    assert facts == plan.facts()
