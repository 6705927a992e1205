"""The training loops of two published texts, unchanged, train in `fit` as in their own loops."""

import ast
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._step.state import restore, snapshot, track
from perigee.checkpoints import arrays_of
from perigee.testing import parity, verify_resume
from tests.functions.templates import LOOP, MODEL, extend, load, replaced, until, within

if keras.backend.backend() != "tensorflow":
    pytest.skip("the texts use TensorFlow itself", allow_module_level=True)

import tensorflow as tf

# Which the texts' means are; what it says is tested elsewhere.
pytestmark = [
    pytest.mark.filterwarnings("ignore:MeanOfBatchMeans:perigee.PerigeeWarning"),
    pytest.mark.filterwarnings("ignore:UnusedVariablesError:perigee.PerigeeWarning"),
]

ROWS, VALIDATED, BATCH, EPOCHS = 171, 45, 16, 2  # both end with a smaller batch
STEPS_AN_EPOCH = -(-ROWS // BATCH)
COMPARED = 20
LOSS, METRIC = 1e-5, 1e-4  # relative


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    # Every other pixel: one of the texts has 32 features.
    return (images[:, ::2] / 16).astype("float32"), labels.astype("int32")


X, Y = _digits()
IS_HIGH = (Y > 4).astype("int32")


def batches(*arrays: np.ndarray) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(tuple(a[:ROWS] for a in arrays)).batch(BATCH)


def validated(*arrays: np.ndarray) -> tf.data.Dataset:
    rows = tuple(a[ROWS : ROWS + VALIDATED] for a in arrays)
    return tf.data.Dataset.from_tensor_slices(rows).batch(BATCH)


# What the texts take for granted.


def classifier(outputs: int = 10, draws: bool = False) -> dict[str, Any]:
    layers = keras.layers
    middle = [layers.BatchNormalization(), layers.Dropout(0.3)] if draws else []
    dense = layers.Dense(12, activation="relu", kernel_regularizer="l2")
    model = keras.Sequential([keras.Input((32,)), dense, *middle, layers.Dense(outputs)])
    return {"model": model, "optimizer": keras.optimizers.SGD(0.1, momentum=0.9)}


def two_parts(regularizer: str | None = None) -> dict[str, Any]:
    dense = keras.layers.Dense(12, activation="relu", kernel_regularizer=regularizer)
    backbone = keras.Sequential([keras.Input((32,)), dense])
    head = keras.Sequential([keras.Input((12,)), keras.layers.Dense(10)])
    return {
        "backbone": backbone,
        "head": head,
        "model": keras.Sequential([backbone, head]),
        "opt_backbone": keras.optimizers.SGD(0.05),
        "opt_head": keras.optimizers.SGD(0.1, momentum=0.9),
    }


class Partly(keras.Model):
    """A model whose last layer its output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = keras.layers.Dense(10), keras.layers.Dense(3)

    def call(self, x: Any) -> Any:
        self.unused(x)
        return self.used(x)


def partly_used() -> dict[str, Any]:
    model = Partly()
    model(np.zeros((1, 32), "float32"))
    return {"model": model, "optimizer": keras.optimizers.SGD(0.1)}


def partly_used_parts() -> dict[str, Any]:
    parts = two_parts()
    parts["backbone"] = backbone = keras.Sequential([keras.layers.Dense(12, "relu"), Spare()])
    parts["model"] = model = keras.Sequential([backbone, parts["head"]])
    model(np.zeros((1, 32), "float32"))
    return parts


class Spare(keras.layers.Layer):
    """Holds a weight that it does not use."""

    def build(self, shape: Any) -> None:
        self.spare = self.add_weight(shape=(3,), name="spare")

    def call(self, x: Any) -> Any:
        return x


# The templates.


@dataclass(frozen=True)
class Template:
    """A step of one of the texts.

    Attributes:
        blocks: Its code, and what a reader adds to it.
        given: Makes what it takes for granted.
        train: The name of the function that trains.
        by_hand: The name of the one that a loop by hand calls, if it is another one.
        test: The name of the one that measures, if there is one.
        loss: The metric that observes the loss; `None` if the function returns it.
        arrays: The parts of the data.
    """

    blocks: Sequence[str]
    given: Callable[[], dict[str, Any]] = dict
    train: str = "train_step"
    by_hand: str | None = None
    test: str | None = None
    loss: str | None = "train_loss"
    arrays: Sequence[np.ndarray] = field(default=(X, Y))

    def load(self, folder: Path) -> ModuleType:
        """Return its module, the same in each call."""
        keras.utils.set_random_seed(0)
        return load(folder, *self.blocks, **self.given())

    def step(self, module: ModuleType) -> pg.FunctionStep:
        test = None if self.test is None else getattr(module, self.test)
        return pg.FunctionStep(getattr(module, self.train), test)

    @property
    def data(self) -> tf.data.Dataset:
        return batches(*self.arrays)


def _body(block: str) -> str:
    return textwrap.dedent(block.partition("def train_step(x, y):\n")[2])


# What the texts define outside of the functions.
LOSS_FN = until(LOOP["metrics"], "train_loss =")[0]
BINARY = (
    "loss_fn = tf.keras.losses.BinaryCrossentropy(from_logits=True)\n"
    'train_acc = tf.keras.metrics.BinaryAccuracy(name="train_acc", threshold=0.0)'
)
ANATOMY = "\n".join(
    [
        "def train_step(x, y):",
        *map(within, [LOOP["gradients"], LOOP["update"], "return total_loss"]),
    ]
)
DATA_LOSS = "data_loss = loss_fn(y, y_pred)"
TAPE = "grads = tape.gradient(total_loss, model.trainable_variables)"
REDUCED = replaced(LOOP["train_step"], DATA_LOSS, LOOP["reduced"])
SHAPED = replaced(LOOP["train_step"], DATA_LOSS, LOOP["shapes"] + "\n" + DATA_LOSS)
CHECKED = replaced(LOOP["train_step"], TAPE, TAPE + "\n" + LOOP["no_none"])
SIGNED = replaced(LOOP["signature"], "...", _body(LOOP["train_step"]))

ONE, ONE_LOOP = until(MODEL["one_output"], "# Example usage")
TWO, TWO_LOOP = until(MODEL["two_outputs"], "# Example multi-output training")
MEASURED, MEASURED_LOOP = until(MODEL["metric"], "# Example using a metrics object")


def made(loop: str) -> str:
    """Return the part of a loop of the second text that makes its objects."""
    return until(loop, "inputs =")[0]


def bound(function: str, data: str, more: str = "") -> str:
    """Return lines that bind the arguments of a function that are not data, in two ways."""
    others = "".join(
        f", {name}={name}" for name in ["model", "loss_fn", "optimizer", *more.split()]
    )
    given = ", ".join(["model", data, "loss_fn", "optimizer", *more.split()])
    return (
        "import functools\n"
        f"by_partial = functools.partial({function}{others})\n"
        f"by_lambda = lambda {data}: {function}({given})"
    )


ONE_OUTPUT = [MODEL["model"], ONE, made(ONE_LOOP), bound("train_step", "inputs, labels")]
TWO_OUTPUTS = [
    TWO,
    made(TWO_LOOP),
    bound("train_step_multi", "inputs, labels1, labels2", "loss_weights"),
]
WITH_METRIC = [
    MODEL["model"],
    MEASURED,
    made(MEASURED_LOOP),
    bound("train_step_metrics", "inputs, labels", "metric"),
]

_draw = np.random.default_rng(0)
INPUTS = _draw.normal(size=(ROWS, 10)).astype("float32")
ONE_LABEL = (INPUTS[:, :1] + 0.1 * _draw.normal(size=(ROWS, 1))).astype("float32")
TWO_LABELS = (INPUTS[:, 1:3] + 0.1 * _draw.normal(size=(ROWS, 2))).astype("float32")

OfArguments = partial(Template, train="by_partial", by_hand="by_lambda", loss=None)

TEMPLATES = {
    "anatomy": Template([LOSS_FN, ANATOMY], classifier, loss=None),
    "step": Template([LOSS_FN, LOOP["step"]], classifier, loss=None),
    "metrics": Template(
        [LOOP["metrics"], LOOP["train_step"], LOOP["test_step"]],
        partial(classifier, draws=True),
        test="test_step",
    ),
    "two optimizers": Template(
        [LOOP["metrics"], LOOP["two_optimizers"]], two_parts, train="train_step_multiopt"
    ),
    "signature": Template([LOOP["metrics"], SIGNED], classifier),
    "reduced": Template([LOOP["metrics"], REDUCED], classifier),
    "shapes": Template(
        [LOOP["metrics"], BINARY, SHAPED], partial(classifier, 1), arrays=(X, IS_HIGH)
    ),
    "no None": Template([LOOP["metrics"], CHECKED], classifier),
    "filtered": Template([LOSS_FN, LOOP["step"]], partly_used, loss=None),
    "filtered, two optimizers": Template(
        [LOOP["metrics"], LOOP["two_optimizers"]], partly_used_parts, train="train_step_multiopt"
    ),
    "one output": OfArguments(ONE_OUTPUT, arrays=(INPUTS, ONE_LABEL)),
    "one output, lambda": OfArguments(ONE_OUTPUT, train="by_lambda", arrays=(INPUTS, ONE_LABEL)),
    "two outputs": OfArguments(TWO_OUTPUTS, arrays=(INPUTS, ONE_LABEL, TWO_LABELS)),
    "metric": OfArguments(WITH_METRIC, arrays=(INPUTS, ONE_LABEL)),
}


MEANS = {name: {"PG231"} for name, each in TEMPLATES.items() if each.loss is not None}
DROPPED = {name: {"PG101"} for name in TEMPLATES if name.startswith("filtered")}
FOUND = {name: MEANS.get(name, set()) | DROPPED.get(name, set()) for name in TEMPLATES}
"""Codes of findings. A penalty that a step adds by hand is none: a tape adds nothing by itself."""


@dataclass
class Trained:
    """What a training gave: the loss after each step, and metrics after each epoch."""

    losses: list[float] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)


def metrics_of(module: ModuleType) -> list[Any]:
    return [value for value in vars(module).values() if isinstance(value, keras.Metric)]


def graph(function: Any) -> Any:
    is_one = isinstance(function, tf.types.experimental.PolymorphicFunction)
    return function if is_one else tf.function(function)


def by_hand(template: Template, module: ModuleType) -> Trained:
    """Train as the texts do: two loops around the step."""
    trained = Trained()
    train = graph(getattr(module, template.by_hand or template.train))
    metrics = metrics_of(module)
    for _ in range(EPOCHS):
        for metric in metrics:
            metric.reset_state()
        first = len(trained.losses)
        for batch in template.data:
            returned = train(*batch)
            if template.loss is None:
                loss = returned[0] if isinstance(returned, tuple) else returned
                trained.losses.append(float(loss))
            else:
                trained.losses.append(float(getattr(module, template.loss).result()))
        if template.test is not None:
            for batch in validated(*template.arrays):
                getattr(module, template.test)(*batch)
        values = {m.name: float(m.result()) for m in metrics if m.variables[-1].numpy() != 0}
        if template.loss is None:
            rows = [len(batch[0]) for batch in template.data]
            values["loss"] = float(np.average(trained.losses[first:], weights=rows))
        trained.epochs.append(values)
    return trained


class Observer(pg.Hook):
    """Keeps the state at the start, and the loss after each step."""

    every = pg.Every(steps=1)

    def __init__(self, metric: Any) -> None:
        self.metric = metric
        self.losses: list[float] = []

    def on_start(self, event: Any) -> None:
        self.variables = track(event.step).variables
        self.values = snapshot(self.variables)

    def on_steps(self, event: Any) -> None:
        if self.metric is not None:
            self.losses.append(float(self.metric.result()))

    def on_record(self, event: Any) -> None:
        if self.metric is None and event.scope == "steps":
            self.losses.append(event.values["loss"])


def fit(template: Template, step: Any, steps_per_call: int = 64, **arguments: Any) -> pg.History:
    given: dict[str, Any] = {
        "epochs": EPOCHS,
        "validation": None if template.test is None else validated(*template.arrays),
        "execution": pg.Execution("graph", steps_per_call=steps_per_call),
        "progress": "off",
    }
    return pg.fit(step, template.data, **{**given, **arguments})


def close(ours: Sequence[float], theirs: Sequence[float], tolerance: float) -> None:
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=1e-7)


# Which differ from others in what is quick to see, and is tested below.
ALIKE = {"anatomy", "no None", "filtered, two optimizers", "one output, lambda"}


def quick(*names: str) -> list[Any]:
    """Return the names of all templates, those that are not given marked as slow."""
    return [n if n in names else pytest.param(n, marks=pytest.mark.slow) for n in TEMPLATES]


@pytest.mark.parametrize("name", quick(*TEMPLATES.keys() - ALIKE))
def test_a_template_trains_as_in_its_own_loop_in_blocks_of_any_size(name, tmp_path):
    template = TEMPLATES[name]
    expected = by_hand(template, template.load(tmp_path))
    module = template.load(tmp_path)
    step = template.step(module)
    observer = Observer(None if template.loss is None else getattr(module, template.loss))
    kept = pg.Run(tmp_path / "run", save_every=None, record_every=pg.Every(steps=1))

    history = fit(template, step, 1, callbacks=[observer], run=kept)
    one_by_one = arrays_of(track(step))
    restore(observer.variables, observer.values)
    in_blocks = fit(template, step)

    close(observer.losses[:COMPARED], expected.losses[:COMPARED], LOSS)
    for epoch, values in enumerate(expected.epochs):
        ours = {metric: history.history[metric][epoch] for metric in values}
        close([*ours.values()], [*values.values()], METRIC)
    assert history.history.keys() - {"learning_rate"} >= expected.epochs[0].keys()
    assert {key: a.tobytes() for key, a in arrays_of(track(step)).items()} == {
        key: a.tobytes() for key, a in one_by_one.items()
    }
    assert in_blocks.history == history.history
    assert {finding.code for finding in history.findings} == FOUND[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["metrics", "two optimizers", "two outputs"])
def test_a_block_of_64_steps_trains_as_64_single_steps(name, tmp_path):
    template = TEMPLATES[name]
    step = template.step(template.load(tmp_path))
    pg.fit(step, template.data, steps=1, progress="off")  # to build it
    data = template.data.repeat(7)
    tracked = track(step)
    before = snapshot(tracked.variables)
    given = {"epochs": 1, "seed": 1, "progress": "off"}
    one_by_one = pg.fit(step, data, execution=pg.Execution("graph", steps_per_call=1), **given)
    after = arrays_of(track(step))
    restore(tracked.variables, before)

    in_blocks = pg.fit(step, data, execution=pg.Execution("graph", steps_per_call=64), **given)

    assert one_by_one.clock.step > 64
    assert in_blocks.history == one_by_one.history
    assert {key: a.tobytes() for key, a in arrays_of(track(step)).items()} == {
        key: a.tobytes() for key, a in after.items()
    }


# The loops themselves, as the texts write them.


def printed(capsys: pytest.CaptureFixture[str], start: str) -> list[str]:
    lines = capsys.readouterr().out.splitlines()
    return [line.partition(start)[2] for line in lines if start in line]


def test_the_epoch_loop_prints_what_the_history_holds(tmp_path, capsys):
    template = TEMPLATES["metrics"]
    data = {"train_ds": template.data, "val_ds": validated(X, Y), "num_epochs": EPOCHS}
    by_text = template.load(tmp_path)
    vars(by_text).update(data)

    extend(by_text, LOOP["epochs"])
    history = fit(template, template.step(template.load(tmp_path)))

    epochs = [ast.literal_eval(logs) for logs in printed(capsys, ": ")]
    assert len(epochs) == EPOCHS
    for epoch, logs in enumerate(epochs):
        assert [*logs] == ["train_loss", "train_acc", "val_loss", "val_acc"]
        close([history.history[name][epoch] for name in logs], [*logs.values()], METRIC)


def in_graph(module: ModuleType, name: str) -> None:
    """Compile a function of a text that has no `tf.function`."""
    setattr(module, name, tf.function(getattr(module, name)))


class Losses(pg.Hook):
    """Keeps the loss of each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_record(self, event: Any) -> None:
        if event.scope == "steps":
            self.losses.append(event.values["loss"])


TEXTS = {
    "one output": (ONE_OUTPUT, ONE_LOOP, "train_step", "inputs, labels"),
    "two outputs": (TWO_OUTPUTS, TWO_LOOP, "train_step_multi", "inputs, labels1, labels2"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_loop_of_one_batch_an_epoch_prints_the_losses_that_fit_logs(name, tmp_path, capsys):
    blocks, loop, function, data = TEXTS[name]
    keras.utils.set_random_seed(0)
    by_text = load(tmp_path, *blocks[:-2])
    in_graph(by_text, function)
    keras.utils.set_random_seed(0)

    extend(by_text, loop)
    keras.utils.set_random_seed(0)
    module = load(tmp_path, *blocks[:-2], until(loop, "epochs = 100")[0], blocks[-1])
    losses = Losses()
    pg.fit(
        module.by_partial,
        tuple(getattr(module, part) for part in data.split(", ")),
        epochs=COMPARED + 1,
        batch_size=100,
        shuffle=False,
        execution="graph",
        progress="off",
        callbacks=[losses],
        run=pg.Run(tmp_path / "run", save_every=None, record_every=pg.Every(steps=1)),
    )

    expected = [float(loss) for loss in printed(capsys, "Loss: ")]
    assert len(expected) == 10  # of 100 epochs
    close(losses.losses[::10], expected[:3], LOSS)


def test_the_loop_that_calls_reset_states_fails_and_fit_resets_by_itself(tmp_path):
    keras.utils.set_random_seed(0)
    by_text = load(tmp_path, *WITH_METRIC[:2])
    keras.utils.set_random_seed(0)
    module = load(tmp_path, *WITH_METRIC[:2], until(MEASURED_LOOP, "epochs =")[0], WITH_METRIC[-1])

    with pytest.raises(AttributeError, match="reset_states"):
        extend(by_text, MEASURED_LOOP)
    data = module.inputs, module.labels
    history = pg.fit(
        module.by_partial, data, epochs=2, batch_size=100, shuffle=False, execution="eager"
    )

    # Of one epoch each, not of both.
    errors = history.history["mean_absolute_error"]
    again = pg.FunctionStep(module.by_partial)
    third = pg.fit(again, data, epochs=1, batch_size=100, shuffle=False, execution="eager")
    assert errors[0] > errors[1] > third.history["mean_absolute_error"][0]
    before = module.model(module.inputs)
    last = pg.fit(again, data, epochs=1, batch_size=100, shuffle=False, execution="eager")
    exact = float(np.mean(np.abs(before - module.labels)))
    close(last.history["mean_absolute_error"], [exact], METRIC)


def test_metrics_start_again_at_each_epoch_as_with_the_texts_fix(tmp_path):
    template = TEMPLATES["reduced"]
    by_text = template.load(tmp_path)
    vars(by_text).update(train_ds=template.data, logs=[])
    step = "for x, y in train_ds:\n    train_step(x, y)\nlogs.append(float(train_loss.result()))"

    def loop(*lines: str) -> list[float]:
        by_text.logs = []
        extend(by_text, f"for epoch in range({EPOCHS}):\n" + within("\n".join([*lines, step])))
        return by_text.logs

    reset = loop(LOOP["reset"])
    history = fit(template, template.step(template.load(tmp_path)))

    close(history.history["train_loss"], reset, METRIC)
    kept_on = loop()  # Pitfall 1
    assert abs(kept_on[1] - float(by_text.train_loss.result())) < 1e-6
    assert kept_on[0] != pytest.approx(reset[0], rel=1e-2)


def test_the_check_for_none_raises_as_in_the_loop(tmp_path):
    def make() -> ModuleType:
        keras.utils.set_random_seed(0)
        return load(tmp_path, LOOP["metrics"], CHECKED, **partly_used())

    by_text, module = make(), make()
    with pytest.raises(tf.errors.InvalidArgumentError) as expected:
        by_text.train_step(X[:BATCH], Y[:BATCH])
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        pg.fit(module.train_step, batches(X, Y), progress="off")

    name = module.model.unused.kernel.name
    assert name in str(expected.value) and name in str(raised.value)
    assert "rehearsed `train_step`" in "".join(raised.value.__notes__)


def test_arrays_are_cast_as_the_signature_says_and_refused_where_it_does_not_fit(tmp_path):
    template = TEMPLATES["signature"]
    x, y = X[:ROWS].astype("float64"), Y[:ROWS].astype("int64")
    by_text, module = template.load(tmp_path), template.load(tmp_path)

    losses = []
    for first in range(0, ROWS, BATCH):
        by_text.train_step(x[first : first + BATCH], y[first : first + BATCH])
        losses.append(float(by_text.train_loss.result()))
    observer = Observer(module.train_loss)
    pg.fit(
        module.train_step,
        (x, y),
        batch_size=BATCH,
        shuffle=False,
        execution="graph",
        progress="off",
        callbacks=[observer],
    )

    close(observer.losses, losses, LOSS)
    with pytest.raises(pg.PerigeeError, match="input_signature"):
        pg.fit(module.train_step, (X[:ROWS, :31], Y[:ROWS]), progress="off")


# What a FunctionStep is.


def test_a_plain_function_is_trained_and_the_old_loop_runs_on_from_there(tmp_path):
    template = TEMPLATES["step"]
    by_text, module = template.load(tmp_path), template.load(tmp_path)
    expected = by_hand(template, by_text)
    given = module.train_step

    fit(template, module.train_step, epochs=1)
    step = pg.FunctionStep(module.train_step)
    rest = [
        float((module.train_step if number % 2 else step)(*batch)[0])
        for number, batch in enumerate(template.data)
    ]

    assert module.train_step is given
    assert isinstance(given, tf.types.experimental.PolymorphicFunction)
    close(rest, expected.losses[STEPS_AN_EPOCH:], LOSS)


def test_auto_trains_alike(tmp_path):
    template = TEMPLATES["reduced"]
    expected = by_hand(template, template.load(tmp_path))

    history = fit(template, template.load(tmp_path).train_step, execution="auto")

    close(history.history["train_loss"], [e["train_loss"] for e in expected.epochs], METRIC)


VAL = ["val_loss", "val_acc"]  # which the class does not have


class Classifier(pg.Step):
    """The first text's step, as a class without a tape."""

    def __init__(self, model: Any, optimizer: Any, loss_fn: Any) -> None:
        self.model, self.optimizer, self.loss_fn = model, optimizer, loss_fn
        self.train_loss = keras.metrics.Mean(name="train_loss")
        self.train_acc = keras.metrics.SparseCategoricalAccuracy(name="train_acc")

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch

        def objective() -> Any:
            y_pred = self.model(x, training=True)
            return self.loss_fn(y, y_pred), y_pred

        loss, y_pred = self.minimize(objective, self.optimizer, self.model)
        self.train_loss.update_state(loss)
        self.train_acc.update_state(y, y_pred)
        return {}


def test_a_template_is_equal_to_the_same_step_as_a_class(tmp_path):
    template = TEMPLATES["metrics"]
    module = template.load(tmp_path)
    against = Classifier(**partial(classifier, draws=True)(), loss_fn=module.loss_fn)

    report = parity(template.step(module), against, template.data, steps=STEPS_AN_EPOCH + 1)

    assert report, report
    assert "train_loss/total" in report.variables
    assert {*report.left_out} >= {f"{name}/{v}" for name in VAL for v in ("total", "count")}


def test_a_loop_of_ones_own_trains_alike(tmp_path):
    template = TEMPLATES["metrics"]
    expected = by_hand(template, template.load(tmp_path))
    module = template.load(tmp_path)

    losses, epochs = [], []
    prepared = pg.prepare(
        template.step(module), steps_per_epoch=None, execution="graph", progress="off"
    )
    with prepared as trainer:
        while trainer.goes_on(epochs=EPOCHS):
            for batch in template.data:
                trainer.train_step(batch)
                losses.append(float(module.train_loss.result()))
            epochs.append(trainer.end_epoch())

    close(losses[:COMPARED], expected.losses[:COMPARED], LOSS)
    for values, theirs in zip(epochs, expected.epochs, strict=True):
        close([values["train_acc"]], [theirs["train_acc"]], METRIC)


def test_a_run_logs_metrics_as_they_are_named_and_resumes(tmp_path):
    template = TEMPLATES["metrics"]
    expected = by_hand(template, template.load(tmp_path))
    folder = tmp_path / "run"

    first = fit(template, template.step(template.load(tmp_path)), epochs=1, run=folder)
    module = template.load(tmp_path)
    keras.utils.set_random_seed(1)  # no matter: all is restored
    second = fit(template, template.step(module), run=pg.Run(folder, best="val_acc"))

    assert first.clock.epoch == 1 and second.resumed_from.epoch == 1
    for name in ("train_loss", "train_acc", "val_loss", "val_acc"):
        close(second.history[name], [epoch[name] for epoch in expected.epochs], METRIC)
    assert not [name for name in second.history if name.startswith("val_val")]
    records = [
        ast.literal_eval(line)
        for line in (folder / "metrics.jsonl").read_text().split("\n")
        if line
    ]
    assert {"train_loss", "val_loss"} <= records[-1]["values"].keys()


def resumes(name: str, folder: Path, **arguments: Any) -> None:
    template = TEMPLATES[name]
    steps = STEPS_AN_EPOCH + 3
    data = {} if template.test is None else {"validation": validated(*template.arrays)}
    report = verify_resume(
        lambda: template.step(template.load(folder)),
        lambda: template.data,
        steps=steps,
        at=STEPS_AN_EPOCH - 4,
        arguments={**data, **arguments},
    )
    assert report.steps == steps


@pytest.mark.parametrize("name", quick("metrics"))
def test_a_template_resumes_exactly(name, tmp_path):
    resumes(name, tmp_path, execution="graph")


# What is found in them.


@pytest.mark.parametrize("level", ["default", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_check_finds_no_fault_that_a_template_does_not_have(name, level, tmp_path):
    template = TEMPLATES[name]
    module = template.load(tmp_path)
    validation = None if template.test is None else validated(*template.arrays)

    found = pg.check(template.step(module), template.data, validation=validation, level=level)

    codes = {finding.code for finding in found}
    assert codes == FOUND[name], found


def test_a_penalty_that_the_step_of_two_optimizers_leaves_out_is_found(tmp_path):
    template = replace(TEMPLATES["two optimizers"], given=partial(two_parts, "l2"))

    found = pg.check(template.step(template.load(tmp_path)), template.data)

    assert {finding.code for finding in found} == {"PG229", "PG231"}
