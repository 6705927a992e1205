"""What changed between two starts is named; what may change freely alarms nobody."""

import json
import textwrap
from functools import cache

import keras
import numpy as np
import pytest
from keras import layers, optimizers

import perigee as pg
from perigee._runs.changes import Record
from perigee._runs.program import program_of
from perigee._step.code_digest import code_digests
from tests.runs.programs import (
    Counted,
    Distill,
    arrays,
    between,
    model,
    recorded,
    supervised,
    wired,
)

pytestmark = pytest.mark.mostly_once

schedules = optimizers.schedules


def lines(was, now):
    return list(between(was, now).certain)


@cache
def usual():
    return recorded(validation=arrays(32), fed={"shuffle": False})


def stopping(**more):
    return keras.callbacks.EarlyStopping(monitor="loss", **more)


x, y = arrays()

# Name: what the two starts record, and the line.
BY_HAND = {
    "learning rate": (
        lambda: supervised(),
        lambda: supervised(optimizer=optimizers.Adam(0.001)),
        "step.optimizer.learning_rate: 0.01 -> 0.001",
    ),
    "a schedule for a rate": (
        lambda: supervised(),
        lambda: supervised(optimizer=optimizers.Adam(schedules.ExponentialDecay(0.01, 10, 0.9))),
        "step.optimizer.learning_rate: 0.01 -> ExponentialDecay",
    ),
    "a number of a schedule": (
        lambda: supervised(optimizer=optimizers.SGD(schedules.CosineDecay(0.01, 100))),
        lambda: supervised(optimizer=optimizers.SGD(schedules.CosineDecay(0.01, 200))),
        "step.optimizer.learning_rate.decay_steps: 100 -> 200",
    ),
    "optimizer": (
        lambda: supervised(),
        lambda: supervised(optimizer=optimizers.AdamW(0.01)),
        "step.optimizer: Adam -> AdamW",
    ),
    "clipping": (
        lambda: supervised(),
        lambda: supervised(optimizer=optimizers.Adam(0.01, clipnorm=1.0)),
        "step.optimizer.clipnorm: (none) -> 1",
    ),
    "one of two optimizers": (
        lambda: supervised(optimizer=[(optimizers.SGD(0.1), "dense"), (optimizers.SGD(0.2), "x")]),
        lambda: supervised(optimizer=[(optimizers.SGD(0.1), "dense"), (optimizers.SGD(0.3), "x")]),
        "step.optimizer[1].learning_rate: 0.2 -> 0.3",
    ),
    "loss by name": (lambda: supervised(), lambda: supervised("mae"), "step.loss: mse -> mae"),
    "loss by function": (
        lambda: supervised(keras.losses.mean_squared_error),
        lambda: supervised(keras.losses.mean_absolute_error),
        "step.loss: mean_squared_error -> mean_absolute_error",
    ),
    "a number of a loss": (
        lambda: supervised(keras.losses.Huber(1.0)),
        lambda: supervised(keras.losses.Huber(2.0)),
        "step.loss.delta: 1 -> 2",
    ),
    "loss weights": (
        lambda: supervised(loss_weights=1.0),
        lambda: supervised(loss_weights=2.0),
        "step.loss_weights: 1 -> 2",
    ),
    "class weights": (
        lambda: supervised(class_weight={0: 1.0, 1: 2.0}),
        lambda: supervised(class_weight={0: 1.0, 1: 3.0}),
        "step.class_weight[1]: 2 -> 3",
    ),
    "metric": (
        lambda: supervised(),
        lambda: supervised(metrics=["mse"]),
        "step.metrics[0]: MeanAbsoluteError -> MeanSquaredError",
    ),
    "name of a metric": (
        lambda: supervised(metrics=[keras.metrics.MeanSquaredError(name="error")]),
        lambda: supervised(metrics=[keras.metrics.MeanSquaredError(name="squares")]),
        "step.metrics[0].name: error -> squares",
    ),
    "units": (
        lambda: supervised(),
        lambda: supervised(units=5),
        "step.model.layers[0].units: 3 -> 5",
    ),
    "activation": (
        lambda: supervised(),
        lambda: supervised(activation="tanh"),
        "step.model.layers[0].activation: relu -> tanh",
    ),
    "dropout": (
        lambda: supervised(),
        lambda: supervised(rate=0.1),
        "step.model.layers[1].rate: 0.5 -> 0.1",
    ),
    "regularizer": (
        lambda: supervised(),
        lambda: supervised(l2=0.1),
        "step.model.layers[0].kernel_regularizer: (none) -> L2",
    ),
    "strength of a regularizer": (
        lambda: supervised(l2=0.1),
        lambda: supervised(l2=0.2),
        "step.model.layers[0].kernel_regularizer.l2: 0.1 -> 0.2",
    ),
    "frozen layer": (
        lambda: supervised(),
        lambda: supervised(frozen=True),
        "step.model.layers[0].trainable: True -> False",
    ),
    "one more layer": (
        lambda: supervised(),
        lambda: supervised(extra=True),
        "step.model.layers[1]: Dropout -> Dense",
    ),
    "connections": (
        lambda: supervised(kind=wired),
        lambda: supervised(kind=wired, swapped=True),
        "step.model.inputs_of[3]: args: #1 Dense, args: #2 Dense -> args: #2 Dense, args: #1",
    ),
    "a number in a functional model": (
        lambda: supervised(kind=wired),
        lambda: supervised(kind=wired, factor=3.0),
        "step.model.inputs_of[4]: args: #3 Subtract, args: 2.0 -> args: #3 Subtract, args: 3",
    ),
    "attribute": (Distill, lambda: Distill(2.0), "step.temperature: 4 -> 2"),
    "text": (Distill, lambda: Distill(mode="hard"), "step.mode: soft -> hard"),
    "truth": (Distill, lambda: Distill(use_mask=True), "step.use_mask: False -> True"),
    "item": (Distill, lambda: Distill(weights=[1.0, 3.0]), "step.weights[1]: 2 -> 3"),
    "one more item": (Distill, lambda: Distill(weights=[1.0, 2.0, 3.0]), "step.weights[2]: (none)"),
    "entry": (Distill, lambda: Distill(text=0.7), "step.by_name.text: 0.5 -> 0.7"),
    "set": (Distill, lambda: Distill(classes=["cat"]), "step.classes: 'cat', 'dog' -> 'cat'"),
    "array": (Distill, lambda: Distill(table=np.arange(12.0) * 2), "step.table: other values"),
    "object": (Distill, lambda: Distill(margin=0.3), "step.settings.margin: 0.2 -> 0.3"),
    "optimizer of an own step": (
        Distill,
        lambda: Distill(lr=0.1),
        "step.optimizer.learning_rate: 0.01 -> 0.1",
    ),
}

OF_FIT = {
    "shifted data": ({"data": (x + 100, y)}, "data[0] (values): other values"),
    "other labels": ({"data": (x, y[::-1].copy())}, "data[1] (values): other values"),
    "more rows": ({"data": arrays(80)}, "data: 64 rows -> 80 rows"),
    "another dtype": ({"data": (x.astype("int32"), y)}, "data.structure: "),
    "another kind of data": (
        {"data": [(x[:8], y[:8])] * 8, "validation": None, "fed": {}},
        "data.kind: arrays -> list",
    ),
    "batch size": ({"fed": {"batch_size": 16, "shuffle": False}}, "data.batch_size: 32 -> 16"),
    "shuffling": ({"fed": {"shuffle": True}}, "data.shuffle: False -> True"),
    "other validation data": ({"validation": arrays(32, seed=3)}, "validation[0] (values): other"),
    "less validation data": ({"validation": arrays(16)}, "validation: 32 rows -> 16 rows"),
    "no validation": ({"validation": None}, "validation: 32 rows -> (none)"),
    "accumulate": ({"accumulate": 2}, "accumulate: 1 -> 2"),
    "nonfinite": ({"nonfinite": "skip"}, "nonfinite: raise -> skip"),
    "steps per epoch": ({"steps_per_epoch": 5}, "steps_per_epoch: (none) -> 5"),
    "validation steps": ({"validation_steps": 2}, "validation_steps: (none) -> 2"),
    "validate every": ({"validate_every": pg.Every(steps=5)}, "validate_every: Every("),
    "a callback": ({"callbacks": [stopping()]}, "callbacks.EarlyStopping: (none) -> present"),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_change_of_the_step_is_named(name):
    was, now, line = BY_HAND[name]

    found = lines(recorded(was()), recorded(now()))

    assert any(each.startswith(line) for each in found), found


@pytest.mark.parametrize("name", OF_FIT)
def test_a_change_of_what_is_passed_to_fit_is_named(name):
    arguments, line = OF_FIT[name]

    now = recorded(**{"validation": arrays(32), "fed": {"shuffle": False}, **arguments})

    found = lines(usual(), now)
    assert any(each.startswith(line) for each in found), found


def test_the_arguments_of_callbacks_are_compared_and_those_of_users_are_named():
    was = recorded(callbacks=[stopping(patience=3), stopping(patience=9), Counted()])
    now = recorded(callbacks=[stopping(patience=3), stopping(patience=5), Counted(0.1)])

    found = between(was, now)

    assert found.certain == ("callbacks.EarlyStopping[1].patience: 9 -> 5",)
    assert found.named == ("callbacks.Counted.factor: 0.5 -> 0.1",)


# Drawn by a script: every attribute of the configurations of what Keras has.

OWNERS = [
    *(optimizers.SGD(), optimizers.Adam(), optimizers.AdamW(), optimizers.RMSprop()),
    *(optimizers.Adagrad(), optimizers.Nadam(), optimizers.Ftrl(), optimizers.Lion()),
    schedules.ExponentialDecay(0.1, 10, 0.9),
    schedules.CosineDecayRestarts(0.1, 10),
    schedules.PolynomialDecay(0.1, 10),
    *(
        keras.losses.BinaryCrossentropy(),
        keras.losses.Huber(),
        keras.losses.BinaryFocalCrossentropy(),
    ),
    keras.losses.SparseCategoricalCrossentropy(),
    *(keras.metrics.TopKCategoricalAccuracy(), keras.metrics.AUC(), keras.metrics.Precision()),
    *(layers.Dense(3), layers.Conv2D(4, 3), layers.LSTM(3), layers.GRU(3), layers.Dropout(0.5)),
    *(layers.BatchNormalization(), layers.LayerNormalization(), layers.MultiHeadAttention(2, 3)),
    *(
        layers.Embedding(9, 3),
        layers.MaxPooling2D(),
        layers.RandomFlip(),
        layers.RandomRotation(0.1),
    ),
    *(layers.LeakyReLU(), layers.GaussianNoise(0.1), layers.Concatenate(), layers.UpSampling2D()),
    layers.Bidirectional(layers.LSTM(3)),
    layers.TimeDistributed(layers.Dense(3)),
]
NOT_LOOKED_AT = {"name", "seed", "dtype"}  # of metrics and losses


def others(value):
    """Other values that an attribute may take."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value * 0.5, value * 2]
    if isinstance(value, str):
        return ["tanh", "same", "sum", "vertical", "mean", "nearest", "ones", "zeros", "concat"]
    if isinstance(value, list | tuple) and value and isinstance(value[0], int | float):
        return [[item + 1 for item in value], [item * 0.5 for item in value]]
    return [0.5, 2, "l2", True]


def drawn():
    """Yield an object, an attribute of its configuration, and the object with another value."""
    for owner in OWNERS:
        for name, value in owner.get_config().items():
            if name in NOT_LOOKED_AT or isinstance(value, dict):
                continue
            for other in others(value):
                try:
                    changed = type(owner).from_config({**owner.get_config(), name: other})
                except Exception:
                    continue
                said = changed.get_config().get(name)
                if said != value and not (said is None or (said is False and value is None)):
                    yield owner, name, changed
                    break


class Holding(pg.Step):
    def __init__(self, thing):
        is_schedule = isinstance(thing, schedules.LearningRateSchedule)
        self.thing = optimizers.SGD(thing) if is_schedule else thing

    def train_step(self, batch):
        return {}


def held(thing):
    return program_of(Holding(thing)).compared


def test_every_attribute_of_every_configuration_is_named():
    cases, silent = 0, []
    for owner, name, changed in drawn():
        cases += 1
        found = lines(Record(held(owner)), Record(held(changed)))
        if not any(f".{name}" in line or f".{name}[" in line for line in found):
            silent.append((type(owner).__name__, name, found))
    assert silent == []
    assert cases >= 150


def everything():
    step = Distill()
    step.more = supervised(kind=wired)
    return recorded(
        step,
        [stopping(), Counted(), keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)],
        validation=arrays(16),
        steps_per_epoch=4,
    )


@pytest.mark.parametrize("part", ["compared", "named"])
def test_whatever_is_recorded_is_named_when_it_changes(part):
    was = everything()
    facts = was.facts()
    assert len(facts["compared"]) > 80 and len(facts["named"]) > 4
    for path, value in facts[part].items():
        for other in (_changed(value), None):
            now = json.loads(json.dumps(facts))
            if other is None:
                del now[part][path]
            else:
                now[part][path] = other
            found = between(was, Record.from_facts(now))
            told = found.certain if part == "compared" else found.named
            assert len(told) == 1 and told[0].startswith(path), (path, told)


def _changed(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [*value[:-1], "other" if isinstance(value[-1], str) else value[-1] + 1]
    return f"{value} too" if isinstance(value, str) else value + 1


# No false alarm.


def _lambda_step():
    return Distill(scale=lambda value: value)


def _augmented(seed=None):
    made = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.RandomFlip(seed=seed), layers.Flatten(), layers.Dense(1)]
    )
    return pg.Supervised(made, "sgd", "mse")


def _lambda_layer():
    made = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda t: t * 2), layers.Dense(1)])
    return pg.Supervised(made, "sgd", "mse")


def _twice():
    """A program after others in the same process: Keras counts the names of its layers."""
    supervised(), supervised()
    return supervised()


def _policy():
    made = model()
    made.layers[0].dtype_policy = keras.DTypePolicy("float32")
    return supervised(kind=lambda: made)


def _noisy():
    """The same data, computed by other kernels."""
    return x * np.float32(1 + 1e-6) + np.float32(1e-7), y


FREE = {
    "nothing": (supervised, supervised),
    "names of Keras": (supervised, _twice),
    "name of a layer": (lambda: supervised(name="a"), lambda: supervised(name="b")),
    "lambdas": (_lambda_step, _lambda_step),
    "lambda layers": (_lambda_layer, _lambda_layer),
    "addresses": (lambda: Distill(made_by=object()), lambda: Distill(made_by=object())),
    "order of sets": (lambda: Distill(classes=["a", "b"]), lambda: Distill(classes=["b", "a"])),
    "dtype policies": (supervised, _policy),
    "unseeded augmentation": (_augmented, _augmented),
    "seeds": (lambda: _augmented(1), lambda: _augmented(2)),
    "seed of a step": (Distill, lambda: Distill(seed=2)),
    "name of the run": (Distill, lambda: Distill(run_name="second")),
    "paths": (Distill, lambda: Distill(folder="/data/b", where="/data/b")),
    "display": (Distill, lambda: Distill(verbose=1)),
    "counters": (Distill, lambda: Distill(count=7)),
    "a rate as float32": (
        lambda: supervised(optimizer=optimizers.SGD(0.1)),
        lambda: supervised(optimizer=optimizers.SGD(float(np.float32(0.1)))),
    ),
}


@pytest.mark.parametrize("name", FREE)
def test_what_may_change_in_a_step_alarms_nobody(name):
    was, now = FREE[name]

    found = between(recorded(was()), recorded(now()))

    assert (found.certain, found.named) == ((), ())


def _logging(path):
    return [
        keras.callbacks.CSVLogger(path / "log.csv"),
        keras.callbacks.ModelCheckpoint(path / "best.keras"),
        keras.callbacks.TensorBoard(path),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
        stopping(verbose=1),
    ]


def test_logging_saving_and_displaying_change_freely(tmp_path):
    found = between(recorded(callbacks=[stopping()]), recorded(callbacks=_logging(tmp_path)))

    assert (found.certain, found.named) == ((), ())


def test_moved_data_and_data_from_other_kernels_are_the_same(tmp_path):
    def mapped(path):
        np.save(path, x)
        return np.load(path, mmap_mode="r"), y

    was, moved = (
        recorded(data=mapped(tmp_path / "a.npy")),
        recorded(data=mapped(tmp_path / "b.npy")),
    )

    assert between(was, moved).certain == ()
    assert between(was, recorded(data=_noisy())).certain == ()
    assert "values of some of its rows" in was.data["data"]


def test_another_version_of_keras_may_know_other_attributes():
    was = recorded()
    facts = was.facts()
    facts["versions"] = {"keras": "3.0.0"}
    del facts["compared"]["step.model.layers[0].use_bias"]
    facts["compared"]["step.optimizer.gone"] = 3

    assert between(Record.from_facts(facts), was).certain == ()

    facts["compared"]["step.optimizer.learning_rate"] = 0.5
    assert lines(Record.from_facts(facts), was) == ["step.optimizer.learning_rate: 0.5 -> 0.01"]


# Data that is drawn.


class Batches(keras.utils.PyDataset):
    def __init__(self, scale=1.0, noise=None):
        super().__init__()
        self.scale, self.calls = scale, 0
        if noise is not None:
            self.noise = noise

    def __len__(self):
        return 4

    def __getitem__(self, index):
        self.calls += 1
        moved = np.random.normal() if hasattr(self, "noise") else 0.0
        return x[index * 16 : index * 16 + 16] * self.scale + moved, y[index * 16 : index * 16 + 16]


def test_a_data_set_is_compared_by_its_first_batch_where_that_repeats():
    was, data = recorded(data=Batches()), Batches()

    assert lines(was, recorded(data=Batches(2.0)))[0].startswith("data[0] (values): other values")
    assert lines(was, recorded(data=data)) == []
    assert data.calls == 0  # as it was before


def test_a_data_set_that_draws_is_compared_by_structure_and_length():
    np.random.seed(0)
    was = recorded(data=Batches(noise=1.0))
    state = np.random.get_state()[1].tolist()

    now = recorded(data=Batches(noise=1.0))

    assert lines(was, now) == []
    assert "another one each time" in now.data["data"]
    assert np.random.get_state()[1].tolist() == state
    assert between(was, recorded(data=Batches())).certain == ()  # it repeats from now on


def test_a_data_set_with_a_generator_of_its_own_is_not_drawn_from():
    data = Batches()
    data.rng = np.random.default_rng(0)
    before = data.rng.bit_generator.state

    found = recorded(data=data)

    assert data.rng.bit_generator.state == before
    assert "`rng`" in found.data["data"]


def test_a_generator_function_is_not_called_for_a_comparison():
    calls = []

    def batches():
        calls.append(1)
        yield x, y

    found = recorded(data=batches)

    assert calls == []
    assert found.data["data"].startswith("by kind, structure and length, not by values")


def test_data_that_cannot_be_read_is_compared_without_its_values():
    class Broken(Batches):
        def __getitem__(self, index):
            raise OSError("gone")

    assert "its first batch raised OSError" in recorded(data=Broken()).data["data"]


# Code.

PLAIN = """
def f(self, batch):
    y = batch * 2
    for i in range(3):
        y += i
    if self.flag:
        y = -y
    return y
"""
EDITED = '''
def f(self, batch):
    """Now with a docstring."""
    print("hello", batch)
    y = batch * 2  # doubled

    print(f"{y} {self.flag!r:>3}", end="")
    for i in range(3):
        print("a" if self.flag else "b")
        y += i
        logging.info("y is %s", y)
    if self.flag:
        tf.print(y, output_stream=sys.stdout)
        y = -y
    return y
'''


def digest(code):
    names = {}
    exec(textwrap.dedent(code), names)
    return code_digests([names["f"]])["f"]


def test_comments_docstrings_and_prints_are_no_edit():
    assert digest(EDITED) == digest(PLAIN)


@pytest.mark.parametrize(
    "was, now",
    [
        ("batch * 2", "batch * 3"),
        ("y += i", "y -= i"),
        ("range(3)", "range(4)"),
        ("if self.flag", "if not self.flag"),
        ("return y", "return print(y)"),
        ("y = -y", "y = abs(y)"),
        ("(self, batch)", "(self, batch, more=1)"),
    ],
)
def test_every_other_edit_is_one(was, now):
    assert was in PLAIN
    assert digest(PLAIN.replace(was, now)) != digest(PLAIN)


def test_an_edit_is_named_and_no_certain_change():
    def original(y_true, y_pred):
        return keras.ops.abs(y_true - y_pred)

    def edited(y_true, y_pred):
        return keras.ops.square(y_true - y_pred)

    edited.__qualname__ = original.__qualname__

    found = between(recorded(supervised(original)), recorded(supervised(edited)))

    assert found.certain == ()
    assert len(found.named) == 1 and found.named[0].endswith("original was edited")


# What is found in a file is not believed.


@pytest.mark.parametrize(
    "facts",
    [
        *(None, 3, "x", [], {}, {"compared": []}, {"compared": {"a": {}}}),
        {**Record().facts(), "compared": {"a": None}},
        {**Record().facts(), "compared": {"a": [[1]]}},
        {**Record().facts(), "named": {"a": {"b": 1}}},
        {**Record().facts(), "data": {"data": 3.0}, "usual": None},
    ],
    ids=range(11),
)
def test_a_record_of_a_wrong_form_is_none(facts):
    assert Record.from_facts(facts) is None
