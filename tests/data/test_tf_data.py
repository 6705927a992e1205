import keras
import numpy as np
import pytest

from perigee._errors import DataTypeError, EmptyDataError, PositionError
from perigee._events.protocols import Position
from perigee.data import TFDatasetFeed

tf = pytest.importorskip("tensorflow")

IS_NATIVE = keras.config.backend() == "tensorflow"


def numbers(count=10, batch_size=4):
    return tf.data.Dataset.range(count).batch(batch_size)


def draw_steps(feed, count):
    drawn = [feed.draw() for _ in range(count)]
    return [None if batch is None else np.asarray(batch).tolist() for batch in drawn]


def test_each_pass_draws_all_batches_then_none():
    feed = TFDatasetFeed(numbers())

    one_pass = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], None]
    assert draw_steps(feed, 8) == one_pass * 2
    assert feed.position == Position(2, 0)


def test_structures_and_dtypes_are_those_of_the_data_set():
    element = ({"image": np.zeros((2, 3)), "none": None}, np.zeros(2, np.int32))
    feed = TFDatasetFeed(tf.data.Dataset.from_tensors(element))

    inputs, labels = feed.draw()

    assert inputs["image"].dtype == ("float64" if IS_NATIVE else np.float64)
    assert inputs["none"] is None
    assert isinstance(labels, tf.Tensor if IS_NATIVE else np.ndarray)
    assert feed.spec[1] == tf.TensorSpec((2,), tf.int32)


@pytest.mark.parametrize(
    ("dataset", "length", "is_infinite"),
    [
        (numbers(), 3, False),
        (numbers().repeat(), None, True),
        (numbers().filter(lambda batch: True), None, False),
    ],
    ids=["finite", "infinite", "unknown"],
)
def test_the_length_is_known_where_the_data_set_tells(dataset, length, is_infinite):
    feed = TFDatasetFeed(dataset)

    assert feed.length == length
    assert feed.is_infinite == is_infinite


def test_a_data_set_without_batches_is_refused():
    with pytest.raises(EmptyDataError):
        TFDatasetFeed(numbers(count=3).filter(lambda batch: False)).peek()


def test_a_peek_is_the_next_draw():
    feed = TFDatasetFeed(numbers())

    peeked = feed.peek()

    assert feed.draw() is peeked


@pytest.mark.parametrize("drawn", [0, 2, 3, 4, 6, 9])
def test_seeking_goes_on_exactly_like_drawing_where_shuffling_is_seeded(drawn):
    def shuffled():
        return tf.data.Dataset.range(10).shuffle(10, seed=3).repeat(1).batch(4)

    first = TFDatasetFeed(shuffled())
    draw_steps(first, drawn)
    position, following = first.position, draw_steps(first, 6)

    second = TFDatasetFeed(shuffled())
    second.seek(position)

    assert second.position == position
    assert draw_steps(second, 6) == following


def test_a_data_set_goes_back_within_a_pass():
    feed = TFDatasetFeed(numbers())
    draw_steps(feed, 3)

    feed.seek(Position(0, 1))

    assert draw_steps(feed, 2) == [[4, 5, 6, 7], [8, 9]]


def test_a_position_beyond_the_pass_is_refused():
    with pytest.raises(PositionError):
        TFDatasetFeed(numbers()).seek(Position(0, 4))


def test_a_second_pass_over_what_never_ends_is_refused():
    with pytest.raises(PositionError, match="a pass is infinite"):
        TFDatasetFeed(numbers().repeat()).seek(Position(1, 0))


def test_exceptions_of_the_pipeline_come_out_with_a_note_and_no_batch_is_lost():
    def check(value):
        with tf.control_dependencies([tf.debugging.assert_less(value, tf.constant(8, tf.int64))]):
            return tf.identity(value)

    feed = TFDatasetFeed(numbers(count=12).map(check))
    draw_steps(feed, 2)

    for _ in range(2):  # the iterator itself would skip the batch and end
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            feed.draw()
        assert "batch 2 of pass 0" in caught.value.__notes__[0]
    assert feed.position == Position(0, 2)


@pytest.mark.skipif(IS_NATIVE, reason="TensorFlow takes ragged tensors")
def test_ragged_elements_are_refused_on_other_backends():
    ragged = tf.data.Dataset.from_tensors(tf.ragged.constant([[1], [2, 3]]))

    with pytest.raises(DataTypeError, match="to_tensor"):
        TFDatasetFeed(ragged)


def test_the_state_names_the_form_of_the_elements_and_the_pipeline():
    feed = TFDatasetFeed(numbers())
    feed.draw()

    state = feed.state()

    assert (state["kind"], state["passes"], state["batches"]) == ("tf.data.Dataset", 0, 1)
    assert state["data"] == {
        "spec": str(feed.spec),
        "length": 3,
        "pipeline": ["RangeDataset(0, 10, 1)", "BatchDatasetV2(<0>, 4, False)"],
    }
