"""However fast the machine is: plans keep their budget, blocks their length, numbers their bits."""

from functools import partial
from itertools import pairwise

import keras
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import perigee as pg
from perigee._backends import MOST_STEPS_A_BLOCK
from perigee._execution import Blocks, Program, blocks, make_plan, planning
from perigee._execution.compiling import compile_seconds, compiling
from perigee._execution.timing import now, timed_by
from perigee.data import open_feed
from tests.execution.machines import OTHERS, USUAL, Cost, Endless, Machine, Sampled, ticking
from tests.execution.trainings import BATCH, FUSES, Beginning, Counting, Everything, rows

measured = pytest.mark.skipif(not OTHERS, reason="there is nothing to choose from")
fused = pytest.mark.skipif(not FUSES, reason="the framework runs one step a call")

QUICK, SLOW = 1e-6, 10.0
"""Seconds of the quickest and of the slowest steps."""
MOST_BATCHES = 10**7
EXACT = 1 + 1e-9
[OTHER] = OTHERS or [USUAL]
TIMES_AS_LONG = 3 if OTHER[0] == "xla" else 1
"""As which compiling the other way is expected to take, measured by the usual one."""

often = settings(deadline=None, derandomize=True, max_examples=200)


@pytest.fixture(autouse=True, scope="module")
def no_cache(tmp_path_factory):
    """Let no plan be remembered: a file stands where the folder would be."""
    file = tmp_path_factory.mktemp("cache") / "file"
    file.write_text("no folder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(file))
        yield


def spread(low, high):
    """Draw numbers from `low` to `high`, each size as often as any other."""
    return st.floats(np.log10(low), np.log10(high)).map(lambda power: 10.0**power)


seconds_a_step = spread(QUICK, SLOW)
seconds_to_compile = st.just(0.0) | spread(1e-3, 100.0)
batches_a_pass = spread(1, MOST_BATCHES).map(round)


def compiler_error():
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.errors.UnimplementedError(None, None, "no kernel for this")
    import jax

    return jax.errors.JaxRuntimeError("no kernel for this")


def plan_on(machine, batches, steps):
    with timed_by(machine.timer):
        return make_plan(machine, Sampled(batches), np.zeros((1, 1), "float32"), steps)


def pair(plan):
    return plan.mode, plan.is_fused


# The plan.


@measured
@often
@given(
    step=seconds_a_step,
    times=spread(1e-3, 1e3),
    compile_usual=seconds_to_compile,
    compile_other=seconds_to_compile,
    tracing=seconds_to_compile,
    batches=batches_a_pass,
    steps=spread(1, MOST_BATCHES).map(round),
    most=st.integers(1, MOST_STEPS_A_BLOCK),
)
@example(QUICK, 0.5, 0.0, 0.0, 0.0, MOST_BATCHES, MOST_BATCHES, MOST_STEPS_A_BLOCK)
@example(SLOW, 0.5, 1.0, 1.0, 0.0, MOST_BATCHES, MOST_BATCHES, MOST_STEPS_A_BLOCK)
@example(SLOW, 0.5, 1.0, 1.0, 0.0, 100, 100, MOST_STEPS_A_BLOCK)
# The budget would be spent before the usual way is measured once more: under XLA, and without.
@example(SLOW, 0.5, 0.0, 20.0, 0.0, MOST_BATCHES, 500, MOST_STEPS_A_BLOCK)
@example(SLOW, 0.5, 0.0, 10.0, 0.0, MOST_BATCHES, 400, MOST_STEPS_A_BLOCK)
def test_a_plan_keeps_its_budget_and_is_the_fastest_of_what_could_pay(
    step, times, compile_usual, compile_other, tracing, batches, steps, most
):
    costs = {USUAL: Cost(compile_usual, step), OTHER: Cost(compile_other, step * times)}
    machine = Machine(costs, most_steps=most, tracing=tracing)

    plan = plan_on(machine, batches, steps)  # the machine refuses blocks that are too long

    tried = [call for call in machine.calls if call.pair == OTHER]
    assert pair(machine.plan) == USUAL
    if steps < planning._LEAST_STEPS:
        assert (machine.calls, pair(plan), plan.origin) == ([], USUAL, "usual")
        return
    ready = tracing + compile_usual + step
    if steps * step * planning._BEST_GAIN * EXACT < ready * TIMES_AS_LONG:
        assert (tried, pair(plan), plan.origin) == ([], USUAL, "usual")
    if not tried:
        assert pair(plan) == USUAL
    elif plan.trials[1].microseconds is not None and abs(times / 0.95 - 1) > 1e-6:
        assert (pair(plan) == OTHER) == (times < 0.95)
    # What is always spent, and what the other way took longer than could be known.
    slices = 2 * planning._SLICE_SECONDS
    always = ready + step + slices
    expected = ready * TIMES_AS_LONG + 2 * step
    took = compile_other + 2 * step * times + slices if tried else 0.0
    budget = max(planning._BUDGET_SHARE * steps * step, planning._BUDGET_SECONDS)
    assert machine.seconds <= EXACT * (max(budget, always) + max(0.0, took - expected))


FAST, LONG = 1e-4, 10**6
"""Seconds of a step, and steps of a training that measuring pays for."""
CHEAP = Cost(0.1, FAST)
ALWAYS = [1, 1, 8, 8]
"""Steps that a measurement begins with: one to compile, one to know how many, a few twice."""
SLICES = 3 * [256]


def other_counts(count):
    """Return the steps of the calls for the other way, which are single where it is not fused."""
    return count if OTHER[1] else [1] * sum(count)


NOTES = {
    "it is faster": ({OTHER: Cost(0.1, FAST / 2)}, {}, LONG, "", ALWAYS + SLICES),
    "it is no faster": ({OTHER: CHEAP}, {}, LONG, "", ALWAYS + SLICES),
    "it is much slower": (
        {OTHER: Cost(0.1, 4 * FAST)},
        {},
        LONG,
        "abandoned after 16 steps",
        ALWAYS,
    ),
    "a single step of it is much slower": (
        {OTHER: Cost(0.1, 1000 * FAST)},
        {},
        LONG,
        "abandoned after 1 steps",
        [1, 1],
    ),
    "compiling takes all that is gained": (
        {OTHER: CHEAP, USUAL: Cost(1.0, FAST)},
        {},
        1000,
        "skipped: compiling would not pay off in the remaining steps",
        [],
    ),
    "compiling takes too long": (
        {OTHER: CHEAP, USUAL: Cost(2.0, FAST)},
        {},
        200_000,
        "skipped: measuring it would take too long",
        [],
    ),
    "compiling took longer than expected": (
        {OTHER: Cost(30.0, FAST)},
        {},
        LONG,
        "skipped: compiling it took too long",
        [1],
    ),
    "the compiler refuses it": (
        {OTHER: CHEAP},
        {"error": True},
        LONG,
        "skipped: {error} while compiling",
        [],
    ),
    "something stands against it": (
        {OTHER: CHEAP},
        {"found": ("a print", "a summary")},
        LONG,
        "skipped: there is a print, a summary",
        [],
    ),
    "the clock is too coarse": (
        {OTHER: Cost(0.0, 0.0), USUAL: Cost(0.0, 0.0)},
        {},
        LONG,
        "",
        ALWAYS + SLICES,
    ),
    "a call takes longer than its steps": (
        {OTHER: Cost(0.1, FAST / 2, call=FAST), USUAL: Cost(0.1, FAST, call=FAST)},
        {},
        LONG,
        "",
        ALWAYS + SLICES,
    ),
}


@measured
@pytest.mark.parametrize("name", NOTES)
def test_a_plan_says_why_another_one_is_not_taken(name):
    costs, more, steps, note, counts = NOTES[name]
    error = compiler_error() if more.get("error") else None
    machine = Machine({USUAL: CHEAP, **costs}, **{**more, "error": error})

    plan = plan_on(machine, batches=MOST_BATCHES, steps=steps)

    usual, other = plan.trials
    assert other.note == note.format(error=type(error).__name__)
    assert [c.count for c in machine.calls if c.pair == OTHER] == other_counts(counts)
    assert (usual.note, usual.microseconds is None) == ("", "found" in more)
    each = {way: c.step + c.call / (256 if way[1] else 1) for way, c in machine.costs.items()}
    assert pair(plan) == (OTHER if each[OTHER] < each[USUAL] else USUAL)


@measured
def test_only_xla_that_draws_other_numbers_is_said_to():
    machine = Machine({USUAL: CHEAP, OTHER: CHEAP}, is_random=True)

    plan = plan_on(machine, batches=MOST_BATCHES, steps=LONG)

    assert ("draws other random numbers" in plan.trials[1].note) == (OTHER[0] == "xla")


@measured
@pytest.mark.parametrize(
    "error", [RuntimeError("of the user"), TypeError("of Perigee"), KeyError("of either")]
)
def test_an_error_that_is_not_of_the_compiler_comes_out(error):
    machine = Machine({USUAL: CHEAP, OTHER: CHEAP}, error=error)

    with pytest.raises(type(error)) as raised:
        plan_on(machine, batches=MOST_BATCHES, steps=LONG)

    assert raised.value is error
    assert pair(machine.plan) == USUAL


@measured
def test_a_step_that_fails_only_in_another_way_is_not_hidden():
    """The Python code of a step is traced anew for each way: what it raises is the user's."""
    traced = []

    class Failing(Everything):
        def train_step(self, batch):
            traced.append(1)
            if len(traced) == 3:  # rehearsed, compiled in the usual way, and now in another
                raise ValueError("of the user")
            return super().train_step(batch)

    with timed_by(ticking(QUICK)), pytest.raises(ValueError, match="of the user"):
        pg.fit(Failing(), rows(300 * BATCH), batch_size=BATCH, epochs=100, progress="off")


# Blocks.


def run_blocks(machine, feed, count, most=None):
    """Run so many blocks, and return the calls that they made."""
    made = Blocks(feed)
    with timed_by(machine.timer):
        for _ in range(count):
            made.run(machine, most)
    return machine.calls


@fused
@often
@given(
    step=seconds_a_step,
    call=st.just(0.0) | spread(1e-6, 1.0),
    compile=seconds_to_compile,
    batches=batches_a_pass,
    most=st.none() | st.integers(1, 1000),
    room=st.integers(1, MOST_STEPS_A_BLOCK),
)
@example(QUICK, 0.0, 1.0, MOST_BATCHES, None, MOST_STEPS_A_BLOCK)
@example(SLOW, 0.0, 1.0, MOST_BATCHES, None, MOST_STEPS_A_BLOCK)
def test_blocks_are_as_long_as_they_may_be_and_no_longer(step, call, compile, batches, most, room):
    machine = Machine({USUAL: Cost(compile, step, call)}, most_steps=room)

    calls = run_blocks(machine, Endless(batches), 12, most)

    bound = max(blocks._BLOCK_SECONDS, call + step)
    assert all(c.end - c.begin <= EXACT * bound for c in calls if not c.compiled)
    longest = max(c.count for c in calls)
    if longest < min(room, batches, most or room):  # then four times as many would take too long
        assert blocks._GROWTH * (call + longest * step) * EXACT > blocks._BLOCK_SECONDS


@fused
@often
@given(
    step=seconds_a_step,
    compile=seconds_to_compile,
    at=st.sets(st.integers(0, 11)),
)
def test_a_call_that_compiles_changes_the_length_of_no_block(step, compile, at):
    lengths = []
    for again in (set(), at):
        machine = Machine({USUAL: Cost(compile, step)})
        made, feed = Blocks(Endless(MOST_BATCHES)), []
        with timed_by(machine.timer):
            for index in range(12):
                if index in again:
                    machine.forget()
                made.run(machine, None)
                if not machine.calls[-1].compiled:
                    feed.append(machine.calls[-1].count)
        lengths.append(feed)

    whole, interrupted = lengths
    assert interrupted == whole[: len(interrupted)]


@fused
def test_blocks_follow_a_machine_that_slows_down_and_recovers():
    machine = Machine({USUAL: Cost(1.0, QUICK)})
    made = Blocks(Endless(MOST_BATCHES))

    def counts(step, blocks_run):
        machine.costs[USUAL].step = step
        del machine.calls[:]
        with timed_by(machine.timer):
            for _ in range(blocks_run):
                made.run(machine, None)
        return [call.count for call in machine.calls]

    assert counts(QUICK, 7) == [1, 1, 4, 16, 64, 256, 256]
    assert counts(0.01, 3) == [256, 25, 25]
    assert counts(SLOW, 3) == [25, 1, 1]
    assert counts(QUICK, 6) == [1, 4, 16, 64, 256, 256]


@fused
@pytest.mark.parametrize(
    "is_fixed, expected", [(False, [64, 64, 8, 8, 32, 64, 64]), (True, [64] * 7)]
)
def test_a_number_of_steps_that_is_given_is_the_most_where_they_are_slow(is_fixed, expected):
    """A signal would wait for the end of the block."""
    machine, found = Machine({USUAL: Cost(1.0, QUICK)}), []
    made = Blocks(Endless(MOST_BATCHES), 64, is_fixed)

    with timed_by(machine.timer):
        for step in (QUICK, 0.03, 0.03, QUICK, QUICK, QUICK, QUICK):
            machine.costs[USUAL].step = step
            made.run(machine, None)
            found.append(machine.calls[-1].count)

    assert found == expected


@fused
def test_steps_that_are_done_do_not_wait_for_many_batches_of_slow_data():
    seconds, pause = [0.0], 0.1

    def slow():
        for batch in rows(20 * BATCH).reshape(20, BATCH, -1):
            seconds.append(seconds[-1] + pause)
            yield batch

    feed = open_feed(slow)
    ready = Program.of(Squares(), "train_step", feed.peek(), pg.Execution("graph", 16))
    ready.begin_block = partial(Done, ready)
    made = Blocks(feed, 16)
    with timed_by(lambda: seconds[-1]):
        counts, waited = [], [seconds[-1]]
        while (block := made.run(ready, None)) is not None:
            counts.append(len(block))
            waited.append(seconds[-1])

    assert sum(counts) == 20
    # What waits is what a block may take, and the batch on which that is noticed, before the steps
    # and again beside them.
    most = 2 * (blocks._BLOCK_SECONDS + pause) + pause
    assert all(later - former <= most for former, later in pairwise(waited))


@fused
def test_programs_that_follow_each_other_are_each_known_when_they_compile():
    """One that is gone may have had the address of the next one."""
    made = Blocks(Endless(MOST_BATCHES))
    counts = []

    for _ in range(20):
        machine = Machine({USUAL: Cost(100.0, QUICK)})
        with timed_by(machine.timer):
            made.run(machine, None)
        counts.append(machine.calls[0].count)
        del machine

    assert counts == [1] * 20


@fused
@pytest.mark.parametrize("kind", ["run_block", "begin_block"])
@pytest.mark.parametrize("count", [0, MOST_STEPS_A_BLOCK + 1])
def test_a_program_refuses_a_block_that_it_has_no_room_for(kind, count):
    x = rows((MOST_STEPS_A_BLOCK + 1) * BATCH)
    ready = Program.of(Everything(), "train_step", x[:BATCH], pg.Execution())

    with pytest.raises(ValueError, match=f"steps, not {count}"):
        getattr(ready, kind)(x, BATCH, 0, count)

    assert ready.traces == 0


# Trainings.


class Squares(pg.Step):
    """Fits a line, which takes a few microseconds a step."""

    def __init__(self):
        keras.utils.set_random_seed(3)
        self.model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.01)

    def train_step(self, batch):
        def objective():
            return keras.ops.sum(keras.ops.square(self.model(batch) - batch[:, :1])) / BATCH

        return {"loss": self.minimize(objective, self.optimizer, self.model)}

    def test_step(self, batch):
        return {"size": pg.mean(keras.ops.abs(self.model(batch)))}

    def predict_step(self, batch):
        return self.model(batch)


@pytest.mark.parametrize("tick", [QUICK, SLOW], ids=["quick", "slow"])
def test_a_training_with_default_arguments_ends_on_a_machine_of_any_speed(tick):
    batches, epochs = MOST_STEPS_A_BLOCK + 44, 2
    step = Squares()

    with timed_by(ticking(tick)):
        history = pg.fit(
            step, rows(batches * BATCH), batch_size=BATCH, epochs=epochs, progress="off"
        )

    assert history.clock.step == batches * epochs
    assert int(step.optimizer.iterations) == batches * epochs
    measured = [t.microseconds for t in history.plan.trials if t.microseconds is not None]
    assert bool(measured) == bool(OTHERS)


@fused
def test_the_speed_of_the_machine_changes_no_number():
    x, start = rows(40 * BATCH + 1), Beginning(Squares())
    found, counts = [], []

    for tick in (0.0, QUICK, 0.05, SLOW):
        start.go_back()
        counting = Counting()
        with timed_by(ticking(tick)):
            history = pg.fit(
                start.step,
                x,
                batch_size=BATCH,
                epochs=2,
                validation=x,
                seed=0,
                execution="graph",
                callbacks=[counting],
                progress="off",
            )
            y = pg.predict(start.step, x, batch_size=BATCH)
        weights = [w.tobytes() for w in start.step.model.get_weights()]
        found.append((history.history, weights, y.tobytes()))
        counts.append(counting.counts)

    assert found == [found[0]] * len(found)
    assert counts[0] != counts[-1]


# The timer.


def test_the_timer_is_the_one_that_was_given_and_the_one_before_afterwards():
    with timed_by(ticking(2.0)):
        assert [now(), now()] == [0.0, 2.0]
        with timed_by(lambda: 7.0):
            assert now() == 7.0
        assert now() == 4.0
    assert now() != now()


def test_what_compiling_takes_is_counted_by_the_timer():
    before = compile_seconds()

    with timed_by(ticking(5.0)), compiling(), compiling():
        pass

    assert compile_seconds() - before == 5.0


class Done:
    """A block on a device that is done at once."""

    def __init__(self, program, *arguments):
        self.result = type(program).begin_block(program, *arguments).result

    def done(self):
        return True


@fused
def test_waiting_for_data_is_told_by_the_timer():
    """A device that is done while batches are taken waits for them."""
    feed = open_feed([*rows(8 * BATCH).reshape(8, BATCH, -1)])
    ready = Program.of(Squares(), "train_step", feed.peek(), pg.Execution("graph", 4))
    ready.run_block(rows(8 * BATCH), BATCH, 0, 1)
    seconds, pause = [0.0], 100.0
    original = feed.look_ahead

    def look_ahead(most):
        seconds.append(seconds[-1] + pause)
        return original(most)

    feed.look_ahead, ready.begin_block = look_ahead, partial(Done, ready)
    made = Blocks(feed, 4)
    with timed_by(lambda: seconds[-1]):
        made.run(ready, None)

    # The first look is made before it is asked whether the device is done.
    looks = len(seconds) - 1
    assert (made.device_seconds, made.data_seconds) == (pause, (looks - 1) * pause)
