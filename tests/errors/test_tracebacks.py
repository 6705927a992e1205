"""Tracebacks of Perigee's errors end at lines of the user's; the user's own errors keep theirs."""

import inspect
import io
import traceback
from contextlib import redirect_stdout
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

import perigee as pg
from perigee import testing
from perigee._errors import PerigeeError, door
from perigee.tools import learning_rate_range

FEATURES = 3


def data():
    return np.ones((6, FEATURES), "float32")


class Own(pg.Step):
    """A step whose objective is replaced."""

    def __init__(self, objective=None):
        self.model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.01)
        self.objective = objective or (lambda step, x: ops.mean(step.model(x)))

    def train_step(self, batch):
        return {"loss": self.minimize(lambda: self.objective(self, batch), self.optimizer)}

    def test_step(self, batch):
        return {"loss": pg.mean(batch) * batch}

    def predict_step(self, batch):
        return pg.mean(batch) * batch


def no_loss(step, batch):
    return None


def broken(step, batch):
    return {}["missing"]


def frames(error):
    """The functions in a traceback, all of this file, without those that raise it."""
    entries = traceback.extract_tb(error.__traceback__)
    assert {Path(entry.filename) for entry in entries} == {Path(__file__)}, entries
    return [entry.name for entry in entries if entry.name not in ("raised", "<lambda>")]


def raised(function):
    with pytest.raises(Exception) as caught:
        function()
    return caught.value


def used(use):
    """Do something in a loop of the user's own."""
    with pg.prepare(Own(no_loss), progress="off") as trainer:
        use(trainer)


DOORS = {
    "fit": lambda: pg.fit(Own(no_loss), data(), progress="off"),
    "evaluate": lambda: pg.evaluate(Own(), data()),
    "predict": lambda: pg.predict(Own(), data()),
    "prepare": lambda: used(lambda trainer: trainer.train_step(data())),
    "parity": lambda: testing.parity(Own(no_loss), Own(no_loss), data(), steps=1),
    "rates": lambda: learning_rate_range(Own(no_loss), data()),
}
REFUSED_AT_ONCE = {
    "unknown argument": lambda: pg.fit(Own(), data(), epoch=1),
    "argument": lambda: pg.fit(Own(), data(), epochs=0),
    "check": lambda: pg.check(Own(), data(), ignore=["PG999"]),
    "keras_fit": lambda: pg.keras_fit(layers.Dense(1), data()),
    "prepare": lambda: pg.prepare(Own(), steps_per_epoch=0),
    "prepared": lambda: pg.prepare(Own()).train_step(data()),
    "turn": lambda: pg.prepare(Own()).goes_on(),
    "Supervised": lambda: pg.Supervised(1, "sgd", "mse"),
    "KerasStep": lambda: pg.KerasStep(1),
    "Run": lambda: pg.Run("runs", resume="maybe"),
    "restore": lambda: pg.Run("no such run").restore(Own()),
    "Every": lambda: pg.Every(),
    "Execution": lambda: pg.Execution("fast"),
    "Experiment": lambda: pg.Experiment(1, 1),
    "Preemption": lambda: pg.Preemption(),
    "copy_of": lambda: pg.copy_of(1),
    "alternate": lambda: pg.alternate(),
    "verify_resume": lambda: testing.verify_resume(Own, lambda: data(), steps=1, at=1),
}


@pytest.mark.parametrize("name", DOORS)
def test_the_lines_of_a_step_are_the_last_ones(name):
    error = raised(DOORS[name])

    assert isinstance(error, PerigeeError)
    assert frames(error)[-1] in ("train_step", "test_step", "predict_step")
    assert error.__cause__ is None


@pytest.mark.parametrize("name", REFUSED_AT_ONCE)
def test_the_line_that_called_is_the_last_one(name):
    error = raised(REFUSED_AT_ONCE[name])

    assert isinstance(error, PerigeeError)
    assert frames(error) == []
    last = traceback.extract_tb(error.__traceback__)[-1]
    assert (last.name == "<lambda>" and "pg." in last.line) or "testing." in last.line


@pytest.mark.parametrize("execution", ["eager", "auto"])
def test_an_error_of_a_later_step_keeps_the_lines_of_the_user(execution):
    class Late(Own):
        """Returns no loss after the rehearsal."""

        def train_step(self, batch):
            self.objective = (
                (lambda step, x: ops.mean(step.model(x))) if self.rehearsing else no_loss
            )
            return super().train_step(batch)

    error = raised(lambda: pg.fit(Late(), data(), execution=execution, progress="off"))

    assert isinstance(error, PerigeeError)
    files = [entry.filename for entry in traceback.extract_tb(error.__traceback__)]
    assert not [file for file in files if "perigee/_" in file or "site-packages" in file]
    assert "While training with Perigee" in error.__notes__[-1]
    assert len(error.__notes__) == 1


def test_an_error_of_a_training_has_the_line_that_called():
    step = Own(lambda step, x: ops.mean(step.model(x)) / 0.0)

    error = raised(lambda: pg.fit(step, data(), progress="off"))

    assert error.code == "PG408"
    assert frames(error) == []


@pytest.mark.parametrize("value", ["1", "yes"])
def test_all_frames_are_kept_where_they_are_wanted(monkeypatch, value):
    monkeypatch.setenv("PERIGEE_FULL_TRACEBACK", value)

    error = raised(DOORS["fit"])

    names = [entry.name for entry in traceback.extract_tb(error.__traceback__)]
    assert {"fit", "rehearse", "train_step", "minimize", "gradients"} <= set(names)
    assert len(error._render_traceback_()) > 10


@pytest.mark.parametrize("value", ["", "0"])
def test_frames_are_cut_where_the_variable_says_no(monkeypatch, value):
    monkeypatch.setenv("PERIGEE_FULL_TRACEBACK", value)

    assert frames(raised(DOORS["fit"]))[-1] == "train_step"


def test_a_users_own_error_keeps_its_traceback_and_what_caused_it():
    cause = ValueError("first")

    def chained(step, batch):
        try:
            raise cause
        except ValueError as first:
            raise KeyError("second") from first

    error = raised(lambda: pg.fit(Own(chained), data(), progress="off"))

    names = [entry.name for entry in traceback.extract_tb(error.__traceback__)]
    assert {"fit", "rehearse", "train_step", "minimize", "chained"} <= set(names)
    assert names[-1] == "chained"
    assert error.__cause__ is cause
    assert [entry.name for entry in traceback.extract_tb(cause.__traceback__)] == ["chained"]


def test_what_caused_an_error_is_shown_without_frames_of_others():
    model = keras.Sequential([keras.Input((FEATURES,)), layers.Lambda(lambda x: x)])

    error = raised(lambda: pg.copy_of(model))

    assert error.code == "PG409"
    assert error.__cause__ is not None
    assert error.__cause__.__traceback__ is None
    assert frames(error) == []


def test_an_error_that_a_framework_handled_is_not_shown():
    error = raised(lambda: pg.fit(Own(), data(), execution="fast", progress="off"))

    shown = "".join(traceback.format_exception(error))
    assert "During handling" not in shown
    assert "JAX_TRACEBACK_FILTERING" not in shown


def test_a_users_error_that_led_to_another_one_stays():
    @door
    def function():
        try:
            raise KeyError("own")
        except KeyError:
            pg.Every()

    error = raised(function)

    assert isinstance(error.__context__, KeyError)
    assert not error.__suppress_context__
    assert error.__context__.__traceback__ is not None


@pytest.mark.parametrize(
    "function", [pg.fit, pg.check, pg.prepare, pg.keras_fit, pg.evaluate, pg.predict, pg.copy_of]
)
def test_doors_keep_names_texts_and_signatures(function):
    plain = inspect.unwrap(function)

    assert plain is not function
    assert inspect.signature(function) == inspect.signature(plain)
    assert (function.__name__, function.__doc__) == (plain.__name__, plain.__doc__)
    assert function.__module__.startswith("perigee._")


def test_constructors_keep_their_signatures():
    assert list(inspect.signature(pg.Every).parameters) == ["steps", "epochs", "seconds"]
    assert list(inspect.signature(pg.KerasStep).parameters) == ["model", "class_weight"]
    assert pg.Every(steps=1) == pg.Every(steps=1) != pg.Every(steps=2)


# In a notebook.


def shown_lines(error):
    return [line for text in error._render_traceback_() for line in text.splitlines()]


@pytest.mark.parametrize("name", [*DOORS, *REFUSED_AT_ONCE])
def test_a_notebook_shows_an_error_in_ten_lines(name):
    error = raised({**DOORS, **REFUSED_AT_ONCE}[name])

    lines = shown_lines(error)

    assert len(lines) <= 10
    assert "in raised: function()" in lines[0]
    text = "\n".join(lines)
    assert f"[{error.code}]" in text and "Fix: " in text and "Expected: " in text


def test_what_an_error_is_about_is_shortened_to_ten_lines():
    class Long(PerigeeError):
        code = "PG101"

    def lost():
        raise Long("Much:", items=[f"item {i}" for i in range(9)], expected="less.", fix="drop it.")

    error = raised(door(lost))
    error.add_note("a note")

    lines = shown_lines(error)
    assert len(lines) == 10
    assert lines[-3:] == ["Expected: less.", "Fix: drop it.", "More: perigee explain PG101"]
    assert "  - item 0" in lines and "  - ..." in lines
    assert "in lost: raise Long" in lines[1]


def test_a_note_is_shown_where_there_is_room():
    error = raised(lambda: pg.Every())
    error.add_note("a note")

    assert shown_lines(error)[-1] == "a note"


def test_a_real_notebook_shows_ten_lines():
    interactive = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell
    shell = interactive()
    shell.user_ns.update(pg=pg, Own=Own, no_loss=no_loss, data=data)
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            shell.run_cell("import numpy\npg.fit(Own(no_loss), data(), progress='off')")
    finally:
        interactive.clear_instance()

    lines = printed.getvalue().strip().splitlines()
    assert len(lines) <= 10
    assert lines[0] == "line 2, in <module>: pg.fit(Own(no_loss), data(), progress='off')"
    assert "in train_step: return" in lines[1]
    assert any("LossTypeError [PG202]" in line for line in lines)
