"""What is said of a run that is finished, and how it trains further."""

import json
import re
import warnings

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._errors import ArgumentError
from perigee._events.clock import Clock
from perigee._runs.finished import said_of_finished

pytestmark = pytest.mark.filterwarnings("ignore::perigee.PerigeeWarning")


def rows():
    x = np.random.default_rng(5).normal(size=(12, 3)).astype("float32")
    return x, x[:, :1]


def early(patience=2):
    # The loss falls, so that it stops in its third epoch.
    return keras.callbacks.EarlyStopping("loss", mode="max", patience=patience)


def model():
    keras.utils.set_random_seed(2)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


def train(path, *callbacks, resume="auto", data=None, **arguments):
    step = pg.Supervised(model(), keras.optimizers.SGD(0.01), keras.losses.MeanSquaredError())
    return pg.fit(
        step,
        rows() if data is None else data,
        run=pg.Run(path, resume=resume),
        callbacks=callbacks,
        **{"epochs": 20, "execution": "eager", "progress": "off", "seed": 1, **arguments},
    )


def said(again, *given, **arguments):
    """Return the warning of a start that trains nothing, and its history."""
    with pytest.warns(RuntimeWarning, match="Nothing was trained now") as caught:
        history = again(*given, **arguments)
    [text] = [str(each.message) for each in caught if "finished" in str(each.message)]
    [line] = [each.filename for each in caught if "finished" in str(each.message)]
    assert line == __file__
    return text, history


def test_a_run_with_all_its_epochs_says_when_it_ended_and_how_to_train_further(tmp_path):
    path = tmp_path / "run"
    first = train(path, epochs=2)
    ended = json.loads((path / "run.json").read_text())["ended"]

    text, again = said(train, path, epochs=2)

    day, time = ended.removesuffix("+00:00").split("T")
    assert f"{path} holds a training that is finished: it ended on {day} at {time} UTC" in text
    assert "after 2 steps (2 epochs), when all `epochs` were trained" in text
    assert text.endswith("pass more `epochs`; they count from the beginning of the run.")
    assert (again.history, again.stop_reason) == (first.history, "epochs")
    assert json.loads((path / "run.json").read_text())["ended"] == ended
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert train(path, epochs=3).clock.epoch == 3


def test_a_run_that_a_callback_stopped_names_it_and_the_way_past_the_stop(tmp_path):
    first = train(tmp_path, early())

    text, again = said(train, tmp_path, early())

    assert "after 3 steps (3 epochs), because the callback EarlyStopping requested it" in text
    assert 'pg.Run(..., resume="past_stop")' in text and "--resume past_stop" in text
    assert (again.history, again.stop_reason) == (first.history, "asked by a callback")


class Counting(keras.callbacks.Callback):
    """Has a state that goes past the stop, as it stops nothing."""

    epochs = 0

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1


def test_past_the_stop_it_trains_on_and_the_callback_begins_anew(tmp_path):
    longer = train(tmp_path / "longer", epochs=6)
    train(tmp_path / "run", early(), Counting())
    stopping, counting = early(), Counting()

    history = train(tmp_path / "run", stopping, counting, resume="past_stop")

    # It waits for as long as in a new training: the first epoch is its best one.
    assert (history.clock.epoch, history.stop_reason) == (6, "asked by a callback")
    assert history.resumed_from == Clock(3, 3, 0)
    assert (stopping.best_epoch, stopping.wait, stopping.stopped_epoch) == (3, 2, 5)
    assert counting.epochs == 6
    assert history.history["loss"] == longer.history["loss"]


def test_past_the_stop_a_kill_or_a_signal_resumes_as_always(tmp_path):
    class Deadline(pg.Hook):
        def on_record(self, event):
            if event.clock.epoch == 4:
                event.stop("deadline")

    straight = tmp_path / "straight"
    for path in (straight, tmp_path / "run"):
        train(path, early())
    whole = train(straight, early(), resume="past_stop")
    assert train(tmp_path / "run", early(), Deadline(), resume="past_stop").clock.epoch == 4

    resumed = train(tmp_path / "run", early(), resume="past_stop")

    assert resumed.history == whole.history
    assert resumed.clock == whole.clock == Clock(6, 6, 0)


def test_a_hook_that_stopped_within_an_epoch_is_passed_too(tmp_path):
    class Stop(pg.Hook):
        every = pg.Every(steps=4)

        def on_steps(self, event):
            event.stop("good enough")

    given = {"batch_size": 4, "epochs": 2}
    straight = train(tmp_path / "straight", **given)
    train(tmp_path / "run", Stop(), **given)

    text, again = said(train, tmp_path / "run", **given)

    assert "for the reason 'good enough', which a hook gave" in text
    assert again.clock == Clock(4, 1, 1)
    further = train(tmp_path / "run", resume="past_stop", **given)
    assert (further.history, further.stop_reason) == (straight.history, "epochs")


def test_a_model_of_keras_says_the_same(tmp_path):
    def fit():
        made = model()
        made.compile("sgd", "mse")
        x, y = rows()
        return pg.keras_fit(made, x, y, epochs=2, run=tmp_path, verbose=0)

    fit()
    text, _ = said(fit)

    assert "after 2 steps (2 epochs), when all `epochs` were trained" in text


def test_a_loop_of_the_users_own_says_so_and_goes_past_its_stop(tmp_path):
    def drive(resume="auto", most=10):
        step = pg.Supervised(model(), keras.optimizers.SGD(0.01), "mse")
        run = pg.Run(tmp_path, resume=resume)
        with pg.prepare(step, run=run, execution="eager", progress="off") as trainer:
            while trainer.goes_on(steps=most):
                trainer.train_step(rows())
                if trainer.clock.step == 3:
                    trainer.stop("solved")
        return trainer.clock.step, trainer.stop_reason

    assert drive() == (3, "solved")
    text, ended = said(drive)
    assert ended == (3, "solved")
    assert "for the reason 'solved'" in text

    assert drive("past_stop") == (10, "steps")
    assert "when all `steps` were trained" in said(drive)[0]


@pytest.mark.once
@pytest.mark.parametrize(
    "reason, further",
    [
        ("steps", "pass more `steps`"),
        ("non-finite", "train in another directory"),
        ("data", "pass data that can be drawn again"),
        ("validation data", "pass validation data that can be drawn again"),
        ("asked by a callback", "because a callback requested it"),
    ],
)
def test_each_reason_has_its_way_further(reason, further):
    text = said_of_finished("runs/x", Clock(1, 1, 0), reason, None, [])

    assert text.startswith("runs/x holds a training that is finished: it ended after 1 step (1 epo")
    assert further in text
    assert ("past_stop" in text) == (reason not in ("steps", "non-finite"))


@pytest.mark.once
def test_another_word_is_refused_with_all_four(tmp_path):
    with pytest.raises(ArgumentError, match=re.escape('"auto", "never", "required" or "past_st')):
        pg.Run(tmp_path, resume="past-stop")
