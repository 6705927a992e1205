import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perigee.data._order import permutation


@pytest.mark.parametrize(
    ("seed", "pass_index", "order"),
    [
        (0, 0, [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]),
        (0, 1, [5, 3, 7, 8, 2, 4, 1, 0, 6, 9]),
        (1, 0, [3, 5, 2, 9, 7, 0, 8, 6, 1, 4]),
    ],
)
def test_the_order_is_the_same_for_ever(seed, pass_index, order):
    assert permutation(seed, pass_index, 10).tolist() == order


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), pass_index=st.integers(0, 2**40), size=st.integers(0, 300))
def test_every_number_comes_exactly_once(seed, pass_index, size):
    assert sorted(permutation(seed, pass_index, size)) == list(range(size))


def test_seeds_and_passes_do_not_stand_in_for_each_other():
    size = 64
    orders = {tuple(permutation(seed, index, size)) for seed in range(8) for index in range(8)}

    assert len(orders) == 8 * 8


def test_numbers_land_in_every_place_about_equally_often():
    size, passes = 8, 4000

    orders = np.stack([permutation(0, index, size) for index in range(passes)])
    counts = np.stack([np.bincount(orders[:, place], minlength=size) for place in range(size)])

    expected = passes / size
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 87  # 49 degrees of freedom: exceeded once in a thousand seeds
