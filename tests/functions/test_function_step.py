"""Functions as Steps: how batches are bound, what is returned, and what is logged."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import ArgumentError, FunctionBatchError, MissingMethodError, StepReturnError
from perigee.steps.function_step import FunctionStep

ROWS = 8
X = np.random.default_rng(0).normal(size=(ROWS, 3)).astype("float32")
Y = np.arange(ROWS, dtype="float32")
BATCH = (ops.convert_to_tensor(X), ops.convert_to_tensor(Y))


def whole(batch: Any) -> Any:
    return batch[0]


def pair(x: Any, y: Any) -> Any:
    return x, y


def weighted(x: Any, y: Any, sample_weight: Any = None) -> Any:
    return x, y, sample_weight


def configured(x: Any, y: Any, training: bool = True) -> Any:
    return x, y, training


def with_model(model: Any, x: Any, y: Any) -> Any:
    return model, x, y


def by_name(*, image: Any, label: Any) -> Any:
    return image, label


def any_number(*parts: Any) -> Any:
    return parts


def any_names(**parts: Any) -> Any:
    return parts["a"], parts["b"]


def nothing() -> Any:
    return ()


BOUND: dict[str, tuple[Callable[..., Any], Any, Any]] = {
    "one argument gets the batch whole": (whole, (1, 2), 1),
    "one argument gets a dict whole": (lambda batch: batch["a"], {"a": 1}, 1),
    "a tuple over the arguments": (pair, (1, 2), (1, 2)),
    "a list over the arguments": (pair, [1, 2], (1, 2)),
    "nested parts": (pair, ((1, 2), 3), ((1, 2), 3)),
    "a dict by name": (pair, {"y": 2, "x": 1}, (1, 2)),
    "an optional part that is missing": (weighted, (1, 2), (1, 2, None)),
    "an optional part that is there": (weighted, (1, 2, 3), (1, 2, 3)),
    "an optional part by name": (weighted, {"x": 1, "y": 2, "sample_weight": 3}, (1, 2, 3)),
    "a setting keeps its default": (configured, (1, 2), (1, 2, True)),
    "bound by keyword, first": (functools.partial(with_model, model=0), (1, 2), (0, 1, 2)),
    "bound by position": (functools.partial(with_model, 0), (1, 2), (0, 1, 2)),
    "bound by keyword, last": (functools.partial(with_model, y=2), (0, 1), (0, 1, 2)),
    "bound twice": (functools.partial(functools.partial(with_model, 0), 1), 2, (0, 1, 2)),
    "only by keyword": (by_name, (1, 2), (1, 2)),
    "only by keyword, by name": (by_name, {"label": 2, "image": 1}, (1, 2)),
    "any number": (any_number, (1, 2, 3), (1, 2, 3)),
    "any number, of one": (any_number, 1, (1,)),
    "any names": (any_names, {"a": 1, "b": 2}, (1, 2)),
    "none": (nothing, (), ()),
    "a lambda": (lambda a, b: (b, a), (1, 2), (2, 1)),
}


@pytest.mark.parametrize("name", BOUND)
def test_a_batch_is_passed_as_the_arguments_that_are_free(name: str) -> None:
    function, batch, expected = BOUND[name]
    assert FunctionStep(whole, predict_step=function).predict_step(batch) == expected


REFUSED: dict[str, tuple[Callable[..., Any], Any]] = {
    "too few parts": (with_model, BATCH),
    "too many parts": (pair, (*BATCH, Y)),
    "an array for two arguments": (pair, X),
    "a part that may be a setting": (lambda x, seed=None: x, (X, Y, Y)),
    "names that are missing": (pair, {"x": X, "label": Y}),
    "names that are unknown": (pair, {"x": X, "y": Y, "z": Y}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_batch_that_does_not_fit_is_refused_with_both_signatures(name: str) -> None:
    function, batch = REFUSED[name]
    with pytest.raises(FunctionBatchError) as refused:
        FunctionStep(function).train_step(batch)
    said = str(refused.value)
    assert f"`{function.__name__}(" in said
    assert "(8, 3)" in said  # the shapes of the parts
    assert "lambda batch" in said


def test_models_among_the_arguments_are_to_be_bound() -> None:
    with pytest.raises(FunctionBatchError, match=r"functools\.partial\(with_model, model=model\)"):
        FunctionStep(with_model).train_step(BATCH)


RETURNED: dict[str, tuple[Any, Any]] = {
    "nothing": (None, {}),
    "a scalar": (ops.ones(()), {"loss": 1.0}),
    "a number": (2.0, {"loss": 2.0}),
    "a dict": ({"a": ops.ones(()), "b": 2}, {"a": 1.0, "b": 2.0}),
    "a scalar and predictions": ((ops.ones(()), ops.ones((8, 3))), {"loss": 1.0}),
    "two scalars": ((ops.ones(()), ops.zeros(())), {"loss": 1.0}),
}


@pytest.mark.parametrize("name", RETURNED)
def test_what_a_function_returns_is_logged(name: str) -> None:
    returned, expected = RETURNED[name]
    logs = FunctionStep(lambda batch: returned).train_step(BATCH)
    assert {key: float(value) for key, value in logs.items()} == expected


@pytest.mark.parametrize("returned", [ops.ones((8, 3)), [ops.ones(())], (ops.ones((8,)), 1.0), "a"])
def test_anything_else_is_refused_as_in_a_step(returned: Any) -> None:
    with pytest.raises(StepReturnError):
        pg.evaluate(FunctionStep(whole, lambda x, y: returned), (X, Y), execution="eager")


@pytest.mark.parametrize("given", [None, 3, "train", keras.layers.Dense(1), FunctionStep])
def test_only_functions_are_taken(given: Any) -> None:
    with pytest.raises(ArgumentError, match="a function that takes one batch"):
        FunctionStep(given)


def test_a_missing_function_is_asked_for_by_its_argument() -> None:
    with pytest.raises(MissingMethodError, match=r"pg\.FunctionStep\(train_step, test_step="):
        pg.evaluate(FunctionStep(pair), (X, Y))


# What is logged.


class Program:
    """A linear model, and functions that measure it in the ways of hand-written loops."""

    def __init__(self, name: str = "train_loss", val_name: str = "val_loss") -> None:
        self.model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        self.train_loss = keras.metrics.Mean(name=name)
        self.val_loss = keras.metrics.Mean(name=val_name)

    def loss(self, x: Any, y: Any) -> Any:
        return ops.mean(ops.square(self.model(x)[:, 0] - y))

    def train_step(self, x: Any, y: Any) -> Any:
        loss = self.loss(x, y)
        self.train_loss.update_state(loss)
        return loss

    def test_step(self, x: Any, y: Any) -> Any:
        loss = self.loss(x, y)
        self.val_loss.update_state(loss)
        return loss

    def fit(self, **given: Any) -> pg.History:
        step = FunctionStep(self.train_step, self.test_step)
        step.ignore_findings = ["PG112"]  # it trains nothing
        data = X, Y
        return pg.fit(
            step, data, batch_size=6, shuffle=False, validation=data, progress="off", **given
        )

    def exact(self) -> tuple[float, float]:
        """The mean over the examples, and the mean over the two batches of 6 and 2."""
        errors = np.square(ops.convert_to_numpy(self.model(X))[:, 0] - Y)
        return float(errors.mean()), float((errors[:6].mean() + errors[6:].mean()) / 2)


def test_metrics_keep_their_names_and_say_how_far_a_mean_of_means_is_off() -> None:
    program = Program()
    exact, of_batches = program.exact()
    with pytest.warns(pg.PerigeeWarning, match="MeanOfBatchMeans"):
        history = program.fit(epochs=2)
    assert {*history.history} == {"loss", "train_loss", "val_loss"}
    assert history.history["loss"] == pytest.approx([exact] * 2, rel=1e-5)
    assert history.history["train_loss"] == pytest.approx([of_batches] * 2, rel=1e-5)
    (found,) = [f for f in history.findings if f.code == "PG231"]
    assert found.items is not None
    for item, name in zip(found.items, ("train_loss", "val_loss"), strict=True):
        path, value, meant = item.replace(";", "").split(" is ")
        assert path.endswith(name)
        assert float(value.split()[0]) == pytest.approx(of_batches, rel=1e-4)
        assert float(meant) == pytest.approx(exact, rel=1e-4)


def test_batches_of_one_size_have_no_such_finding() -> None:
    program = Program()
    step = FunctionStep(program.train_step)
    step.ignore_findings = ["PG112"]
    history = pg.fit(step, (X, Y), batch_size=4, epochs=2, progress="off")
    assert not history.findings


@pytest.mark.filterwarnings("ignore:MeanOfBatchMeans")
def test_a_metric_takes_the_place_of_a_returned_value_of_its_name() -> None:
    program = Program(name="loss", val_name="val_loss")
    _, of_batches = program.exact()
    history = program.fit()
    assert history.history["loss"] == pytest.approx([of_batches], rel=1e-5)
    assert history.history["val_loss"] == pytest.approx([of_batches], rel=1e-5)


@pytest.mark.filterwarnings("ignore:MeanOfBatchMeans")
@pytest.mark.parametrize(("best", "is_found"), [("val_loss", True), ("loss", False)])
def test_the_best_checkpoint_is_not_chosen_by_a_mean_of_batch_means_unsaid(
    best: str, is_found: bool, tmp_path: Any
) -> None:
    history = Program().fit(run=pg.Run(tmp_path / "run", best=best))
    said = [f for f in history.findings if "best checkpoint" in f.happened]
    assert bool(said) is is_found


def test_a_function_is_trained_by_itself_and_stays_callable() -> None:
    program = Program()
    step = FunctionStep(program.train_step)
    assert float(ops.convert_to_numpy(step(*BATCH))) == pytest.approx(program.exact()[0], rel=1e-5)
    history = pg.fit(
        lambda x, y: {"seen": program.loss(x, y)}, (X, Y), batch_size=ROWS, progress="off"
    )
    assert history.history["seen"] == pytest.approx([program.exact()[0]], rel=1e-5)


@pytest.mark.only_tensorflow
def test_a_function_that_reads_values_runs_as_its_own_loop_does() -> None:
    import tensorflow as tf

    program = Program()
    optimizer = keras.optimizers.SGD(0.1)
    losses: list[float] = []

    def train_step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = program.loss(x, y)
        variables = program.model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        losses.append(loss.numpy())
        return loss.numpy()

    history = pg.fit(train_step, (X, Y), batch_size=4, epochs=3, progress="off")

    assert len(losses) == 6  # none of the rehearsal
    assert history.history["loss"] == pytest.approx(np.reshape(losses, (3, 2)).mean(1), rel=1e-5)
    assert [finding.code for finding in history.findings] == ["PG449"]
    asked = pg.fit(train_step, (X, Y), batch_size=4, execution="eager", progress="off")
    assert not asked.findings
