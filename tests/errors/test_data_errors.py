"""PG3xx: data that is empty, ends early, never ends, or changes on the way."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import (
    ArrayLengthError,
    BatchChangedError,
    DataEndedError,
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
    "arguments",
    [{"epochs": 2}, {"steps": BATCHES + 1}, {"epochs": 1, "steps_per_epoch": BATCHES + 1}],
    ids=["epochs", "steps", "steps_per_epoch"],
)
def test_a_generator_that_is_used_up_too_early_says_so(arguments):
    step = Fitting()

    with pytest.raises(DataEndedError) as caught:
        pg.fit(step, batches(), progress="off", **arguments)

    error = caught.value
    assert isinstance(error, ValueError)
    assert error.code == "PG302"
    assert (error.kind, error.drawn) == ("generator", BATCHES)
    assert f"The data (generator) ended after {BATCHES} batches" in str(error)
    assert "pass the generator function" in error.fix
    assert step.steps == BATCHES


def test_the_steps_an_epoch_that_were_asked_for_are_named():
    wanted = BATCHES + 3

    with pytest.raises(DataEndedError, match=f"{wanted} steps an epoch were requested"):
        pg.fit(Fitting(), batches(), steps_per_epoch=wanted, progress="off")


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


class Endless(keras.utils.PyDataset):
    """A data set without a length."""

    num_batches = None

    def __getitem__(self, index):
        return np.ones((2, FEATURES), "float32")


@pytest.mark.parametrize(
    "make",
    [lambda: itertools.cycle(batches()), Endless],
    ids=["itertools.cycle", "PyDataset"],
)
def test_epochs_over_data_that_never_ends_are_refused(refused, make):
    error = refused(InfiniteDataError, Fitting(), make(), epochs=2)

    assert error.code == "PG304"
    assert "`steps_per_epoch=...`" in error.fix
    assert "is infinite, so it has no epochs" in str(error)


@pytest.mark.parametrize("by", [pg.evaluate, pg.predict])
def test_a_pass_over_data_that_never_ends_is_refused(refused, by):
    refused(InfiniteDataError, Fitting(), itertools.cycle(batches()), by=by)


def test_validation_data_that_never_ends_is_refused_before_training(refused):
    endless = itertools.cycle(batches())

    refused(InfiniteDataError, Fitting(), list(batches()), validation=endless)


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
