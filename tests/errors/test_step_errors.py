"""PG4xx: what a Step is, and what its methods return."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import (
    ForeignKerasError,
    KeptTensorError,
    LogNameError,
    LogValueError,
    MissingMethodError,
    NonFiniteError,
    StepReturnError,
)

ROWS, FEATURES = 6, 3


class Returning(pg.Step):
    """Trains a model and returns what `logs(loss, x)` makes of it."""

    def __init__(self, logs):
        self.logs = logs
        self.model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.1)
        self.error = keras.metrics.MeanSquaredError(name="error")

    def train_step(self, batch):
        loss = self.minimize(lambda: ops.mean(ops.square(self.model(batch))), self.optimizer)
        return self.logs(loss, batch)

    def test_step(self, batch):
        return self.logs(ops.mean(self.model(batch)), batch)


@pytest.fixture
def x():
    return np.random.normal(size=(ROWS, FEATURES)).astype("float32")


@pytest.mark.parametrize(
    ("by", "method"),
    [(pg.fit, "train_step"), (pg.evaluate, "test_step"), (pg.predict, "predict_step")],
)
def test_a_step_without_the_method_is_refused(x, refused, by, method):
    class Empty(pg.Step):
        pass

    error = refused(MissingMethodError, Empty(), x, by=by)

    assert isinstance(error, NotImplementedError)
    assert error.code == "PG401"
    assert (error.step, error.method) == ("Empty", method)
    assert f"Empty has no `{method}`" in str(error)
    assert f"`def {method}(self, batch): ...`" in error.fix


def test_validation_needs_a_test_step_before_training_begins(x, refused):
    class OnlyTraining(pg.Step):
        def train_step(self, batch):
            return {"value": ops.mean(batch)}

    assert refused(MissingMethodError, OnlyTraining(), x, validation=x).method == "test_step"


@pytest.mark.parametrize(
    ("logs", "given", "suggested"),
    [
        (lambda loss, x: None, "nothing", 'return {"loss": loss}'),
        (lambda loss, x: loss, "a ", 'return {"loss": loss}'),
        (lambda loss, x: (loss, loss), "a tuple", 'return {"loss": ..., "value_1": ...}'),
        (lambda loss, x: [loss], "a list", 'return {"loss": ...}'),
        (lambda loss, x: 1.0, "a float", 'return {"loss": loss}'),
    ],
    ids=["nothing", "tensor", "tuple", "list", "float"],
)
@pytest.mark.parametrize("by", [pg.fit, pg.evaluate])
def test_a_step_that_returns_no_dict_is_shown_the_dict(x, refused, logs, given, suggested, by):
    error = refused(StepReturnError, Returning(logs), x, by=by)

    assert isinstance(error, TypeError)
    assert error.code == "PG402"
    assert error.method == ("train_step" if by is pg.fit else "test_step")
    assert f"`{error.method}` returned {given}" in str(error)
    assert suggested in error.fix


@pytest.mark.parametrize(
    ("value", "given"),
    [
        (lambda loss, x: x, f"a tensor of shape {(ROWS, FEATURES)}"),
        (lambda loss, x: "low", "a str"),
        (lambda loss, x: None, "a NoneType"),
        (lambda loss, x: [loss], "a list"),
        (lambda loss, x: {"inner": loss}, "a dict"),
    ],
    ids=["matrix", "string", "nothing", "list", "nested dict"],
)
def test_a_value_that_is_no_number_is_refused_with_its_name(x, refused, value, given):
    error = refused(LogValueError, Returning(lambda loss, x: {"odd": value(loss, x)}), x)

    assert isinstance(error, TypeError)
    assert error.code == "PG403"
    assert error.name == "odd"
    assert f"`train_step` returned {given} under 'odd'" in str(error)


def test_a_name_that_is_no_string_is_refused(x, refused):
    error = refused(LogValueError, Returning(lambda loss, x: {3: loss}), x)

    assert error.name == "3"


@pytest.mark.parametrize("by", [pg.fit, pg.evaluate])
def test_a_value_under_the_name_of_an_updated_metric_is_refused(x, refused, by):
    class Doubled(Returning):
        def train_step(self, batch):
            self.error.update_state(ops.zeros((ROWS, 1)), self.model(batch))
            return super().train_step(batch)

        def test_step(self, batch):
            self.error.update_state(ops.zeros((ROWS, 1)), self.model(batch))
            return super().test_step(batch)

    error = refused(LogNameError, Doubled(lambda loss, x: {"error": loss}), x, by=by)

    assert error.code == "PG404"
    assert error.name == "error"
    assert "updates the metric 'error', which is logged under that name" in str(error)
    assert "remove 'error' from the returned dict" in error.fix


def test_a_value_under_the_name_of_a_metric_that_is_not_updated_is_taken(x):
    step = Returning(lambda loss, x: {"error": loss})

    assert len(pg.fit(step, x, progress="off").history["error"]) == 1


@pytest.mark.parametrize(
    ("place", "path"),
    [
        (lambda thing: {"model": thing}, "model"),
        (lambda thing: {"nets": {"a": [None, thing]}}, "nets/a/1"),
    ],
    ids=["attribute", "nested"],
)
def test_an_object_of_keras_2_is_refused_with_its_path(x, refused, place, path):
    class Sequential:
        pass

    Sequential.__module__ = "tf_keras.src.engine.sequential"
    step = Returning(lambda loss, x: {"loss": loss})
    vars(step).update(place(Sequential()))

    with pytest.raises(ForeignKerasError) as caught:
        pg.fit(step, x, progress="off")

    error = caught.value
    assert isinstance(error, TypeError)
    assert error.code == "PG405"
    assert (error.path, error.kind) == (path, "Sequential")
    assert f"{path} is a Sequential of Keras 2 (`tf_keras`)" in str(error)


def test_a_subclass_of_a_keras_2_class_is_refused(x):
    class Model:
        pass

    Model.__module__ = "tf_keras.src.engine.training"

    class Own(Model):
        pass

    step = Returning(lambda loss, x: {"loss": loss})
    step.own = Own()

    with pytest.raises(ForeignKerasError, match="own is a Own of Keras 2"):
        pg.fit(step, x, progress="off")


def test_a_tensor_kept_as_an_attribute_is_refused(x, refused):
    class Keeping(Returning):
        def train_step(self, batch):
            self.last = batch
            return super().train_step(batch)

    if keras.backend.backend() == "torch":
        pytest.skip("torch runs steps as they are, so the tensor is one")

    error = refused(KeptTensorError, Keeping(lambda loss, x: {"loss": loss}), x)

    assert error.code == "PG410"
    assert error.paths == ("last",)


class FailingAt(pg.Step):
    """Returns `value` at step number `at`, and 1 at all others."""

    def __init__(self, at, value=float("nan"), name="loss"):
        self.at, self.value, self.name = at, value, name
        self.count = keras.Variable(0, dtype="int32", trainable=False)

    def train_step(self, batch):
        self.count.assign_add(1)
        is_bad = ops.equal(ops.convert_to_tensor(self.count), self.at)
        return {"fine": 1.0, self.name: ops.where(is_bad, self.value, 1.0)}


@pytest.mark.parametrize(
    ("at", "steps"), [(1, 3), (3, 3), (70, 100)], ids=["first", "last", "70 of 100"]
)
def test_a_value_that_is_not_finite_is_named_with_its_step(at, steps):
    data = np.zeros((steps, 1), "float32")

    with pytest.raises(NonFiniteError) as caught:
        pg.fit(FailingAt(at), data, batch_size=1, progress="off")

    error = caught.value
    assert isinstance(error, FloatingPointError)
    assert error.code == "PG408"
    assert (error.name, error.step) == ("loss", at)
    assert f"'loss' was nan at step {at}" in str(error)
    assert '`nonfinite="stop"`' in error.fix


def test_steps_are_counted_over_epochs_where_one_is_not_finite():
    at, batches = 7, 4

    with pytest.raises(NonFiniteError) as caught:
        pg.fit(FailingAt(at), [np.zeros((1, 1), "float32")] * batches, epochs=3, progress="off")

    assert caught.value.step == at


def test_an_infinite_value_of_any_name_is_refused():
    data = [np.zeros((1, 1), "float32")]

    with pytest.raises(NonFiniteError, match="'norm' was -inf at step 1"):
        pg.fit(FailingAt(1, -np.inf, "norm"), data, progress="off")


def test_training_stops_at_a_value_that_is_not_finite_if_asked():
    at, steps = 3, 200
    data = [np.zeros((1, 1), "float32")] * steps

    history = pg.fit(FailingAt(at), data, epochs=2, nonfinite="stop", progress="off")

    assert history.stop_reason == "non-finite"
    assert at <= history.clock.step < steps
    assert np.isnan(history.history["loss"]).all()
    assert history.history["fine"] == [1.0]


def test_a_hook_that_reads_each_step_stops_training_at_the_very_step():
    at = 3
    data = [np.zeros((1, 1), "float32")] * 10

    class Reading(pg.Hook):
        every = pg.Every(steps=1)

        def on_steps(self, event):
            event.read()

    history = pg.fit(FailingAt(at), data, nonfinite="stop", callbacks=[Reading()], progress="off")

    assert (history.stop_reason, history.clock.step) == ("non-finite", at)
