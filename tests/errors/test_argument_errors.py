"""PG5xx and PG6xx: arguments of `fit`, `evaluate` and `predict` that make no sense."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import ArgumentError, RunExistsError, UnknownArgumentError

ROWS, FEATURES = 6, 3


class Fitting(pg.Step):
    def __init__(self):
        self.model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        return {"loss": self.minimize(lambda: ops.mean(self.model(batch)), self.optimizer)}

    def test_step(self, batch):
        return {"loss": ops.mean(self.model(batch))}

    def predict_step(self, batch):
        return self.model(batch)


@pytest.fixture
def x():
    return np.ones((ROWS, FEATURES), "float32")


@pytest.mark.parametrize("given", [0, -1, 2.5, True, "3", "many", [2]], ids=repr)
@pytest.mark.parametrize("name", ["epochs", "steps", "steps_per_epoch", "accumulate"])
def test_a_count_that_is_none_is_refused(x, refused, name, given):
    error = refused(ArgumentError, Fitting(), x, **{name: given})

    assert isinstance(error, ValueError)
    assert error.code == "PG601"
    assert (error.name, error.given) == (name, repr(given))
    assert f"{name}={given!r} cannot be used here" in str(error)
    assert "positive integer" in error.expected


def test_accumulating_nothing_is_refused(x, refused):
    assert refused(ArgumentError, Fitting(), x, accumulate=None).given == "None"


@pytest.mark.parametrize("by", [pg.evaluate, pg.predict])
def test_no_steps_at_all_are_refused(x, refused, by):
    assert refused(ArgumentError, Fitting(), x, by=by, steps=0).name == "steps"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"validation_steps": 0, "validation": [np.ones((1, FEATURES))]}, "validation_steps"),
        ({"validate_every": pg.Every(steps=1)}, "validate_every"),
        ({"validate_every": 2, "validation": [np.ones((1, FEATURES))]}, "validate_every"),
        ({"execution": "fast"}, "execution"),
        ({"nonfinite": "ignore"}, "nonfinite"),
        ({"progress": "loud"}, "progress"),
        ({"seed": -1}, "seed"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.0}, "batch_size"),
        ({"run": 3}, "run"),
        ({"callbacks": [3]}, "callbacks"),
        ({"callbacks": [print]}, "callbacks"),
        ({"callbacks": keras.callbacks.EarlyStopping}, "callbacks"),
    ],
    ids=str,
)
def test_a_value_that_makes_no_sense_is_refused_by_name(x, refused, arguments, name):
    error = refused(ArgumentError, Fitting(), x, **arguments)

    assert error.name == name
    assert str(error).startswith(f"ArgumentError [PG601]: {name}=")


@pytest.mark.parametrize("name", ["batch_size", "shuffle"])
def test_cutting_data_that_makes_its_own_batches_is_refused(x, refused, name):
    error = refused(ArgumentError, Fitting(), [x], **{name: 2})

    assert error.name == name
    assert "only" in error.expected


@pytest.mark.parametrize("by", [pg.evaluate, pg.predict])
def test_evaluate_and_predict_refuse_it_too(x, refused, by):
    assert refused(ArgumentError, Fitting(), [x], by=by, batch_size=2).name == "batch_size"


@pytest.mark.only_tensorflow
@pytest.mark.parametrize("by", [pg.fit, pg.evaluate, pg.predict])
def test_a_batch_size_for_a_tf_dataset_is_refused(x, refused, by):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(x).batch(2)

    assert (
        "tf.data.Dataset"
        in refused(ArgumentError, Fitting(), dataset, by=by, batch_size=2).expected
    )


def test_a_batch_size_is_for_the_arrays_among_data_and_validation(x):
    history = pg.fit(Fitting(), x, batch_size=2, validation=[x], progress="off")

    assert history.clock.step == ROWS // 2
    assert len(history.history["val_loss"]) == 1


@pytest.mark.parametrize("by", [pg.fit, pg.evaluate, pg.predict])
@pytest.mark.parametrize(
    ("step", "kind"),
    [(keras.Sequential(), "Sequential"), (Fitting, "<the class Fitting>"), (None, "NoneType")],
    ids=["model", "class", "nothing"],
)
def test_a_step_that_is_none_is_refused(x, refused, by, step, kind):
    error = refused(ArgumentError, step, x, by=by)

    assert (error.name, error.given) == ("step", kind)
    assert "pg.Step" in error.expected
    assert ("pg.KerasStep" in error.fix) == (kind == "Sequential")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("epoch", "`epochs`"),
        ("validation_data", "`validation`"),
        ("verbose", "`progress`"),
        ("nonsense", "omit it"),
    ],
)
def test_an_argument_that_does_not_exist_is_answered_with_what_was_meant(x, refused, name, meant):
    error = refused(UnknownArgumentError, Fitting(), x, **{name: 1})

    assert isinstance(error, TypeError)
    assert error.code == "PG602"
    assert f"`fit` has no argument {name!r}" in str(error)
    assert meant in error.fix


def test_a_directory_that_holds_a_run_is_refused_and_kept_where_none_may_be(x, refused, tmp_path):
    path = tmp_path / "first"
    pg.fit(Fitting(), x, run=path, progress="off")

    def content():
        return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}

    before = content()

    error = refused(RunExistsError, Fitting(), x, run=pg.Run(path, resume="never"))

    assert isinstance(error, FileExistsError)
    assert error.code == "PG501"
    assert error.path == str(path)
    assert content() == before


@pytest.mark.parametrize("arguments", [{}, {"steps": 0}, {"steps": 2, "epochs": 1}], ids=str)
def test_a_cadence_that_is_none_is_refused(arguments):
    with pytest.raises(ArgumentError, match=r"Every=\(steps="):
        pg.Every(**arguments)


def test_arguments_that_make_sense_are_taken(x):
    history = pg.fit(
        Fitting(),
        x,
        epochs=np.int64(2),
        batch_size=np.int64(4),
        seed=np.int64(1),
        callbacks=(),
        progress="off",
    )

    assert history.clock.epoch == 2
