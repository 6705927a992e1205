"""What a Step holds: found once, named by its attribute path, and known again when it changes."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._step.state import fingerprint, nested_layers, restore, rewind_seeds, snapshot, track

FEATURES = 3


def dense(units=2, **arguments):
    layer = keras.layers.Dense(units, **arguments)
    layer.build((None, FEATURES))
    return layer


class Holding(pg.Step):
    """A Step of any attributes."""

    def __init__(self, **held):
        for name, value in held.items():
            setattr(self, name, value)


def keys(step):
    return [entry.key for entry in track(step).entries]


def names(step):
    return [entry.name for entry in track(step).entries]


def kinds(step):
    return {entry.name: entry.kind for entry in track(step).entries}


def test_variables_are_named_by_the_attribute_path_of_their_owner():
    step = Holding(first=dense(name="a"), second=dense(name="b", use_bias=False))

    assert keys(step) == ["first/0/kernel", "first/1/bias", "second/0/kernel"]
    assert names(step) == ["first/kernel", "first/bias", "second/kernel"]


def test_the_path_within_a_model_is_part_of_the_name_only():
    model = keras.Sequential(
        [keras.Input((FEATURES,)), dense(name="body"), keras.layers.Dense(1, name="head")]
    )

    step = Holding(model=model)

    assert keys(step) == ["model/0/kernel", "model/1/bias", "model/2/kernel", "model/3/bias"]
    assert names(step)[2:] == ["model/head/kernel", "model/head/bias"]


def test_automatic_names_are_no_part_of_a_key():
    make = lambda: Holding(model=keras.Sequential([dense(), keras.layers.Dropout(0.5)]))  # noqa: E731

    assert keys(make()) == keys(make())


def test_lists_tuples_dicts_and_steps_are_searched():
    step = Holding(
        layers=[dense(use_bias=False), (dense(use_bias=False),)],
        named={"x": {"y": dense(use_bias=False)}},
        inner=Holding(deep=[Holding(layer=dense(use_bias=False))]),
    )

    assert keys(step) == [
        "layers/0/0/kernel",
        "layers/1/0/0/kernel",
        "named/x/y/0/kernel",
        "inner/deep/0/layer/0/kernel",
    ]


def test_an_object_held_twice_belongs_to_the_first_path():
    shared = dense()
    step = Holding(first=shared, again=[shared], model=keras.Sequential([shared]))

    assert keys(step) == ["first/0/kernel", "first/1/bias"]
    assert list(track(step).models) == ["first", "model"]


def test_steps_that_hold_each_other_are_searched_once():
    one, other = Holding(layer=dense(use_bias=False)), Holding()
    one.other, other.one = other, one

    assert keys(one) == ["layer/0/kernel"]
    assert keys(other) == ["one/layer/0/kernel"]


def test_what_each_variable_is_for_is_known():
    model = keras.Sequential(
        [keras.Input((FEATURES,)), dense(use_bias=False), keras.layers.BatchNormalization()]
    )
    optimizer = keras.optimizers.SGD(momentum=0.9)
    optimizer.build(model.trainable_variables)
    step = Holding(
        model=model,
        dropout=keras.layers.Dropout(0.5),
        optimizer=optimizer,
        metric=keras.metrics.Mean(),
        seed=keras.random.SeedGenerator(1),
        temperature=keras.Variable(1.0, name="t"),
        counter=keras.Variable(0, trainable=False, name="n"),
    )

    found = kinds(step)

    assert [found[name] for name in ("seed", "temperature", "counter")] == [
        "seed",
        "trainable",
        "variable",
    ]
    assert {name.split("/")[0]: kind for name, kind in found.items() if "model" not in name} == {
        "dropout": "seed",
        "optimizer": "optimizer",
        "metric": "metric",
        "seed": "seed",
        "temperature": "trainable",
        "counter": "variable",
    }
    in_model = [kind for name, kind in found.items() if name.startswith("model/")]
    assert in_model == ["trainable"] * 3 + ["non_trainable"] * 2


def test_frozen_weights_are_no_trainable_ones():
    layer = dense()
    layer.trainable = False

    assert set(kinds(Holding(layer=layer)).values()) == {"non_trainable"}


class Counting(keras.layers.Layer):
    """A layer with a metric and a seed generator of its own."""

    def __init__(self):
        super().__init__()
        self.seen = keras.metrics.Sum(name="seen")
        self.seed = keras.random.SeedGenerator(3)

    def call(self, x):
        self.seen.update_state(ops.ones(()))
        return x + keras.random.normal(ops.shape(x), seed=self.seed)


@pytest.mark.parametrize("wrap", [lambda layer: layer, lambda layer: keras.Sequential([layer])])
def test_metrics_and_seeds_inside_a_layer_are_found_as_such(wrap):
    step = Holding(layer=wrap(Counting()))
    tracked = track(step)

    assert sorted(entry.kind for entry in tracked.entries) == ["metric", "seed"]
    assert list(tracked.metrics) == ["layer/seen"]
    assert tuple(tracked.of_kind("seed")[0].shape) == (2,)


def test_a_variable_finds_its_name_by_identity():
    step = Holding(a=dense(use_bias=False), b=dense(use_bias=False))
    tracked = track(step)

    assert tracked.names_of([step.b.kernel, step.a.kernel]) == ["b/kernel", "a/kernel"]
    assert tracked.name_of(keras.Variable(1.0, name="elsewhere")) == "elsewhere"


def test_an_object_finds_its_path_by_identity():
    step = Holding(
        opts=[keras.optimizers.SGD(name="sgd"), keras.optimizers.SGD(name="sgd")],
        metric=keras.metrics.Mean(name="m"),
    )

    assert track(step).path_of(step.opts[1]) == "opts/1"
    assert track(step).path_of(step.metric) == "metric"
    assert track(step).path_of(keras.optimizers.SGD(name="other")) == "other"


def test_lazily_built_layers_are_found_when_they_are_built():
    step = Holding(model=keras.Sequential([keras.layers.Dense(2), keras.layers.Dense(1)]))

    before = keys(step)
    step.model(np.zeros((1, FEATURES), "float32"))

    assert before == []
    assert len(keys(step)) == 4


def test_python_values_are_known_by_path():
    step = Holding(rate=0.5, names=["a", 3], nothing=None, inner=Holding(deep=True))

    assert track(step).plain == {
        "rate": 0.5,
        "names/0": "a",
        "names/1": 3,
        "nothing": None,
        "inner/deep": True,
    }


def changes(step, change):
    """Tell whether `change(step)` changes the fingerprint."""
    before = fingerprint(step)
    assert fingerprint(step) == before
    change(step)
    return fingerprint(step) != before


CHANGES = {
    "a Python value": lambda step: setattr(step, "rate", 0.25),
    "a Python value in a list": lambda step: step.rates.append(1),
    "a new attribute": lambda step: setattr(step, "other", 1),
    "the trainable flag": lambda step: setattr(step.layer, "trainable", False),
    "a grown model": lambda step: setattr(step, "more", dense()),
    "a new optimizer": lambda step: setattr(step, "optimizer", keras.optimizers.SGD()),
    "another function": lambda step: setattr(step, "function", ops.tanh),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_fingerprint_tells_what_must_be_compiled_again(change):
    step = Holding(
        rate=0.5, rates=[1], layer=dense(), optimizer=keras.optimizers.SGD(), function=ops.relu
    )

    assert changes(step, change)


def test_values_of_variables_are_no_part_of_a_fingerprint():
    step = Holding(layer=dense(), optimizer=keras.optimizers.SGD())

    assert not changes(step, lambda step: step.layer.kernel.assign(step.layer.kernel + 1))
    assert not changes(step, lambda step: setattr(step.optimizer, "learning_rate", 0.5))


def test_a_snapshot_brings_every_bit_back():
    step = Holding(
        layer=dense(),
        seed=keras.random.SeedGenerator(5),
        low=keras.Variable([1.5, -0.0], dtype="bfloat16"),
        flag=keras.Variable(True, dtype="bool", trainable=False),
    )
    variables = track(step).variables
    saved = snapshot(variables)
    kept = [value.copy() for value in saved]

    for variable in variables:
        variable.assign(ops.zeros(variable.shape, variable.dtype))
    keras.random.normal((2,), seed=step.seed)
    assert [value.tobytes() for value in saved] == [value.tobytes() for value in kept]
    restore(variables, saved)

    assert [v.tobytes() for v in snapshot(variables)] == [v.tobytes() for v in kept]


def test_rewound_seeds_draw_again_what_they_drew_first():
    step = Holding(seed=keras.random.SeedGenerator(5), dropout=keras.layers.Dropout(0.5, seed=2))

    def draw():
        return [
            np.array(ops.convert_to_numpy(drawn))
            for drawn in (
                keras.random.normal((4,), seed=step.seed),
                step.dropout(ops.ones((16,)), training=True),
            )
        ]

    first, second = draw(), draw()
    rewind_seeds(track(step))
    again = draw()

    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], second[0])


def test_every_layer_inside_another_is_found_once():
    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = [keras.layers.Dense(1), {"a": keras.layers.Dense(1)}]
            self.same = self.inner[0]

    block = Block()
    model = keras.Sequential([keras.layers.Dense(1), block])

    found = list(nested_layers(model))

    assert [type(layer).__name__ for layer in found].count("Dense") == 3
    assert len(found) == len({id(layer) for layer in found})
    assert found[0] is model


def test_a_counter_of_the_class_counts_no_rehearsal():
    class Counting(pg.Step):
        count = 0

        def train_step(self, batch):
            self.count += 1
            return {"count": keras.ops.convert_to_tensor(float(self.count))}

    step = Counting()
    pg.fit(step, np.ones((8, 1), "float32"), batch_size=4, execution="eager", progress="off")

    assert step.count == 2
