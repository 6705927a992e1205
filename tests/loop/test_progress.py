"""Progress: why a training stops is decided once, and a checkpoint keeps it."""

import signal

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._events.clock import Clock
from perigee._loop.progress import Progress, reason_to_stop


@pytest.mark.once
def test_the_first_reason_that_ends_training_stays():
    stopped = Progress().stopping("solved").stopping("steps").stopping("signal").stopping(None)

    assert stopped.stop == stopped.finished == "solved"


@pytest.mark.once
@pytest.mark.parametrize("interruption", ["signal", "deadline"])
def test_a_reason_that_suspends_training_gives_way_to_one_that_ends_it(interruption):
    suspended = Progress().stopping(interruption)

    assert (suspended.stop, suspended.finished) == (interruption, None)
    assert suspended.stopping(None).stop == interruption
    assert suspended.stopping("asked by a callback").finished == "asked by a callback"


@pytest.mark.once
@pytest.mark.parametrize(
    ("clock", "given", "reason"),
    [
        (Clock(4, 1, 0), {}, None),
        (Clock(5, 1, 1), {}, "steps"),
        (Clock(4, 2, 0), {}, "epochs"),
        (Clock(5, 2, 0), {"interruption": "signal"}, "signal"),
        (
            Clock(1, 0, 1),
            {"interruption": "signal", "is_stopped_by_callback": True},
            "asked by a callback",
        ),
    ],
)
def test_the_reason_that_counts_most(clock, given, reason):
    epochs, steps = 2, 5
    assert reason_to_stop(clock, epochs, steps, **given) == reason


@pytest.mark.once
@pytest.mark.parametrize(
    ("finished", "kept"), [("steps", None), ("epochs", None), (None, None), ("solved", "solved")]
)
def test_whether_there_were_enough_steps_is_decided_again(finished, kept):
    clock = Clock(8, 2, 0)
    before = Progress(clock).with_validation({"loss": 2.0})

    after = Progress.from_state(clock, before.state(), finished)

    assert (after.clock, after.validated, after.stop) == (clock, (8, {"loss": 2.0}), kept)


@pytest.mark.once
def test_a_progress_is_a_value():
    before = Progress(Clock(3, 1, 1))

    after = before.after_steps(2).after_epoch()

    assert before.clock == Clock(3, 1, 1)
    assert after.clock == Clock(5, 2, 0)


class Interrupted(keras.callbacks.Callback):
    """Lets a signal come at the end of an epoch."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.at:
            signal.raise_signal(signal.SIGINT)


def train(run, *more):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    step = pg.Supervised(model, keras.optimizers.SGD(0.01), keras.losses.MeanSquaredError())
    # The loss falls, so that it stops in its third epoch.
    stops = keras.callbacks.EarlyStopping("loss", mode="max", patience=2)
    history = pg.fit(
        step,
        (x, x.sum(1, keepdims=True)),
        epochs=20,
        run=run,
        callbacks=[stops, *more],
        execution="eager",
        progress="off",
        seed=1,
    )
    return history.clock, history.stop_reason, history.history, model.get_weights()


@pytest.mark.filterwarnings("ignore::perigee.PerigeeWarning")
def test_a_signal_in_the_epoch_in_which_a_callback_stops_changes_nothing(tmp_path, capfd):
    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", Interrupted(at=2))

    resumed = train(tmp_path / "cut")

    assert whole[:2] == (Clock(6, 3, 0), "asked by a callback")
    assert resumed[:3] == whole[:3]
    np.testing.assert_array_equal(resumed[3][0], whole[3][0])
