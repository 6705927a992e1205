"""Run directories that mean harm, sampled by seed; `make hostile` reads many of them."""

import shutil
import sys

import pytest

from tests.reliability import hostile

pytestmark = [
    pytest.mark.once,
    pytest.mark.usefixtures("fenced"),  # a rule that cannot take its state back ends nothing
    pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc"),
]
SEEDS = [*range(0, len(hostile.WAYS), 4), *range(1, len(hostile.WAYS))]


@pytest.fixture(scope="module")
def guard():
    return hostile.Guard()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    found = hostile.originals(folder / "made")
    shutil.copytree(found["arrays"], folder / "good")
    return folder, found


@pytest.mark.spread(6, once=True)
@pytest.mark.parametrize("seed", dict.fromkeys(SEEDS))
def test_a_hostile_directory_is_refused_with_a_code_or_harmless(seed, made, guard):
    folder, found = made
    kind = list(found)[seed % len(found)]

    told, faults = hostile.tried(folder, kind, found[kind], seed, guard)

    assert not faults, told


def test_what_reads_them_is_watched(tmp_path, guard):
    """Each fault that must not be is seen where there is one."""
    inside, outside = tmp_path / "run", tmp_path / "outside.txt"
    inside.mkdir()
    with guard.watching(inside):
        (inside / "a").write_text("x")
        assert not guard.found
        outside.write_text("x")
        (inside / "a").rename(tmp_path / "b")
        outside.unlink()
    assert len(guard.found) == 3

    called = hostile.callbacks()
    called[0].path = "/etc/passwd"
    with pytest.raises(hostile.Believed, match="path"):
        hostile.look_at(called, hostile.Line())
    called = hostile.callbacks()
    called[1].evil = 1
    with pytest.raises(hostile.Believed, match="evil"):
        hostile.look_at(called, hostile.Line())


def test_every_reader_reads_what_nothing_has_changed(tmp_path, made):
    """A refusal would prove nothing if they refused everything."""
    folder, found = made
    for kind, original in found.items():
        for reader in hostile.READERS:
            place = tmp_path / f"{kind}-{reader.__name__}"
            place.mkdir()
            (place / "experiment.py").write_text(hostile.EXPERIMENT)
            shutil.copytree(folder / "good", place / "good")
            shutil.copytree(original, place / "run")
            if reader is hostile.prepares or (reader is hostile.fits and kind != "arrays"):
                continue  # of other data
            reader(place / "run", kind)
