"""`Preemption` stops a training before its time is over."""

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._errors import ArgumentError
from perigee._events.clock import Clock
from perigee._events.deadlines import Preemption
from perigee._events.events import Recorded, StepsDone


class ManualTime:
    """A clock that stands until it is set."""

    def __init__(self, secs: float = 100.0) -> None:
        self.secs = secs

    def __call__(self) -> float:
        return self.secs


def steps_done(stop):
    return StepsDone(clock=Clock(1, 0, 1), count=1, read=dict, stop=stop, seconds=0.0)


def recorded(stop):
    return Recorded(clock=Clock(1, 0, 1), scope="validation", values={}, stop=stop, seconds=0.0)


@pytest.mark.parametrize("tell", [("on_steps", steps_done), ("on_record", recorded)])
def test_it_stops_when_only_the_margin_is_left(tell):
    method, event = tell
    limit_secs, margin_secs = 50.0, 20.0
    now, reasons = ManualTime(), []
    began = now.secs
    hook = Preemption(limit_secs, margin_secs=margin_secs, now=now)
    now.secs = began + limit_secs - margin_secs - 0.1
    getattr(hook, method)(event(reasons.append))
    assert reasons == []
    now.secs = began + limit_secs - margin_secs
    getattr(hook, method)(event(reasons.append))
    assert reasons == ["deadline"]


def test_it_stops_when_told_and_asks_at_most_once_in_poll_secs():
    poll_secs, answers = 5.0, iter([False, True])
    now, reasons = ManualTime(), []
    hook = Preemption(when=lambda: next(answers), poll_secs=poll_secs, now=now)
    hook.on_steps(steps_done(reasons.append))  # asks
    now.secs += poll_secs - 0.1
    hook.on_steps(steps_done(reasons.append))
    assert reasons == []
    now.secs += 0.1
    hook.on_steps(steps_done(reasons.append))  # asks
    assert reasons == ["deadline"]


@pytest.mark.parametrize("arguments", [{}, {"limit_secs": 60}, {"limit_secs": 5, "margin_secs": 9}])
def test_it_refuses_what_could_never_stop_in_time(arguments):
    with pytest.raises(ArgumentError, match="limit_secs="):
        Preemption(**arguments)


def test_it_ends_fit_with_its_reason():
    now = ManualTime()
    step = pg.Supervised(
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), keras.optimizers.SGD(), "mse"
    )
    inputs, targets = np.ones((8, 2), "float32"), np.ones((8, 1), "float32")
    hook = Preemption(100, now=now)
    now.secs += 50
    history = pg.fit(step, (inputs, targets), epochs=1000, batch_size=4, callbacks=[hook])
    assert history.stop_reason == "deadline"
    assert history.clock.step < 2000
