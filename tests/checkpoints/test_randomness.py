"""The global generators go on where they stood."""

import copy
import json
import random
import sys

import keras
import numpy as np
import pytest

from perigee._errors import RandomStateError
from perigee.checkpoints import random_state, set_random_state

NEXT = keras.random.SeedGenerator.next


def draws():
    drawn = [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn()]
    drawn += keras.ops.convert_to_numpy(keras.random.uniform((2,))).tolist()
    if "torch" in sys.modules:
        drawn.append(sys.modules["torch"].rand(1).item())
    return drawn


def test_every_generator_draws_again_what_it_drew_through_json():
    draws()  # the second of two gauss values waits now
    state = json.loads(json.dumps(random_state()))
    drawn = draws()
    keras.utils.set_random_seed(99)

    set_random_state(state)

    assert draws() == drawn


def test_nothing_is_drawn_by_looking():
    state = random_state()
    again = random_state()
    assert again == state

    drawn = draws()
    set_random_state(state)
    random_state()
    assert draws() == drawn
    assert keras.random.SeedGenerator.next is NEXT


@pytest.mark.only_torch
def test_torchs_own_generator_is_among_them():
    import torch

    state = random_state()
    drawn = torch.rand(3).tolist()

    set_random_state(state)

    assert torch.rand(3).tolist() == drawn


def test_another_generator_of_numpy_is_refused():
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        with pytest.raises(RandomStateError, match="PCG64"):
            random_state()
    finally:
        np.random.set_bit_generator(before)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("python",), None),
        (("python", "version"), 9),
        (("python", "words"), [1, 2]),
        (("python", "words", 624), 700),
        (("python", "words", 0), 2**40),
        (("python", "gauss"), "0"),
        (("numpy", "words"), [0] * 623),
        (("numpy", "words", 5), -1),
        (("numpy", "words", 5), 1.5),
        (("numpy", "position"), 625),  # NumPy itself takes it, and reads beyond its words
        (("numpy", "position"), -1),
        (("numpy", "gauss"), [1]),
        (("keras",), [1]),
        (("keras", 0), 2**70),
        (("keras", 1), -5),
        (("keras", 1), True),
    ],
)
def test_what_is_no_state_is_refused_and_nothing_changes(path, value):
    state = random_state()
    changed = copy.deepcopy(state)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value

    with pytest.raises(RandomStateError):
        set_random_state(changed)

    assert random_state() == state


@pytest.mark.only_torch
@pytest.mark.parametrize("digits", ["", "00", "zz", "00" * 5056])
def test_what_is_no_state_of_torch_is_refused_and_nothing_changes(digits):
    state = random_state()

    with pytest.raises(RandomStateError):
        set_random_state({**state, "torch": [digits]})

    assert random_state() == state
