"""What a user of Keras expects of `fit`, `evaluate` and `predict` beside the numbers."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee import _errors as errors

ROWS, BATCH, FEATURES = 20, 3, 4  # seven batches, the last of them smaller
BATCHES = 7

FUSED = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras has no `steps_per_execution` there"
)


def arrays() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(1).normal(size=(ROWS, FEATURES)).astype("float32")
    return x, x[:, :1]


def line(**compiled: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"], **compiled)
    return model


HOOKS = ("begin", "batch_begin", "batch_end", "end")


class Calls(keras.callbacks.Callback):
    """Collects every call with its arguments, and the `params` at the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.seen: list[dict[str, Any]] = []

    def add(self, name: str, *given: Any) -> None:
        *numbers, logs = given
        values = {key: np.asarray(ops.convert_to_numpy(value)) for key, value in logs.items()}
        self.calls.append((name, *numbers, values))
        self.seen.append({k: self.params[k] for k in ("epochs", "steps")})


def _hook(name: str) -> Callable[..., None]:
    def of_a_pass(self: Calls, logs: Any = None) -> None:
        self.add(name, logs or {})

    def of_a_batch(self: Calls, number: int, logs: Any = None) -> None:
        self.add(name, number, logs or {})

    return of_a_batch if "batch" in name or "epoch" in name else of_a_pass


for _kind in ("train", "test", "predict"):
    for _each in HOOKS:
        setattr(Calls, f"on_{_kind}_{_each}", _hook(f"{_kind}_{_each}"))
for _each in ("epoch_begin", "epoch_end"):
    setattr(Calls, f"on_{_each}", _hook(_each))


def assert_same_calls(ours: Calls, theirs: Calls) -> None:
    assert [c[:-1] for c in ours.calls] == [c[:-1] for c in theirs.calls]
    for (*where, logs), (*_, expected) in zip(ours.calls, theirs.calls, strict=True):
        assert list(logs) == list(expected), where
        for name in expected:
            np.testing.assert_allclose(logs[name], expected[name], rtol=1e-5, atol=1e-6)
    assert ours.seen == theirs.seen


@pytest.mark.parametrize("steps_per_epoch", [None, 5, 9])
@pytest.mark.parametrize("steps", [1, pytest.param(3, marks=FUSED)])
@pytest.mark.parametrize("eagerly", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_all_hooks_are_called_as_by_keras(steps, steps_per_epoch, eagerly):
    x, y = arrays()
    compiled = {"steps_per_execution": steps, "run_eagerly": eagerly, "jit_compile": False}
    given = {
        "batch_size": BATCH,
        "epochs": 3,
        "steps_per_epoch": steps_per_epoch,
        "shuffle": False,
        "validation_data": (x[:8], y[:8]),
        "verbose": 0,
    }
    theirs, expected = line(**compiled), Calls()
    ours, calls = line(**compiled), Calls()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        theirs.fit(x, y, callbacks=[expected], **given)
        pg.keras_fit(ours, x, y, callbacks=[calls], **given)
    theirs.evaluate(x, y, batch_size=BATCH, callbacks=[expected], verbose=0)
    theirs.predict(x, batch_size=BATCH, callbacks=[expected], verbose=0)
    step = pg.KerasStep(ours)
    pg.evaluate(step, (x, y), batch_size=BATCH, callbacks=[calls])
    pg.predict(step, (x,), batch_size=BATCH, callbacks=[calls])

    assert_same_calls(calls, expected)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@FUSED
def test_steps_per_execution_rounds_steps_up_as_keras_does():
    x, y = arrays()
    trained = []
    for fit in (keras.Model.fit, pg.keras_fit):
        model = line(steps_per_execution=4, run_eagerly=True)
        history = fit(
            model,
            x,
            y,
            batch_size=2,
            steps_per_epoch=6,
            validation_data=(x, y),
            validation_steps=3,
            shuffle=False,
            verbose=0,
        )
        trained.append((int(model.optimizer.iterations), history.history["val_loss"]))

    assert trained[0][0] == trained[1][0] == 8
    assert trained[0][1] == pytest.approx(trained[1][1], rel=1e-5)


def test_the_end_of_the_data_within_an_epoch_is_told():
    x, y = arrays()
    with pytest.warns(UserWarning, match="within an epoch of 9 steps"):
        pg.keras_fit(line(run_eagerly=True), x, y, batch_size=BATCH, steps_per_epoch=9, verbose=0)


@FUSED
def test_a_requested_execution_has_the_say():
    x, y = arrays()
    calls = Calls()

    pg.keras_fit(
        line(steps_per_execution=3), x, y, BATCH, callbacks=[calls], execution="eager", verbose=0
    )

    assert sum(call[0] == "train_batch_end" for call in calls.calls) == BATCHES


@FUSED
def test_steps_per_execution_is_the_length_of_a_call():
    model, x = line(steps_per_execution=3), arrays()[0]
    traces = []

    class Counts(keras.Model):
        def predict_step(self, *given):
            traces.append(1)
            return super().predict_step(*given)

    counted = Counts(model.inputs, model.outputs)
    counted.compile(loss="mse", steps_per_execution=3)
    pg.predict(pg.KerasStep(counted), (x,), batch_size=2)

    assert len(traces) <= 3  # rehearsed, compiled for calls of three, and for the tenth batch


@pytest.mark.only_jax
def test_a_model_compiled_without_jit_may_look_at_values():
    import jax

    class Looks(keras.layers.Layer):
        def call(self, inputs):
            total = ops.sum(inputs)
            if not isinstance(total, jax.core.Tracer):  # the model is built without values
                seen.append(float(total))
            return inputs

    seen: list[float] = []
    model = keras.Sequential([keras.Input((FEATURES,)), Looks(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    x, y = arrays()

    pg.keras_fit(model, x, y, batch_size=ROWS, epochs=3, verbose=0)

    assert len(seen) >= 3


def test_a_model_that_is_not_compiled_predicts():
    x, _ = arrays()
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(2)])

    predicted = pg.predict(pg.KerasStep(model), (x,), batch_size=BATCH)

    np.testing.assert_allclose(predicted, model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)


class Measuring(pg.Step):
    def test_step(self, batch):
        return {"mean": ops.mean(batch)}

    def predict_step(self, batch):
        return batch * 2.0


def test_hooks_of_any_step_are_called():
    x, calls = np.arange(5, dtype="float32")[:, None], Calls()

    values = pg.evaluate(Measuring(), x, batch_size=2, callbacks=[calls], execution="eager")
    pg.predict(Measuring(), x, batch_size=2, callbacks=[calls], execution="eager")

    around = [(f"batch_{at}", number) for number in range(3) for at in ("begin", "end")]
    wanted = [
        *(("test_begin",), *((f"test_{name}", number) for name, number in around), ("test_end",)),
        *(("predict_begin",), *((f"predict_{n}", number) for n, number in around)),
        ("predict_end",),
    ]
    assert [call[:-1] for call in calls.calls] == wanted
    assert calls.calls[7][-1] == values == {"mean": 2.0}
    assert calls.calls[4][-1] == {"mean": 1.5}  # of the first four rows
    assert calls.calls[-2][-1]["outputs"].tolist() == [[8.0]]
    assert calls.seen[0] == {"epochs": 1, "steps": 3}


@pytest.mark.parametrize(
    ("door", "flag"), [(pg.evaluate, "stop_evaluating"), (pg.predict, "stop_predicting")]
)
@pytest.mark.parametrize("of_keras", [True, False])
def test_a_callback_ends_a_pass(door, flag, of_keras):
    x, y = arrays()
    drawn = []

    def endless():
        while True:
            drawn.append(1)
            yield (x, y) if of_keras else x

    class Stops(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            setattr(self.model, flag, batch == 2)

        on_predict_batch_end = on_test_batch_end

    step = pg.KerasStep(line(run_eagerly=True)) if of_keras else Measuring()
    execution = "auto" if of_keras else "eager"
    for _ in range(2):  # what stopped one pass does not stop the next
        drawn.clear()
        door(step, endless(), callbacks=[Stops()], execution=execution)
        assert len(drawn) == 3


def test_a_callback_ends_a_training_on_data_that_does_not():
    x, y = arrays()
    drawn = []

    def endless():
        while True:
            drawn.append(1)
            yield x, y

    class Stops(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 2

    history = pg.keras_fit(line(run_eagerly=True), endless(), callbacks=[Stops()], verbose=0)

    assert len(history.history["loss"]) == 1
    assert len(drawn) == 3
    with pytest.raises(errors.InfiniteDataError, match="steps_per_epoch"):
        pg.keras_fit(line(), endless(), verbose=0)


def test_a_hook_of_trainings_is_refused_by_a_pass():
    with pytest.raises(errors.ArgumentError, match="callbacks"):
        pg.evaluate(Measuring(), np.ones((2, 1)), callbacks=[pg.Hook()])


def test_a_list_of_callbacks_made_by_the_user_is_taken():
    calls = Calls()
    made = keras.callbacks.CallbackList([calls], add_progbar=True)

    pg.evaluate(Measuring(), np.ones((2, 1)), callbacks=made, execution="eager")

    assert [call[0] for call in calls.calls] == [
        "test_begin",
        "test_batch_begin",
        "test_batch_end",
        "test_end",
    ]


class DrawsWhilePredicting(keras.layers.Dropout):
    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


def test_predictions_that_draw_are_new_ones_as_in_keras():
    model = keras.Sequential([keras.Input((FEATURES,)), DrawsWhilePredicting(0.5, seed=1)])
    model.compile(run_eagerly=True)
    x = np.ones((16, FEATURES), "float32")
    predicted = [pg.predict(step, (x,)) for step in (pg.KerasStep(model),) * 2]
    other = pg.predict(pg.KerasStep(model), (x,))

    assert not np.array_equal(*predicted)
    assert not np.array_equal(predicted[1], other)


class Flags(keras.Model):
    """Keeps what `training` its loss was computed with."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1)
        vars(self)["seen"] = set()

    def call(self, inputs):
        return self.dense(inputs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        vars(self)["seen"].add(training)
        return super().compute_loss(x, y, y_pred, sample_weight, training)


def test_a_loss_is_told_whether_it_is_trained():
    model = Flags()
    model.compile("sgd", "mse")

    pg.evaluate(pg.KerasStep(model), arrays())
    assert vars(model)["seen"] == {False}

    vars(model)["seen"].clear()
    pg.keras_fit(model, *arrays(), verbose=0)
    assert vars(model)["seen"] == {True}


def test_a_loss_may_have_no_argument_for_that():
    class Older(Flags):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            return super().compute_loss(x, y, y_pred, sample_weight)

    model = Older()
    model.compile("sgd", "mse")

    assert pg.evaluate(pg.KerasStep(model), arrays())["loss"] > 0


@pytest.fixture
def limited():
    keras.config.set_max_epochs(2)
    keras.config.set_max_steps_per_epoch(3)
    yield
    keras.config.set_max_epochs(None)
    keras.config.set_max_steps_per_epoch(None)


@pytest.mark.parametrize("more", [{}, {"initial_epoch": 1}, {"steps_per_epoch": 5}])
def test_keras_limits_hold(limited, more):
    x, y = arrays()
    given = {"epochs": 4, "batch_size": BATCH, "verbose": 0, "shuffle": False, **more}
    results = []
    for fit in (keras.Model.fit, pg.keras_fit):
        model, calls = line(run_eagerly=True), Calls()
        with pytest.warns(UserWarning, match="(?i)steps"):
            fit(model, x, y, callbacks=[calls], validation_data=(x, y), **given)
        results.append((model.get_weights(), calls))

    assert_same_calls(results[1][1], results[0][1])
    for a, b in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Only:UserWarning")
def test_keras_limits_hold_for_any_step(limited):
    x, y = arrays()
    step = pg.Supervised(
        keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)]), "sgd", "mse"
    )

    history = pg.fit(step, (x, y), epochs=4, batch_size=BATCH, execution="eager", progress="off")
    short = pg.fit(step, (x, y), epochs=1, batch_size=ROWS, execution="eager", progress="off")

    assert (history.clock.epoch, history.clock.step) == (2, 6)
    assert short.clock.step == 1  # an epoch is no longer than the data
    assert len(pg.predict(Measuring(), x, batch_size=BATCH, execution="eager")) == 3 * BATCH


def test_the_advice_for_a_nan_names_the_callback():
    x, y = arrays()
    model = line(run_eagerly=True)
    with pytest.raises(errors.NonFiniteError, match="TerminateOnNaN"):
        pg.keras_fit(model, x * np.nan, y, verbose=0)

    pg.keras_fit(model, x * np.nan, y, verbose=0, callbacks=[keras.callbacks.TerminateOnNaN()])


def best_epoch(results: Any, name: str) -> int:
    """Return the best epoch, as KerasTuner finds it in what `HyperModel.fit` returns."""
    assert isinstance(results, keras.callbacks.History), "KerasTuner takes a float, dict or History"
    values = dict(enumerate(results.history[name]))
    return min(values, key=lambda epoch: values[epoch])


def test_a_history_is_taken_where_keras_histories_are():
    x, y = arrays()
    step = pg.KerasStep(line(run_eagerly=True))

    history = pg.fit(step, (x, y), epochs=3, validation=(x, y), progress="off")

    assert isinstance(history, pg.Hook)
    assert best_epoch(history, "val_loss") == int(np.argmin(history.history["val_loss"]))
    assert history.epoch == [0, 1, 2]
