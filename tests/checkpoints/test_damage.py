"""Whatever happens to a file of the newest checkpoint is told, and the one before is taken."""

import random

import pytest

from perigee._errors import DamagedCheckpointError, NoCheckpointError
from perigee.checkpoints import Checkpoints
from tests.checkpoints.saved import content, step_of

FILES = (
    *("manifest.json", "state.safetensors", "facts.safetensors"),
    *("data/position.json", "data/arrays.safetensors"),
)
CASES = 42  # for each file


def flipped(data, chance):
    position = chance.randrange(8 * len(data))
    data[position // 8] ^= 1 << position % 8
    return data


def truncated(data, chance):
    return data[: chance.randrange(len(data))]


def zeroed(data, chance):
    start = chance.choice([i for i, byte in enumerate(data) if byte])
    stop = chance.randrange(start + 1, len(data) + 1)
    data[start:stop] = bytes(stop - start)
    return data


def lengthened(data, chance):
    return data + bytes(chance.randrange(1, 20))


def turned(data, chance):
    """Move the first bytes to the end: the same bytes, in other places."""
    count = chance.randrange(1, len(data))
    return data[count:] + data[:count]


def deleted(data, chance):
    return None


DAMAGES = (flipped, truncated, zeroed, lengthened, turned, deleted)


@pytest.mark.parametrize("name", FILES)
def test_damage_is_told_with_the_file_and_the_checkpoint_before_is_taken(name, tmp_path):
    checkpoints = Checkpoints(tmp_path, best="val_loss")
    checkpoints.save(content(1), 2.0)
    newest = checkpoints.save(content(2), 1.0)
    whole = (newest / name).read_bytes()
    chance = random.Random(name)

    for number in range(CASES):
        damage = DAMAGES[number % len(DAMAGES)]
        left = damage(bytearray(whole), chance)
        (newest / name).unlink()
        if left is not None:
            (newest / name).write_bytes(left)

        for found in (checkpoints.newest(), checkpoints.load(), checkpoints.load("best")):
            assert found is not None, damage
            assert step_of(found.content) == 1
            assert [(error.path, error.file) for error in found.passed_over] == [
                (str(newest), name)
            ]
        with pytest.raises(DamagedCheckpointError, match=name):
            checkpoints.load(2)
        if left is None:
            (newest / name).write_bytes(b"")

    (newest / name).write_bytes(whole)
    assert step_of(checkpoints.load().content) == 2


def test_where_all_are_damaged_all_are_named_and_nothing_begins_anew(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        (checkpoints.save(content(step)) / "state.safetensors").write_bytes(b"")

    for ask in (checkpoints.newest, checkpoints.load):
        with pytest.raises(NoCheckpointError) as caught:
            ask()
        assert [error.path[-1] for error in caught.value.damaged] == ["3", "2", "1"]
        assert "state.safetensors" in str(caught.value)


def test_a_checkpoint_under_the_name_of_another_step_is_told(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(content(1))
    checkpoints.save(content(2)).rename(tmp_path / "step-00000003")

    found = checkpoints.load()

    assert step_of(found.content) == 1
    assert "it belongs to step 2" in str(found.passed_over[0])


def test_a_damaged_one_does_not_push_out_what_is_saved_after_it(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(content(2))
    (checkpoints.save(content(9)) / "manifest.json").unlink()

    checkpoints.save(content(3))

    assert checkpoints.steps() == [3]
    assert step_of(checkpoints.load().content) == 3
