import subprocess
import sys

import keras
import numpy as np
import pytest

from perigee._errors import ArgumentError, DataTypeError
from perigee.data import ArrayFeed, IterableFeed, PyDatasetFeed, TFDatasetFeed, open_feed


class OneBatch(keras.utils.PyDataset):
    def __init__(self, num_batches=1):
        super().__init__()
        self._num_batches = num_batches

    @property
    def num_batches(self):
        return self._num_batches

    def __getitem__(self, index):
        return np.zeros(2)


class Examples:
    """A torch-style data set of single examples."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return np.zeros(2)


def batches():
    yield np.zeros(2)


async def late_batches():
    yield np.zeros(2)


ROWS = np.arange(100)


@pytest.mark.parametrize(
    ("data", "feed"),
    [
        (ROWS, ArrayFeed),
        ((ROWS, None), ArrayFeed),
        ({"a": ROWS, "b": (ROWS, ROWS)}, ArrayFeed),
        (keras.ops.arange(3), ArrayFeed),
        (OneBatch(), PyDatasetFeed),
        ([ROWS, ROWS], IterableFeed),
        (batches, IterableFeed),
        (batches(), IterableFeed),
        (zip([ROWS], [ROWS], strict=True), IterableFeed),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
)
def test_each_kind_of_data_has_its_feed(data, feed):
    assert type(open_feed(data)) is feed


@pytest.mark.parametrize("shuffle", ["batches", ""])
def test_a_way_to_shuffle_that_there_is_not_is_refused(shuffle):
    with pytest.raises(ArgumentError, match='"batch"'):
        open_feed(ROWS, shuffle=shuffle)


def test_a_tf_data_set_has_its_feed():
    tf = pytest.importorskip("tensorflow")

    assert type(open_feed(tf.data.Dataset.range(3))) is TFDatasetFeed


def test_arrays_come_in_batches_of_32_in_order_unless_asked_otherwise():
    feed = open_feed(ROWS)

    assert feed.draw().tolist() == list(range(32))


def test_arrays_and_finite_py_data_sets_are_shuffled_by_default_where_the_caller_says_so():
    assert open_feed(ROWS, shuffles_by_default=True).shuffle
    assert open_feed(OneBatch(), shuffles_by_default=True).shuffle
    assert not open_feed(OneBatch(None), shuffles_by_default=True).shuffle
    assert not open_feed(ROWS, shuffle=False, shuffles_by_default=True).shuffle


@pytest.mark.parametrize("argument", [{"batch_size": 8}, {"shuffle": False}], ids=str)
@pytest.mark.parametrize("data", [[ROWS], batches], ids=["list", "function"])
def test_iterables_keep_their_own_batches_and_order(data, argument):
    with pytest.raises(ArgumentError, match="omit it"):
        open_feed(data, **argument)


@pytest.mark.parametrize("argument", [{"batch_size": 8}, {"shuffle": True}], ids=str)
def test_tf_data_sets_keep_their_own_batches_and_order(argument):
    tf = pytest.importorskip("tensorflow")

    with pytest.raises(ArgumentError, match=r"\.(batch|shuffle)\("):
        open_feed(tf.data.Dataset.range(3), **argument)


def test_a_py_data_set_keeps_its_own_batches():
    with pytest.raises(ArgumentError, match="batch_size"):
        open_feed(OneBatch(), batch_size=8)


@pytest.mark.parametrize(
    "argument",
    [{"batch_size": 0}, {"batch_size": 2.5}, {"batch_size": True}, {"seed": -1}, {"seed": 2**64}],
    ids=str,
)
def test_numbers_that_make_no_sense_are_refused(argument):
    with pytest.raises(ArgumentError, match=next(iter(argument))):
        open_feed(ROWS, **argument)


@pytest.mark.parametrize(
    ("data", "fix"),
    [
        (None, "without `return`"),
        ("train.csv", "generator function"),
        (3, "arrays"),
        (np.float32(3), "arrays"),
        (keras.Input((3,)), "symbolic"),
        (keras.layers.Dense(1), "the step first"),
        (OneBatch, "call the class"),
        ({1, 2}, "no order"),
        (Examples(), "DataLoader"),
        (lambda path: [], r"bind its arguments \(path\)"),
        (late_batches, "async"),
        (late_batches(), "generator function"),
        ((ROWS, [batches]), "only arrays"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_other_data_is_refused_with_a_fix(data, fix):
    with pytest.raises(DataTypeError, match=fix):
        open_feed(data)


@pytest.mark.skipif(keras.config.backend() == "tensorflow", reason="TensorFlow has such tensors")
@pytest.mark.parametrize("kind", ["ragged", "sparse"])
def test_ragged_and_sparse_tensors_are_refused_with_the_fix(kind):
    tf = pytest.importorskip("tensorflow")
    tensor = tf.ragged.constant([[1], [2, 3]]) if kind == "ragged" else tf.sparse.eye(3)

    with pytest.raises(DataTypeError, match="to_tensor" if kind == "ragged" else "to_dense"):
        open_feed(tensor)


@pytest.mark.process
@pytest.mark.slow
def test_feeds_need_no_tensorflow():
    program = """
import sys
sys.modules["tensorflow"] = None  # importing it raises
import numpy as np
from perigee.data import open_feed
assert open_feed(np.arange(3)).draw().tolist() == [0, 1, 2]
assert open_feed([np.arange(3)]).draw().tolist() == [0, 1, 2]
"""
    environment = {"KERAS_BACKEND": "numpy", "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)
