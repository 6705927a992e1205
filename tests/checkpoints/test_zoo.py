"""Every variable and seed comes back, whatever holds it."""

import pytest

from perigee._events.clock import Clock
from perigee._step.state import track
from perigee.checkpoints import Checkpoints, Content, arrays_of, load_arrays
from tests.checkpoints.zoo import ZOO, bits_of, scramble, variables_of


@pytest.mark.parametrize("name", ZOO)
def test_a_fresh_instance_gets_every_bit(name, tmp_path):
    saved, fresh = ZOO[name](), ZOO[name]()
    scramble(saved, seed=1)
    scramble(fresh, seed=2)
    assert bits_of(saved) != bits_of(fresh)

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(Content(Clock(), arrays_of(track(saved)), {}, {}))
        load_arrays(track(fresh), checkpoints.load().content.arrays)

    assert bits_of(fresh) == bits_of(saved)


@pytest.mark.parametrize("name", ZOO)
def test_keys_are_the_same_for_every_instance_and_different_for_every_variable(name):
    first, second = (track(ZOO[name]()).entries for _ in range(2))

    assert [entry.key for entry in first] == [entry.key for entry in second]
    assert len({entry.key for entry in first}) == len(first)


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_is_seen_whole(name):
    step = ZOO[name]()

    tracked = {id(variable) for variable in track(step).variables}

    assert tracked == {id(variable) for variable in variables_of(step)}
