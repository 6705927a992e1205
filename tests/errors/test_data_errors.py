"""PG3xx: data that is empty, ends early, never ends, or changes on the way."""

import itertools
import json

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import (
    ArgumentError,
    ArrayLengthError,
    BatchChangedError,
    DataTypeError,
    EmptyDataError,
    InfiniteDataError,
)

FEATURES, BATCHES = 3, 4


class Fitting(pg.Step):
    """Makes a model predict zero, and counts the steps that trained it."""

    def __init__(self):
        self.model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.1)

    def loss(self, batch):
        leaves = keras.tree.flatten(batch)
        return ops.mean(ops.square(self.model(ops.cast(leaves[0], "float32"))))

    def train_step(self, batch):
        return {"loss": self.minimize(lambda: self.loss(batch), self.optimizer)}

    def test_step(self, batch):
        return {"loss": self.loss(batch)}

    def predict_step(self, batch):
        return self.model(batch)

    @property
    def steps(self):
        return int(ops.convert_to_numpy(self.optimizer.iterations))


def batches(count=BATCHES):
    for index in range(count):
        yield np.full((2, FEATURES), index, "float32")


@pytest.mark.parametrize(
    "data",
    [np.zeros((0, FEATURES)), [], lambda: iter(()), iter(())],
    ids=["arrays", "list", "function", "iterator"],
)
@pytest.mark.parametrize("by", [pg.fit, pg.evaluate, pg.predict])
def test_data_without_a_batch_is_refused(refused, data, by):
    error = refused(EmptyDataError, Fitting(), data, by=by)

    assert isinstance(error, ValueError)
    assert error.code == "PG301"
    assert f"The data ({error.kind}) holds no batch" in str(error)


def test_empty_validation_data_is_refused_before_training(refused):
    refused(EmptyDataError, Fitting(), list(batches()), validation=[])


@pytest.mark.parametrize(
    ("arguments", "epochs"),
    [
        ({"epochs": 2}, 1),
        ({"steps": BATCHES + 1}, 1),
        ({"epochs": 1, "steps_per_epoch": BATCHES + 1}, 1),
        ({"epochs": 3, "steps_per_epoch": BATCHES // 2}, 2),
        ({"epochs": 3, "steps_per_epoch": BATCHES - 1}, 2),
    ],
    ids=["epochs", "steps", "one epoch", "whole epochs", "part of an epoch"],
)
def test_a_generator_that_is_used_up_too_early_ends_the_training(arguments, epochs):
    step = Fitting()

    with pytest.warns(pg.PerigeeWarning, match="PG332"):
        history = pg.fit(step, batches(), progress="off", **arguments)

    said = str(history.findings[0])
    assert f"The data (generator) ran out of batches, so the training ended after {BATCHES}" in said
    assert "pass the generator function" in said
    assert history.stop_reason == "data"
    assert [f.code for f in history.findings] == ["PG332"]
    assert len(history.history["loss"]) == history.clock.epoch == epochs
    assert step.steps == BATCHES


class Calls(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.calls = []

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(f"begin {epoch}")

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(f"end {epoch}: {', '.join(sorted(logs))}")

    def on_train_end(self, logs=None):
        self.calls.append("train end")


@pytest.mark.filterwarnings("ignore::perigee.PerigeeWarning")
def test_where_data_ends_early_every_callback_is_ended():
    calls = Calls()

    pg.fit(Fitting(), batches(), epochs=3, progress="off", callbacks=[calls])

    assert calls.calls == ["begin 0", "end 0: learning_rate, loss", "train end"]


@pytest.mark.filterwarnings("ignore::perigee.PerigeeWarning")
def test_a_run_whose_data_ended_early_is_whole(tmp_path):
    step = Fitting()

    pg.fit(step, batches(), epochs=3, progress="off", run=tmp_path / "run")

    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["stop_reason"] == "data"
    restored = Fitting()
    pg.Run(tmp_path / "run").restore(restored)
    assert restored.steps == BATCHES


def test_a_generator_that_validates_is_drawn_on():
    step = Fitting()
    step.loss = lambda batch: ops.mean(batch) + 0 * ops.mean(step.model(batch))
    drawn = (np.full((2, FEATURES), index, "float32") for index in range(9))

    history = pg.fit(
        step, list(batches()), epochs=3, validation=drawn, validation_steps=2, progress="off"
    )

    assert history.history["val_loss"] == [0.5, 2.5, 4.5]
    assert next(drawn)[0, 0] == 6  # no batch was lost


def test_training_ends_where_no_batch_is_left_to_validate_on():
    calls = Calls()

    with pytest.warns(pg.PerigeeWarning, match="The validation data"):
        history = pg.fit(
            Fitting(),
            list(batches()),
            epochs=5,
            validation=batches(3),
            validation_steps=2,
            progress="off",
            callbacks=[calls],
        )

    assert history.stop_reason == "validation data"
    assert len(history.history["loss"]) == 3
    assert len(history.history["val_loss"]) == 2
    assert calls.calls[-2:] == ["end 2: learning_rate, loss", "train end"]


def test_a_generator_is_validated_on_once_without_a_number_of_steps(refused):
    valid = batches()
    error = refused(ArgumentError, Fitting(), list(batches()), epochs=2, validation=valid)

    assert "pass `validation_steps=...`" in error.fix
    once = pg.fit(Fitting(), list(batches()), validation=valid, progress="off")
    assert len(once.history["val_loss"]) == 1


def test_a_generator_bears_as_many_steps_as_it_has():
    history = pg.fit(Fitting(), batches(), steps=BATCHES, progress="off")

    assert history.clock.step == BATCHES


def test_a_generator_function_begins_again():
    history = pg.fit(Fitting(), batches, epochs=2, progress="off")

    assert history.clock.step == 2 * BATCHES


@pytest.mark.parametrize(
    ("odd", "now"),
    [
        (np.zeros((2, FEATURES), "int32"), f"int32 (2, {FEATURES})"),
        (np.zeros((2, FEATURES, 1), "float32"), f"float32 (2, {FEATURES}, 1)"),
        ((np.zeros((2, FEATURES), "float32"),) * 2, f"(float32 (2, {FEATURES}), float32"),
        ({"x": np.zeros((2, FEATURES), "float32")}, f"{{'x': float32 (2, {FEATURES})}}"),
    ],
    ids=["dtype", "rank", "structure", "dict"],
)
def test_a_batch_that_differs_raises_with_both(odd, now):
    at = 2
    data = [*itertools.islice(batches(), at), odd]
    step = Fitting()

    with pytest.raises(BatchChangedError) as caught:
        pg.fit(step, data, progress="off")

    error = caught.value
    assert error.code == "PG303"
    assert error.batch == at
    assert f"first batch: float32 (2, {FEATURES})" in str(error)
    assert f"this batch: {now}" in str(error)
    assert step.steps == at


def test_a_batch_of_another_size_is_taken():
    data = [*batches(), np.ones((5, FEATURES), "float32")]

    assert pg.fit(Fitting(), data, progress="off").clock.step == BATCHES + 1


def endless():
    while True:
        yield np.ones((2, FEATURES), "float32")


class Endless(keras.utils.PyDataset):
    """A data set without a length."""

    num_batches = None

    def __getitem__(self, index):
        return np.ones((2, FEATURES), "float32")


@pytest.mark.parametrize(
    "make",
    [
        lambda: itertools.cycle(batches()),
        Endless,
        lambda: endless(),
        lambda: endless,
        lambda: lambda: endless(),
    ],
    ids=["itertools.cycle", "PyDataset", "generator", "function", "lambda"],
)
def test_epochs_over_data_that_never_ends_are_refused(refused, make):
    error = refused(InfiniteDataError, Fitting(), make(), epochs=2)

    assert error.code == "PG304"
    assert "`steps_per_epoch=...`" in error.fix
    assert "is infinite, so a pass over it never ends" in str(error)


@pytest.mark.parametrize("by", [pg.evaluate, pg.predict])
@pytest.mark.parametrize(
    "data", [itertools.cycle(batches()), endless, endless()], ids=["cycle", "function", "generator"]
)
def test_a_pass_over_data_that_never_ends_is_refused(refused, by, data):
    error = refused(InfiniteDataError, Fitting(), data, by=by)

    assert "`steps=...`" in error.fix


@pytest.mark.parametrize(
    "valid",
    [itertools.cycle(batches()), endless, endless()],
    ids=["cycle", "function", "generator"],
)
def test_validation_data_that_never_ends_is_refused_before_training(refused, valid):
    error = refused(InfiniteDataError, Fitting(), list(batches()), validation=valid)

    assert "`validation_steps=...`" in error.fix


@pytest.mark.parametrize("arguments", [{"steps": 5}, {"epochs": 5, "steps_per_epoch": 1}], ids=str)
def test_data_that_never_ends_is_drawn_as_often_as_asked(arguments):
    history = pg.fit(Fitting(), Endless(), progress="off", **arguments)

    assert history.clock.step == 5


@pytest.mark.only_tensorflow
def test_a_repeated_dataset_without_steps_is_refused(refused):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_generator(
        batches, output_signature=tf.TensorSpec((2, FEATURES))
    ).repeat()

    assert refused(InfiniteDataError, Fitting(), dataset).kind == "tf.data.Dataset"


def test_arrays_of_different_lengths_are_refused(refused):
    data = (np.zeros((4, FEATURES)), np.zeros(5))

    error = refused(ArrayLengthError, Fitting(), data)

    assert error.code == "PG306"
    assert error.lengths == ("[0]: 4 rows", "[1]: 5 rows")


@pytest.mark.parametrize("data", [None, "data.csv", 3], ids=repr)
def test_what_is_no_data_is_refused_by_name(refused, data):
    error = refused(DataTypeError, Fitting(), data)

    assert isinstance(error, TypeError)
    assert error.code == "PG305"
    assert error.kind == type(data).__name__
