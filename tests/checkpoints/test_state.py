"""State goes out as arrays and comes back: all of it, or nothing, or what was asked for."""

import keras
import numpy as np
import pytest
from keras import ops

from perigee._errors import StateMismatchError
from perigee._step.state import snapshot, track
from perigee.checkpoints import arrays_of, load_arrays
from tests.checkpoints.zoo import FEATURES, ZOO, Holding, bits_of, scramble


def number(value, dtype, **named):
    return keras.Variable(np.asarray(value, dtype), dtype=dtype, trainable=False, **named)


def value_of(variable):
    return snapshot([variable])[0]


def training(step):
    """One update, so that every slot and counter moves."""
    variables = step.model.trainable_variables
    step.optimizer.apply([ops.ones(v.shape) for v in variables], variables)


def test_later_training_does_not_change_the_arrays():
    step = ZOO["sequential, Adam, EMA, accumulation"]()
    arrays = arrays_of(track(step))
    before = {key: value.tobytes() for key, value in arrays.items()}

    training(step)
    scramble(step, seed=1)

    assert {key: value.tobytes() for key, value in arrays.items()} == before


def aligned(array, bytes_=64):
    """Copy an array to where JAX would take its memory for its own."""
    memory = np.empty(array.nbytes + bytes_, np.uint8)
    start = -memory.ctypes.data % bytes_
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def test_the_arrays_stay_the_callers_when_they_are_loaded():
    step = ZOO["variables of all dtypes"]()
    arrays = {key: aligned(array) for key, array in arrays_of(track(step)).items()}
    load_arrays(track(step), arrays)
    before = bits_of(step)

    for array in arrays.values():
        array[...] = 0

    assert bits_of(step) == before


def test_slots_are_named_for_what_they_are_and_not_for_what_keras_calls_their_variable():
    step = Holding(model=keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)]))
    step.optimizer = keras.optimizers.Adam(use_ema=True)
    step.optimizer.build(step.model.trainable_variables)

    assert [key for key in arrays_of(track(step)) if key.startswith("optimizer")] == [
        "optimizer/0/iteration",
        "optimizer/1/learning_rate",
        "optimizer/2/average",
        "optimizer/3/average",
        "optimizer/4/momentum",
        "optimizer/5/velocity",
        "optimizer/6/momentum",
        "optimizer/7/velocity",
    ]


def test_numbers_that_keras_gives_are_no_part_of_a_key():
    def keys():
        layer = keras.layers.Dense(1)
        layer.build((None, 2))
        metric = keras.metrics.Mean()
        return list(arrays_of(track(Holding(v=keras.Variable(1.0), layer=layer, metric=metric))))

    assert keys() == keys()
    assert keys() == [
        "v/0/variable",
        "layer/0/kernel",
        "layer/1/bias",
        "metric/0/total",
        "metric/1/count",
    ]


class Largest(keras.Metric):
    """A metric to which Keras gives a name, as its own metrics have fixed ones."""

    def __init__(self):
        super().__init__()
        self.value = self.add_variable((), "zeros", name="value")


def test_a_metric_within_a_layer_is_known_by_its_place():
    def keys():
        layer = keras.layers.Dense(1)
        layer.largest = [Largest(), Largest()]
        layer.build((None, 2))
        return list(arrays_of(track(Holding(layer=layer))))

    assert keys() == keys()
    assert keys()[2:] == ["layer/metrics/0/0/value", "layer/metrics/1/0/value"]


def test_no_two_variables_share_a_key():
    held = {"a": {"b": keras.Variable(1.0)}, "a/b": keras.Variable(2.0)}

    assert list(arrays_of(track(Holding(held=held)))) == [
        "held/a/b/0/variable",
        "held/a/b/0/variable~2",
    ]


def test_scalars_keep_their_rank():
    arrays = arrays_of(track(Holding(v=keras.Variable(1.0), n=number(3, "int32"))))

    assert [array.shape for array in arrays.values()] == [(), ()]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_floats_keep_their_bits(dtype):
    values = np.array([1.0, -0.0, np.inf, -np.inf, np.nan, 1e-7, 1 / 3]).astype("float32")
    step = Holding(v=keras.Variable(values, dtype=dtype))
    bits = value_of(step.v).tobytes()
    arrays = arrays_of(track(step))
    step.v.assign(np.zeros(values.shape))

    load_arrays(track(step), arrays)

    assert arrays["v/0/variable"].dtype == dtype
    assert value_of(step.v).tobytes() == bits


@pytest.mark.parametrize("dtype", ["int64", "uint32", "int32"])
def test_the_seeds_of_every_framework_are_loaded(dtype):
    step = Holding(seed=keras.random.SeedGenerator(1))
    stored = np.array([2**31 - 1, 7], dtype)

    load_arrays(track(step), {"seed/0/seed_generator_state": stored})

    assert value_of(step.seed.state).tolist() == stored.tolist()


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("int32", np.int64(2**31)),
        ("int32", np.uint32(2**32 - 1)),
        ("uint32", np.int32(-1)),
        ("uint8", np.int64(256)),
        ("int16", np.uint64(2**63)),
        ("float16", np.float32(1e30)),
        ("float16", np.float32(0.1)),
        ("bfloat16", np.float32(1.0009765625)),
        ("float32", np.float64(0.1)),
    ],
)
def test_a_value_that_the_variable_cannot_hold_is_refused(dtype, stored):
    step = Holding(v=number(1, dtype, name="v"))

    with pytest.raises(StateMismatchError, match=r"does not fit|is stored") as caught:
        load_arrays(track(step), {"v/0/v": np.asarray(stored)})

    assert list(caught.value.different) == ["v/0/v"]
    assert value_of(step.v) == 1


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("int32", np.int64(-(2**31))),
        ("int8", np.uint64(127)),
        ("float32", np.float16(0.1)),
        ("float16", np.float32(-0.5)),
        ("float32", np.float64(np.nan)),
        ("float16", np.float32(-np.inf)),
    ],
)
def test_a_value_that_the_variable_can_hold_is_cast(dtype, stored):
    step = Holding(v=number(1, dtype, name="v"))

    load_arrays(track(step), {"v/0/v": np.asarray(stored)})

    np.testing.assert_array_equal(value_of(step.v), np.asarray(stored).astype(dtype))


@pytest.mark.only_jax
def test_an_int64_that_jax_keeps_as_an_int32_is_not_cut_off(recwarn):
    step = Holding(v=keras.Variable(1, dtype="int64", trainable=False, name="v"))

    with pytest.raises(StateMismatchError, match=r"9007199254740993 \(int64\) does not fit"):
        load_arrays(track(step), {"v/0/v": np.array(2**53 + 1)})


def test_a_mismatch_lists_the_paths_and_changes_nothing():
    step = Holding(
        same=keras.Variable(1.0, name="v"),
        shape=keras.Variable(np.zeros(3), name="v"),
        family=keras.Variable(1.0, name="v"),
        missing=keras.Variable(1.0, name="v"),
    )
    arrays = {
        "same/0/v": np.array(2.0, "float32"),
        "shape/0/v": np.zeros((3, 1), "float32"),
        "family/0/v": np.array(1),
        "gone/0/v": np.array(1.0),
    }
    before = bits_of(step)

    with pytest.raises(StateMismatchError) as caught:
        load_arrays(track(step), arrays)

    error = caught.value
    assert error.missing == ("missing/0/v",)
    assert error.unexpected == ("gone/0/v",)
    assert error.different == {
        "shape/0/v": "shape (3, 1) is stored, the Step has (3,)",
        "family/0/v": "int64 is stored, the Step has float32",
    }
    assert all(path in str(error) for path in (*error.missing, *error.unexpected, *error.different))
    assert bits_of(step) == before


def test_the_matching_part_is_loaded_on_purpose():
    step = Holding(
        trunk=keras.Variable(1.0, name="v"),
        head=keras.Variable(np.zeros(3), name="v"),
        new=keras.Variable(1.0, name="v"),
    )
    arrays = {
        "trunk/0/v": np.array(2.0, "float32"),
        "head/0/v": np.ones(5, "float32"),
        "old/0/v": np.array(1.0),
    }

    left_out = load_arrays(track(step), arrays, strict=False)

    assert value_of(step.trunk) == 2.0
    assert value_of(step.head).tolist() == [0, 0, 0]
    assert left_out.missing == ("new/0/v",)
    assert left_out.unexpected == ("old/0/v",)
    assert list(left_out.different) == ["head/0/v"]


def test_nothing_is_left_out_where_all_matches():
    step = ZOO["two optimizers"]()

    assert not load_arrays(track(step), arrays_of(track(step)))
