"""Law 8: what user code raises comes out as it is, with a note, and leaves Keras unpatched."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import PerigeeError
from perigee._errors.advice import advise
from tests.errors.untouched import methods_of_keras, state_of

FEATURES, BATCHES = 3, 4


class Own(Exception):
    """An exception that Perigee cannot know, and cannot make anew."""

    def __init__(self, first, second):
        super().__init__(first)
        self.second = second


class Failing(pg.Step):
    """Raises `error` in its Python code, within the objective, at the call number `at`.

    The rehearsal, which is undone, does not count; it raises like the first call if asked to.
    """

    def __init__(self, error=None, at=1, in_rehearsal=True):
        self.model = keras.Sequential(
            [keras.Input((FEATURES,)), keras.layers.Dense(1, kernel_regularizer="l2")]
        )
        self.optimizer = keras.optimizers.SGD(0.1)
        self.error = error
        self.calls, self.at, self.in_rehearsal = [0], at, in_rehearsal
        self.average = keras.metrics.Mean(name="average")

    def raise_if_due(self):
        is_due = self.calls[0] == self.at and (self.in_rehearsal or not self.rehearsing)
        if is_due and self.error is not None:
            raise self.error

    def train_step(self, batch):
        self.calls[0] += 1
        self.average.update_state(1.0)

        def objective():
            loss = ops.mean(ops.square(self.model(batch)))
            self.raise_if_due()
            return loss

        return {"loss": self.minimize(objective, self.optimizer)}

    def test_step(self, batch):
        self.calls[0] += 1
        self.raise_if_due()
        return {"loss": ops.mean(self.model(batch))}

    def predict_step(self, batch):
        self.calls[0] += 1
        self.raise_if_due()
        return self.model(batch)


def batches(count=BATCHES):
    for index in range(count):
        yield np.full((2, FEATURES), index + 1.0, "float32")


def came_out(error, run):
    """Run it, and return the notes of `error`, which must come out as the very object."""
    methods = methods_of_keras()
    with pytest.raises(type(error)) as caught:
        run()
    assert caught.value is error
    assert caught.value.__cause__ is None
    assert methods_of_keras() == methods
    return getattr(error, "__notes__", [])


ERRORS = [Own("boom", 2), KeyError("boom"), StopIteration("boom"), KeyboardInterrupt()]


@pytest.mark.parametrize(
    "make", [lambda e=e: e for e in ERRORS], ids=[type(e).__name__ for e in ERRORS]
)
@pytest.mark.parametrize(
    ("by", "method"),
    [(pg.fit, "train_step"), (pg.evaluate, "test_step"), (pg.predict, "predict_step")],
)
def test_an_exception_of_the_first_batch_changes_nothing(make, by, method, tmp_path):
    error, path = make(), tmp_path / "run"
    if hasattr(error, "__notes__"):
        del error.__notes__
    step = Failing(error)
    before = state_of(step)
    arguments = {"run": path, "progress": "off"} if by is pg.fit else {}

    notes = came_out(error, lambda: by(step, batches(), **arguments))

    assert [note for note in notes if method in note] != []
    assert state_of(step) == before
    assert not path.exists()
    assert "update_state" not in vars(step.average)


@pytest.mark.parametrize("error_type", [KeyError, StopIteration])
@pytest.mark.parametrize("execution", ["auto", "eager"])
def test_an_exception_while_training_says_where(error_type, execution):
    at_step = 1 if execution == "auto" else 2  # compiled code runs Python while it is traced
    error = error_type("boom")
    step = Failing(error, at=at_step, in_rehearsal=False)

    notes = came_out(error, lambda: pg.fit(step, batches(), execution=execution, progress="off"))

    assert f"after step {at_step - 1}, epoch 1, batch {at_step} of the epoch" in notes[-1]


def test_an_exception_of_a_later_epoch_says_so():
    epoch, batch = 3, 2
    error = Own("boom", 2)
    at_step = (epoch - 1) * BATCHES + batch
    step = Failing(error, at=at_step)

    notes = came_out(
        error, lambda: pg.fit(step, batches, epochs=epoch, execution="eager", progress="off")
    )

    assert f"after step {at_step - 1}, epoch {epoch}, batch {batch} of the epoch" in notes[-1]


@pytest.mark.parametrize(
    "error", [Own("boom", 2), ValueError("boom"), OSError(5, "boom")], ids=repr
)
def test_an_exception_of_a_later_batch_of_a_generator_comes_out(error):
    at = 2
    step = Failing()

    def failing():
        yield from batches(at)
        raise error

    notes = came_out(error, lambda: pg.fit(step, failing, progress="off"))

    assert f"batch {at} of pass 0" in "".join(notes)
    assert f"after step {at}" in notes[-1]
    assert int(ops.convert_to_numpy(step.optimizer.iterations)) == at


def test_an_exception_of_the_first_batch_of_a_generator_comes_out():
    error = Own("boom", 2)

    def failing():
        raise error
        yield

    notes = came_out(error, lambda: pg.fit(Failing(), failing, progress="off"))

    assert "batch 0 of pass 0" in "".join(notes)


@pytest.mark.parametrize("by", [pg.evaluate, pg.predict])
def test_an_exception_of_data_that_is_measured_on_says_which_batch(by):
    at = 2
    error = Own("boom", 2)

    def failing():
        yield from batches(at)
        raise error

    notes = came_out(error, lambda: by(Failing(), failing))

    assert f"batch {at} of pass 0" in "".join(notes)


def test_a_generator_that_raises_stop_iteration_is_no_end_of_the_data():
    def failing():
        yield from batches(2)
        raise StopIteration("boom")

    with pytest.raises(RuntimeError, match="generator raised StopIteration"):
        pg.fit(Failing(), failing, progress="off")


CALLBACK_METHODS = [
    "on_train_begin",
    "on_epoch_begin",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_begin",
    "on_test_end",
    "on_epoch_end",
    "on_train_end",
]


@pytest.mark.parametrize("method", CALLBACK_METHODS)
def test_an_exception_of_a_keras_callback_comes_out(method):
    error = Own("boom", 2)

    class Raising(keras.callbacks.Callback):
        pass

    def raising(*args, **kwargs):
        raise error

    setattr(Raising, method, raising)

    notes = came_out(
        error,
        lambda: pg.fit(
            Failing(),
            batches,
            validation=batches,
            callbacks=[Raising()],
            execution="eager",
            progress="off",
        ),
    )

    assert "While training with Perigee" in notes[-1]


@pytest.mark.parametrize(
    ("method", "call", "place"),
    [
        ("on_epoch_begin", 2, "epoch 2, batch 1 of the epoch"),
        ("on_test_begin", 1, "at the end of epoch 1"),
        ("on_test_end", 2, "at the end of epoch 2"),
        ("on_epoch_end", 1, "at the end of epoch 1"),
        ("on_train_batch_begin", BATCHES + 1, "epoch 2, batch 1 of the epoch"),
        ("on_train_end", 1, "at the end of epoch 2"),
    ],
)
def test_the_note_names_the_epoch_to_which_the_hook_belongs(method, call, place):
    error, calls = Own("boom", 2), []

    def raising(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            raise error

    callback = type("Raising", (keras.callbacks.Callback,), {method: raising})()

    notes = came_out(
        error,
        lambda: pg.fit(
            Failing(),
            batches,
            epochs=2,
            validation=batches,
            callbacks=[callback],
            execution="eager",
            progress="off",
        ),
    )

    assert f", {place}." in notes[-1]


def test_the_note_on_an_error_in_a_prepared_loop_names_the_epoch():
    class Raising(pg.Hook):
        def on_record(self, event):
            if event.scope == "epoch":
                raise error

    def loop(callbacks, failing):
        with pg.prepare(
            failing, steps_per_epoch=BATCHES, callbacks=callbacks, execution="eager"
        ) as trainer:
            while trainer.goes_on(epochs=2):
                for batch in batches():
                    trainer.train_step(batch)

    error = Own("boom", 2)
    at_end = came_out(error, lambda: loop([Raising()], Failing()))
    assert f"after step {BATCHES}, at the end of epoch 1." in at_end[-1]

    error = Own("boom", 2)
    failing = Failing(error, at=BATCHES + 1, in_rehearsal=False)
    at_begin = came_out(error, lambda: loop([], failing))
    assert f"after step {BATCHES}, epoch 2, batch 1 of the epoch." in at_begin[-1]


class Telling(pg.Hook):
    """Keeps the names of the events, and raises `error` at one of them."""

    def __init__(self, at=None, error=None):
        self.at, self.error = at, error
        self.events = []
        self.reasons = []

    def heard(self, name):
        self.events.append(name)
        if name == self.at:
            raise self.error

    def on_start(self, event):
        self.heard("start")

    def on_steps(self, event):
        self.heard("steps")

    def on_record(self, event):
        self.heard("record")

    def on_end(self, event):
        self.reasons.append(event.reason)
        self.heard("end")


@pytest.mark.parametrize(
    ("at", "heard"),
    [
        ("start", ["start", "end"]),
        ("steps", ["start", "steps", "end"]),
        ("record", ["start", "steps", "record", "end"]),
    ],
)
def test_every_hook_hears_of_the_end_after_an_exception_of_one(at, heard):
    error = Own("boom", 2)
    first, second = Telling(), Telling(at, error)

    notes = came_out(
        error,
        lambda: pg.fit(
            Failing(), batches(1), callbacks=[first, second], execution="eager", progress="off"
        ),
    )

    assert "While training with Perigee" in notes[-1]
    assert first.events == second.events == heard
    assert first.reasons == ["error: Own"]


def test_an_exception_at_the_end_comes_out_when_all_have_heard():
    error = Own("boom", 2)
    raising, last = Telling("end", error), Telling()

    came_out(
        error, lambda: pg.fit(Failing(), batches(1), callbacks=[raising, last], progress="off")
    )

    assert last.events == ["start", "steps", "record", "end"]
    assert last.reasons == ["epochs"]


def test_what_came_first_comes_out_where_the_end_raises_as_well():
    error = KeyError("first")
    raising = Telling("end", Own("second", 2))

    notes = came_out(
        error,
        lambda: pg.fit(
            Failing(error, at=2), batches, callbacks=[raising], execution="eager", progress="off"
        ),
    )

    assert "Own: second" in notes[-1]


def test_an_exception_of_the_model_is_what_keras_makes_of_it():
    """Keras itself replaces what a layer's call raises; Perigee adds nothing to that."""

    class Broken(keras.Layer):
        def call(self, x):
            raise ValueError("boom")

    step = Failing()
    step.model = keras.Sequential([Broken(), keras.layers.Dense(1)])
    methods = methods_of_keras()

    with pytest.raises(ValueError, match="boom") as caught:
        pg.fit(step, batches, progress="off")

    assert not isinstance(caught.value, PerigeeError)
    assert methods_of_keras() == methods


def test_a_run_that_ended_with_an_exception_says_so(tmp_path):
    error = KeyError("boom")
    at = 2

    def failing():
        yield from batches(at)
        raise error

    came_out(error, lambda: pg.fit(Failing(), failing, run=tmp_path / "run", progress="off"))

    written = (tmp_path / "run" / "run.json").read_text()
    assert '"stop_reason": "error: KeyError"' in written
    assert '"state": "ended"' in written


def test_training_goes_on_after_an_exception_as_if_it_had_not_been():
    step = Failing(KeyError("boom"), at=2)
    with pytest.raises(KeyError):
        pg.fit(step, list(batches()), execution="eager", progress="off")
    step.error = None
    trained = int(ops.convert_to_numpy(step.optimizer.iterations))

    history = pg.fit(step, list(batches()), progress="off")

    assert trained == 1
    assert int(ops.convert_to_numpy(step.optimizer.iterations)) == trained + BATCHES
    assert history.history["average"] == [1.0]


def test_advice_on_memory_is_given_once():
    error = MemoryError()

    advise(error)
    advise(error)

    assert len(error.__notes__) == 1
