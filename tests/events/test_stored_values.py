"""What a callback holds comes back with its types and its order, or is left out by name."""

import json
import math
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import hypothesis
import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st

from perigee._events.stored_values import NotStorableError, Room, digest, rebuilt, stored
from perigee.checkpoints import _plain

pytestmark = pytest.mark.once


def through_a_checkpoint(value):
    """Return what comes back of a value that is written as the facts of a checkpoint are."""
    arrays = {}
    text = _plain.to_json(_plain.simplified(stored(value, Room()), "facts", arrays))
    return rebuilt(_plain.restored(_plain.from_json(text), arrays))


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, np.ndarray | np.generic):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.tobytes() == b.tobytes() or (a.dtype == np.longdouble and repr(a) == repr(b))
    elif isinstance(a, dict):
        assert getattr(a, "default_factory", None) is getattr(b, "default_factory", None)
        assert_same(list(a), list(b))
        assert_same(list(a.values()), list(b.values()))
    elif isinstance(a, set | frozenset):
        assert_same(sorted(a, key=repr), sorted(b, key=repr))
    elif isinstance(a, list | tuple | deque):
        assert len(a) == len(b) and getattr(a, "maxlen", 0) == getattr(b, "maxlen", 0)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert repr(a) == repr(b)


EXACT = {
    "none": None,
    "booleans": [True, False],
    "integers": [0, -(2**63), 2**1000],
    "floats": [0.1, -0.0, math.inf, -math.inf, math.nan, 5e-324],
    "complex": [complex(-0.0, math.nan), 1 + 2j],
    "strings": ["", "$array", "naïve", "\ud800", "a/b"],
    "bytes": [b"", b"\x00\xff", bytearray(b"ab")],
    "a path": Path("runs") / "best.keras",
    "a tuple": (1, (2.0, ("three",)), ()),
    "a set": {1, "a", None, (1, 2)},
    "a frozenset": frozenset({frozenset({1}), b"x"}),
    "a deque": deque([1, 2, 3], maxlen=3),
    "a deque without end": deque(),
    "a dict": {"b": 1, "a": 2},
    "a dict of any keys": {
        1: "a",
        True + 1: "b",
        None: 0,
        (1, "x"): [],
        "$float": 1,
        0.5: 2,
        b"k": 3,
    },
    "an ordered dict": OrderedDict([("z", 1), ("a", 2)]),
    "a counter": Counter("hello"),
    "a defaultdict of lists": defaultdict(list, {"epoch 0": [0.5]}),
    "a defaultdict of numbers": defaultdict(int, {3: 1}),
    "a defaultdict without a factory": defaultdict(None, {3: 1}),
    "nested defaultdicts": defaultdict(dict, {"a": {"b": defaultdict(set, {1: {2}})}}),
    "a history": [0.1 * n for n in range(1000)],
    "a history with what is not finite": (*[math.nan] * 150, math.inf),
    "many integers": list(range(-300, 300)),
    "many large integers": [2**70] * 200,
    "many booleans": [True, False] * 200,
    "many mixed numbers": [1, 2.0] * 200,
    "numbers of NumPy": [np.float32(0.1), np.int8(-3), np.uint64(2**64 - 1), np.bool_(True)],
    "other scalars of NumPy": [np.complex128(1j), np.str_("dog"), np.bytes_(b"x"), np.float16(1)],
    "a longdouble": np.longdouble("0.1"),
    "bfloat16": [ml_dtypes.bfloat16(1.5), np.ones((2, 3), ml_dtypes.bfloat16)],
    "dates of NumPy": [np.datetime64("2026-01-01T10:00"), np.timedelta64(3, "ns")],
    "an array of floats": np.arange(6, dtype="float32").reshape(2, 3),
    "an array of strings": np.array([["cat", "dog"], ["häß", ""]]),
    "an array of bytes": np.array([b"cat", b"a\x00b"]),
    "an array of complex numbers": np.array([1j, 2]),
    "an array of dates": np.array(["2026-01-01", "NaT"], "datetime64[D]"),
    "a big-endian array": np.arange(3, dtype=">i4"),
    "a number in an array": np.array(3),
    "an empty array": np.zeros((0, 3), "U5"),
    "a transposed array": np.arange(6).reshape(2, 3).T,
    "an array of booleans": np.array([True, False]),
}


@pytest.mark.parametrize("value", EXACT.values(), ids=EXACT)
def test_a_value_comes_back_exactly(value):
    assert_same(through_a_checkpoint(value), value)


class Color(Enum):
    RED = 1


class Kind(int):
    pass


@dataclass
class Tracker:
    best: float = 0.0


holding_itself = []
holding_itself.append({"self": holding_itself})
deep = []
for _ in range(30):
    deep = [deep]

LEFT_OUT = {
    "a list that holds itself": (holding_itself, "holds itself"),
    "deep lists": (deep, "levels"),
    "a lock": (threading.Lock(), "lock"),
    "a lambda": (lambda: 0, "function"),
    "a function in a dict": ({"a": [print]}, "builtin_function"),
    "a class": (int, "type"),
    "an object": (Tracker(), "Tracker"),
    "an enum": (Color.RED, "Color"),
    "a subclass of int": (Kind(3), "Kind"),
    "an iterator": (iter([1]), "iterator"),
    "an array of objects": (np.array([{}], dtype=object), "object"),
    "a structured array": (np.zeros(2, "i4,f4"), "array of"),
    "a masked array": (np.ma.masked_array([1, 2]), "MaskedArray"),
    "a huge integer": (2**5000, "1024 bits"),
    "a huge dict": (dict.fromkeys(range(2000), "text" * 5000), "too much"),
    "a huge text": ("x" * 2**26, "too much"),
    "a defaultdict within, of its own factory": ([defaultdict(lambda: 1)], "defaultdict"),
}


@pytest.mark.parametrize(("value", "why"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_cannot_be_stored_is_refused_with_its_reason(value, why):
    with pytest.raises(NotStorableError, match=why):
        stored(value, Room())


def test_an_open_file_cannot_be_stored(tmp_path):
    with (tmp_path / "log").open("w") as file, pytest.raises(NotStorableError, match="TextIO"):
        stored(file, Room())


def test_arrays_that_come_back_can_be_changed():
    for value in (np.zeros(3), np.array(["a", "b"]), np.array([1j])):
        back = through_a_checkpoint({"held": value})["held"]
        back[0] = back[-1]
        assert back.flags.owndata or back.base is not value


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text()
    | st.binary()
    | st.sampled_from([np.float32(0.1), np.int16(3), np.array(["a"]), np.array([[1.5]])])
)
keys = st.none() | st.booleans() | st.integers() | st.text() | st.tuples(st.integers(), st.text())
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.lists(inner).map(deque)
        | st.dictionaries(keys, inner)
        | st.dictionaries(keys, inner).map(OrderedDict)
        | st.dictionaries(keys, inner).map(lambda held: defaultdict(list, held))
        | st.sets(keys)
        | st.frozensets(keys)
    ),
    max_leaves=12,
)


@hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
@hypothesis.given(values)
def test_nested_values_come_back_exactly(value):
    assert_same(through_a_checkpoint(value), value)


def test_a_change_is_seen_wherever_it_is():
    made = {"weights": [np.zeros(3)], "names": np.array(["a"]), "seen": {1: (2, 3)}}
    before = digest(stored(made, Room()))

    assert digest(stored(made, Room())) == before
    made["weights"][0][1] = 1
    changed = digest(stored(made, Room()))
    made["seen"][1] = [2, 3]

    assert len({before, changed, digest(stored(made, Room()))}) == 3


HOSTILE = [
    {},
    [],
    {"is": "list"},
    {"is": "list", "of": 5},
    {"is": "os.system", "of": ["true"]},
    {"is": ["list"], "of": []},
    {"is": "dict", "keys": {"is": "list", "of": [{"is": "list", "of": []}]}, "of": [1]},
    {"is": "dict", "keys": {"is": "list", "of": [1, 2]}, "of": {"is": "list", "of": [1]}},
    {"is": "set", "of": [{"is": "list", "of": []}]},
    {"is": "deque", "of": [], "maxlen": -1},
    {"is": "deque", "of": [], "maxlen": 2**80},
    {"is": "defaultdict", "keys": {"is": "list", "of": []}, "of": {"is": "list", "of": []}},
    {"is": "complex", "of": [1, "x"]},
    {"is": "path", "of": 3},
    {"is": "bytes", "of": 3},
    {"is": "array", "of": "x"},
    {"is": "array", "of": np.zeros(8, np.uint8), "dtype": "|O8", "shape": [1]},
    {"is": "array", "of": np.zeros(8, np.uint8), "dtype": "i4,O", "shape": [1]},
    {"is": "array", "of": np.zeros(8, np.uint8), "dtype": "<U1", "shape": [3]},
    {"is": "array", "of": np.zeros(8, np.uint8), "dtype": "<U1", "shape": [-1, -2]},
    {"is": "array", "of": np.zeros(0, np.uint8), "dtype": "|S0", "shape": [10**15]},
    {"is": "array", "of": np.zeros(0, np.uint8), "dtype": "<U9", "shape": [0, 2**70]},
    {"is": "array", "of": np.zeros(8, np.uint8), "dtype": 3, "shape": [1]},
]


@pytest.mark.parametrize(
    "said", HOSTILE, ids=json.dumps(list(range(len(HOSTILE))))[1:-1].split(", ")
)
def test_what_describes_no_value_is_a_value_error(said):
    with pytest.raises(ValueError):
        rebuilt(said)
