import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perigee._errors import ArrayLengthError, DataTypeError, EmptyDataError, PositionError
from perigee._events.protocols import Position
from perigee.data import ArrayFeed


def rows_feed(rows=10, batch_size=4, shuffle=True, seed=0):
    return ArrayFeed(np.arange(rows), batch_size=batch_size, shuffle=shuffle, seed=seed)


def draw_pass(feed):
    batches = []
    while (batch := feed.draw()) is not None:
        batches.append(batch)
    return batches


def draw_steps(feed, count):
    """The next `count` results of `draw`, ends of passes included, as plain values."""
    return [None if (batch := feed.draw()) is None else batch.tolist() for _ in range(count)]


class Frame:
    """A data frame as pandas has it: it converts itself."""

    def __init__(self, values):
        self.values = values

    def to_numpy(self):
        return self.values


def test_unshuffled_batches_are_the_rows_in_order_with_a_ragged_last_one():
    feed = rows_feed(rows=10, batch_size=4, shuffle=False)

    assert [batch.tolist() for batch in draw_pass(feed)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert feed.length == 3


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 50),
    batch_size=st.integers(1, 60),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
)
def test_every_row_is_drawn_exactly_once_a_pass(rows, batch_size, shuffle, seed):
    feed = rows_feed(rows, batch_size, shuffle, seed)

    for _ in range(3):
        batches = draw_pass(feed)
        assert len(batches) == feed.length
        assert sorted(np.concatenate(batches)) == list(range(rows))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 30),
    batch_size=st.integers(1, 12),
    shuffle=st.booleans(),
    seed=st.integers(0, 100),
    drawn=st.integers(0, 40),
    elsewhere=st.integers(0, 40),
)
def test_seeking_goes_on_exactly_like_drawing(rows, batch_size, shuffle, seed, drawn, elsewhere):
    first = rows_feed(rows, batch_size, shuffle, seed)
    draw_steps(first, drawn)
    position, following = first.position, draw_steps(first, 12)

    second = rows_feed(rows, batch_size, shuffle, seed)
    draw_steps(second, elsewhere)
    second.seek(position)

    assert second.position == position
    assert draw_steps(second, 12) == following


def test_rows_of_all_arrays_stay_together_in_their_structure():
    rows = np.arange(10)
    feed = ArrayFeed(
        ({"image": rows, "more": [rows, None]}, rows), batch_size=3, shuffle=True, seed=1
    )

    for batch in draw_pass(feed):
        inputs, labels = batch
        assert inputs["image"].tolist() == inputs["more"][0].tolist() == labels.tolist()
        assert inputs["more"][1] is None


def test_each_pass_and_each_seed_has_an_order_of_its_own():
    rows = 100
    first, other = rows_feed(rows, seed=0), rows_feed(rows, seed=1)

    assert first.permutation(0).tolist() != first.permutation(1).tolist()
    assert first.permutation(0).tolist() != other.permutation(0).tolist()


def test_the_permutation_of_a_pass_is_what_that_pass_draws():
    feed = rows_feed(rows=10, batch_size=4)

    for index in range(3):
        assert np.concatenate(draw_pass(feed)).tolist() == feed.permutation(index).tolist()


def test_floating_arrays_are_cast_once_and_others_stay():
    floats, ids, flags = np.zeros((4, 2)), np.zeros(4, np.int64), np.zeros(4, bool)
    texts = np.array(["a", "b", "c", "d"])

    feed = ArrayFeed((floats, ids, flags, texts), batch_size=2, shuffle=False, seed=0)

    dtypes = [array.dtype for array in feed.arrays]
    assert dtypes == [keras.config.floatx(), np.int64, bool, texts.dtype]
    assert [array.dtype for array in feed.draw()] == dtypes


def test_arrays_of_the_right_dtype_are_not_copied():
    rows = np.zeros((4, 2), np.float32)

    assert ArrayFeed(rows, batch_size=2, shuffle=False, seed=0).arrays is rows


def test_small_floating_dtypes_are_cast_too():
    import ml_dtypes

    rows = np.ones(4, ml_dtypes.bfloat16)

    assert ArrayFeed(rows, batch_size=2, shuffle=False, seed=0).arrays.dtype == np.float32


def test_foreign_byte_orders_are_made_native():
    rows = np.arange(4, dtype=">i4")

    feed = ArrayFeed(rows, batch_size=4, shuffle=False, seed=0)

    assert feed.arrays.dtype.isnative
    assert feed.draw().tolist() == [0, 1, 2, 3]


def test_tensors_of_the_framework_are_arrays():
    rows = keras.ops.arange(5)

    feed = ArrayFeed((rows, rows), batch_size=2, shuffle=False, seed=0)

    assert type(feed.draw()[0]) is np.ndarray


def test_torch_tensors_are_arrays():
    torch = pytest.importorskip("torch")
    rows = torch.ones(5, 2, dtype=torch.bfloat16, requires_grad=True)

    batch = ArrayFeed(rows, batch_size=2, shuffle=False, seed=0).draw()

    assert batch.dtype == np.float32
    assert batch.shape == (2, 2)


def test_what_converts_itself_like_a_data_frame_is_an_array():
    feed = ArrayFeed(Frame(np.ones((4, 2))), batch_size=3, shuffle=False, seed=0)

    assert feed.draw().shape == (3, 2)


def test_data_frames_are_arrays():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0], "b": [3, 4]})

    features, labels = ArrayFeed((frame, frame["b"]), batch_size=2, shuffle=False, seed=0).draw()

    assert features.tolist() == [[1.0, 3.0], [2.0, 4.0]]
    assert labels.tolist() == [3, 4]


def test_different_lengths_are_named_by_path():
    arrays = ({"image": np.zeros(3), "id": np.zeros(3)}, np.zeros(4))

    with pytest.raises(ArrayLengthError) as caught:
        ArrayFeed(arrays, batch_size=2, shuffle=False, seed=0)

    assert caught.value.lengths == ("[0]['image']: 3 rows", "[0]['id']: 3 rows", "[1]: 4 rows")


@pytest.mark.parametrize("arrays", [np.zeros((0, 3)), (), (None, None)], ids=repr)
def test_arrays_without_rows_are_refused(arrays):
    with pytest.raises(EmptyDataError):
        ArrayFeed(arrays, batch_size=2, shuffle=False, seed=0)


@pytest.mark.parametrize(
    ("leaf", "kind"),
    [
        (np.float32(1), "float32 of shape () (at [1])"),
        (np.zeros(()), "ndarray of shape () (at [1])"),
        ([0, 1, 1], "list of 3 int (at [1])"),
        (iter([]), "list_iterator (at [1])"),
        (np.array([[1], [2, 3]], object), "array of dtype object (at [1])"),
        (np.zeros(3, "datetime64[s]"), "array of dtype datetime64[s] (at [1])"),
        (np.ma.masked_array([1, 2, 3], [0, 1, 0]), "MaskedArray (at [1])"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_leaves_that_are_no_arrays_of_rows_are_refused_by_path(leaf, kind):
    with pytest.raises(DataTypeError) as caught:
        ArrayFeed((np.zeros(3), leaf), batch_size=2, shuffle=False, seed=0)

    assert caught.value.kind == kind


def test_torch_sparse_tensors_are_refused_with_the_fix():
    torch = pytest.importorskip("torch")

    with pytest.raises(DataTypeError, match=r"to_dense"):
        ArrayFeed((torch.eye(3).to_sparse(),), batch_size=2, shuffle=False, seed=0)


def test_object_arrays_of_text_are_taken():
    texts = np.array(["a", "bcd"], object)

    assert ArrayFeed(texts, batch_size=2, shuffle=False, seed=0).draw().tolist() == ["a", "bcd"]


def test_seeking_forgets_what_was_peeked_at():
    feed = rows_feed(rows=10, batch_size=4, shuffle=False)
    feed.peek()

    feed.seek(Position(0, 1))

    assert feed.draw().tolist() == [4, 5, 6, 7]


def test_a_position_after_the_last_batch_is_the_end_of_the_pass():
    feed = rows_feed(rows=10, batch_size=4)

    feed.seek(Position(passes=2, batches=3))

    assert feed.draw() is None
    assert feed.position == Position(passes=3, batches=0)


def test_a_position_beyond_the_pass_is_refused():
    feed = rows_feed(rows=10, batch_size=4)

    with pytest.raises(PositionError, match="holds 3 batches"):
        feed.seek(Position(batches=4))


def test_the_state_names_what_the_order_depends_on():
    feed = rows_feed(rows=10, batch_size=4, shuffle=True, seed=7)
    feed.draw()

    assert feed.state() == {
        "kind": "arrays",
        "passes": 0,
        "batches": 1,
        "data": {"rows": 10, "spec": "int64 ()", "batch_size": 4, "shuffle": True, "seed": 7},
    }
