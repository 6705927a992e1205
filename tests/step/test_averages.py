"""Averages that stay exact: (total, count) pairs, put together once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import perigee as pg
from perigee._step.averages import Average, Column, Tally, as_average, total_mean

EXAMPLES = 4
VALUES = np.array([1.0, 2.0, 4.0, 9.0], "float32")
WEIGHTS = np.array([1.0, 0.0, 3.0, 0.5], "float32")


def numbers(average, examples=EXAMPLES):
    """Return the (mean, count) pairs of an average as Python numbers."""
    return [tuple(float(part) for part in pair) for pair in average.pairs(examples)]


def value(average, examples=EXAMPLES):
    return float(total_mean(average.pairs(examples)))


def test_a_mean_counts_each_value_as_one():
    [(mean, count)] = numbers(pg.mean(ops.array(VALUES)))

    assert mean == VALUES.mean()
    assert count == len(VALUES)


def test_a_weighted_mean_counts_the_weights():
    [(mean, count)] = numbers(pg.mean(ops.array(VALUES), weights=ops.array(WEIGHTS)))

    assert mean == pytest.approx(np.average(VALUES, weights=WEIGHTS))
    assert count == WEIGHTS.sum()


def test_weights_broadcast_to_the_values():
    values = np.arange(6.0, dtype="float32").reshape(3, 2)
    weights = np.array([[1.0], [0.0], [2.0]], "float32")

    [(mean, count)] = numbers(pg.mean(ops.array(values), weights=ops.array(weights)))

    full = np.broadcast_to(weights, values.shape)
    assert mean == pytest.approx(np.average(values, weights=full))
    assert count == full.sum()


@pytest.mark.parametrize("dtype", ["bool", "int32"])
def test_a_mask_of_any_dtype_is_taken_as_weights(dtype):
    mask = np.array([1, 0, 1, 1])

    [(mean, count)] = numbers(pg.mean(ops.array(VALUES), ops.cast(mask, dtype)))

    assert mean == pytest.approx(VALUES[mask == 1].mean())
    assert count == mask.sum()


def test_what_counts_nothing_is_zero_and_not_nan():
    nothing = ops.zeros(len(VALUES))

    assert numbers(pg.mean(ops.array(VALUES), weights=nothing)) == [(0.0, 0.0)]


def test_values_of_low_precision_are_added_up_in_float32():
    rows = 4096  # 2048 + 1 is 2048 in float16
    ones = ops.ones((rows,), "float16")

    [(mean, count)] = numbers(pg.mean(ones))

    assert (mean, count) == (1.0, rows)


def test_a_scalar_stands_for_the_examples_of_its_batch():
    average = as_average(ops.array(3.0), EXAMPLES)

    assert numbers(average) == [(3.0, EXAMPLES)]


def test_a_vector_is_one_value_an_example():
    average = as_average(ops.array(VALUES), EXAMPLES)

    assert numbers(average) == [(VALUES.mean(), len(VALUES))]


def test_an_average_is_taken_as_it_is():
    average = pg.mean(ops.array(VALUES))

    assert as_average(average, EXAMPLES) is average


ONE = pg.mean(ops.array(VALUES), weights=ops.array(WEIGHTS))
OTHER = pg.mean(ops.array([10.0, 20.0]))
MEAN, OTHER_MEAN = float(np.average(VALUES, weights=WEIGHTS)), 15.0

ALGEBRA = {
    "average + average": (lambda: ONE + OTHER, MEAN + OTHER_MEAN, [WEIGHTS.sum(), 2]),
    "average + number": (lambda: ONE + 2.0, MEAN + 2.0, [WEIGHTS.sum(), EXAMPLES]),
    "number + average": (lambda: 2 + ONE, MEAN + 2.0, [WEIGHTS.sum(), EXAMPLES]),
    "sum": (lambda: sum([ONE, OTHER]), MEAN + OTHER_MEAN, [WEIGHTS.sum(), EXAMPLES, 2]),
    "average - average": (lambda: ONE - OTHER, MEAN - OTHER_MEAN, [WEIGHTS.sum(), 2]),
    "average - number": (lambda: ONE - 2.0, MEAN - 2.0, [WEIGHTS.sum(), EXAMPLES]),
    "number - average": (lambda: 2.0 - ONE, 2.0 - MEAN, [WEIGHTS.sum(), EXAMPLES]),
    "average * number": (lambda: ONE * 3, 3 * MEAN, [WEIGHTS.sum()]),
    "number * average": (lambda: 3.0 * ONE, 3 * MEAN, [WEIGHTS.sum()]),
    "NumPy number * average": (lambda: np.float32(3) * ONE, 3 * MEAN, [WEIGHTS.sum()]),
    "average * tensor": (lambda: ONE * ops.array(3.0), 3 * MEAN, [WEIGHTS.sum()]),
    "tensor * average": (lambda: ops.array(3.0) * ONE, 3 * MEAN, [WEIGHTS.sum()]),
    "average / number": (lambda: ONE / 4, MEAN / 4, [WEIGHTS.sum()]),
    "negative": (lambda: -ONE, -MEAN, [WEIGHTS.sum()]),
    "weighted sum": (
        lambda: 0.5 * (ONE + OTHER) * 2 + 1.0,
        MEAN + OTHER_MEAN + 1.0,
        [WEIGHTS.sum(), 2, EXAMPLES],
    ),
}


@pytest.mark.parametrize(("make", "mean", "counts"), ALGEBRA.values(), ids=ALGEBRA.keys())
def test_each_term_keeps_its_own_count(make, mean, counts):
    made = make()

    assert isinstance(made, Average)
    assert value(made) == pytest.approx(mean, rel=1e-6)
    assert sorted(count for _, count in numbers(made)) == sorted(counts)


def test_an_average_survives_being_taken_apart():
    whole = ONE + OTHER * 2.0 + 1.0

    tensors, rest = whole.tree_flatten()
    again = Average.tree_unflatten(rest, tensors)

    assert numbers(again) == numbers(whole)
    assert [t.is_weighted for t in again.terms] == [t.is_weighted for t in whole.terms]


def test_only_weights_make_a_term_weighted():
    assert [term.is_weighted for term in (ONE + OTHER + 1.0).terms] == [True, False, False]


def mean_columns(count):
    return [Column(f"v{index}", "mean") for index in range(count)]


finite = st.floats(-1e3, 1e3, width=32)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(finite, st.integers(0, 64)), min_size=1, max_size=40),
    st.lists(st.integers(0, 40), max_size=8),
)
def test_a_tally_does_not_depend_on_how_its_rows_are_split(pairs, cuts):
    rows = np.array(pairs, "float32").reshape(-1, 1, 2)
    whole, split = Tally(), Tally()
    whole.add(mean_columns(1), rows)

    for part in np.split(rows, sorted(min(cut, len(rows)) for cut in cuts)):
        split.add(mean_columns(1), part)

    counts = rows[:, 0, 1].astype("float64")
    if counts.sum() == 0:
        assert whole.means() == split.means() == {}
        return
    exact = float(np.average(rows[:, 0, 0].astype("float64"), weights=counts))
    scale = max(1.0, float(np.abs(rows[:, 0, 0]).max()))
    assert whole.means()["v0"] == pytest.approx(exact, abs=1e-12 * scale)
    assert split.means()["v0"] == pytest.approx(exact, abs=1e-12 * scale)


@settings(max_examples=60, deadline=None)
@given(st.lists(finite, min_size=1, max_size=200), st.integers(1, 64))
def test_batch_means_come_to_the_mean_over_the_examples(values, batch_size):
    values = np.array(values, "float32")
    batches = [values[i : i + batch_size] for i in range(0, len(values), batch_size)]
    rows = np.array([[(batch.astype("float64").mean(), len(batch))] for batch in batches])
    tally = Tally()

    tally.add(mean_columns(1), rows)

    assert tally.means()["v0"] == pytest.approx(values.astype("float64").mean(), abs=1e-9)


def test_the_means_of_the_terms_of_one_name_add_up():
    columns = [Column("loss", "mean"), Column("loss", "mean"), Column("other", "mean")]
    first = [(2.0, 1.0), (10.0, 3.0), (7.0, 4.0)]
    second = [(4.0, 3.0), (20.0, 1.0), (7.0, 1.0)]
    tally = Tally()

    tally.add(columns, np.array([first, second]))

    assert tally.means() == {"loss": (2 * 1 + 4 * 3) / 4 + (10 * 3 + 20 * 1) / 4, "other": 7.0}


def test_what_counts_nothing_is_left_out_even_where_it_is_nan():
    columns = mean_columns(2)
    tally = Tally()

    tally.add(columns, np.array([[(np.nan, 0.0), (np.inf, 0.0)], [(3.0, 2.0), (0.0, 0.0)]]))

    assert tally.means() == {"v0": 3.0}


def test_the_last_row_stands_for_a_value_that_covers_the_pass():
    tally = Tally()
    column = [Column("f1", "last")]

    for covered in (0.25, 0.5, 0.75):
        tally.add(column, np.array([[(covered, 8.0)]]))
    tally.add(column, np.zeros((0, 1, 2)))

    assert tally.means() == {"f1": 0.75}


def test_a_cleared_tally_begins_anew():
    tally = Tally()
    tally.add(mean_columns(1), np.array([[(5.0, 2.0)]]))

    tally.clear()

    assert tally.means() == {}


class Measuring(pg.Step):
    """Logs what `logs(batch)` returns."""

    def __init__(self, logs):
        self.logs = logs

    def test_step(self, batch):
        return self.logs(batch)


RAGGED = 11, 4  # rows, rows a batch


@pytest.fixture
def rows():
    count, _ = RAGGED
    return np.random.normal(size=(count, 2)).astype("float32") * 10


@pytest.mark.parametrize(
    "logs",
    [
        lambda x: {"v": ops.mean(x[:, 0])},
        lambda x: {"v": x[:, 0]},
        lambda x: {"v": pg.mean(x[:, 0])},
        lambda x: {"v": pg.mean(x[:, 0]) * 2.0 - ops.mean(x[:, 0])},
    ],
    ids=["scalar", "vector", "average", "algebra"],
)
def test_every_kind_of_value_is_exact_over_ragged_batches(rows, logs):
    _, batch_size = RAGGED

    logged = pg.evaluate(Measuring(logs), rows, batch_size=batch_size)

    assert logged["v"] == pytest.approx(rows[:, 0].astype("float64").mean(), rel=1e-6)


def test_weights_are_exact_over_ragged_batches(rows):
    weights = np.abs(rows[:, 1])
    weights[:4] = 0  # the whole first batch counts nothing
    _, batch_size = RAGGED
    step = Measuring(lambda batch: {"v": pg.mean(batch[0], weights=batch[1])})

    logged = pg.evaluate(step, (rows[:, 0], weights), batch_size=batch_size)

    assert logged["v"] == pytest.approx(np.average(rows[:, 0], weights=weights), rel=1e-5)


def test_a_python_number_is_logged_as_it_is(rows):
    half, batch_size = 0.5, 4

    assert pg.evaluate(Measuring(lambda _: {"v": half}), rows, batch_size=batch_size) == {"v": half}


def test_a_value_that_never_counts_is_absent(rows):
    step = Measuring(
        lambda x: {"none": pg.mean(x[:, 0], weights=ops.zeros_like(x[:, 0])), "v": x[:, 0]}
    )

    assert set(pg.evaluate(step, rows)) == {"v"}


def test_no_gradient_flows_through_the_count():
    """d/dw of the mean with weights `w` is zero where the count is taken as a constant."""
    step = pg.Step()
    values, weights = ops.array([1.0, 3.0]), ops.array([1.0, 1.0])

    def weighted_mean(weights):
        return total_mean(pg.mean(values, weights=weights).pairs(2))

    slope = ops.convert_to_numpy(step.gradients(weighted_mean, weights))

    count = 2.0  # through the total alone: values / count
    assert slope.tolist() == [1.0 / count, 3.0 / count]
