"""A disk that is full, or that cannot be written to, costs the new checkpoint and nothing else."""

import contextlib
import errno
import os
import resource
import subprocess

import pytest

from perigee._errors import CheckpointSaveError
from perigee.checkpoints import Checkpoints, Content
from tests.checkpoints.saved import content, step_of, tree

DISK_BYTES = 2**20
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
POINTS = 20
SIZE = 2**13  # rows of the new state, of 8 bytes each


def system(*command):
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own, kept in memory."""
    path = tmp_path / "disk"
    path.mkdir()
    if not system("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", path):
        pytest.skip("may not mount a file system")
    yield path
    system("umount", "--lazy", path)


def fill(path, free_bytes):
    """Leave only so much room."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(PAGE_BYTES))
    os.truncate(path, max(path.stat().st_size // PAGE_BYTES * PAGE_BYTES - free_bytes, 0))


def saved_or_error(checkpoints, saved, background):
    try:
        checkpoints.save(saved, background=background)
        checkpoints.wait()
    except CheckpointSaveError as error:
        return error
    return None


@pytest.mark.parametrize("background", [False, True])
def test_a_disk_that_is_full_at_any_point_costs_only_the_new_checkpoint(disk, background):
    new = content(2, SIZE)
    needed_pages = sum(array.nbytes for array in new.arrays.values()) // PAGE_BYTES + 8
    errors = 0
    with Checkpoints(disk / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(content(1))
        before = tree(disk)
        for point in range(POINTS):
            fill(disk / "filler", point * needed_pages // POINTS * PAGE_BYTES)

            error = saved_or_error(checkpoints, new, background)

            (disk / "filler").unlink()
            if error is not None:
                errors += 1
                assert error.errno == errno.ENOSPC
                assert "free space" in error.fix
                assert tree(disk) == before
                assert step_of(checkpoints.load().content) == 1
            else:
                assert step_of(checkpoints.load().content) == 2
                checkpoints.save(content(1))
        assert errors >= POINTS - 4  # the last ones may have had room enough

        assert saved_or_error(checkpoints, new, background) is None
        assert checkpoints.steps() == [2]


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("point", range(5))
def test_a_file_that_may_not_grow_costs_only_the_new_checkpoint(tmp_path, background, point):
    """The system's limit on the size of files, for machines where nothing may be mounted."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(content(1))
        before = tree(tmp_path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (point * SIZE * 8 // 5, limit[1]))
        try:
            error = saved_or_error(checkpoints, content(2, SIZE), background)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)

        assert error is not None
        assert error.errno == errno.EFBIG
        assert tree(tmp_path) == before
        assert step_of(checkpoints.load().content) == 1


@pytest.mark.parametrize("background", [False, True])
def test_a_disk_that_may_only_be_read_gives_its_checkpoints_and_takes_none(disk, background):
    with Checkpoints(disk / "checkpoints") as checkpoints:
        checkpoints.save(content(1))
        before = tree(disk)
        assert system("mount", "-o", "remount,ro", disk)

        error = saved_or_error(checkpoints, content(2), background)

        assert error is not None
        assert error.errno == errno.EROFS
        assert "make the directory writable" in error.fix
        assert tree(disk) == before
        assert step_of(checkpoints.load().content) == 1


def test_a_directory_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "run").write_text("a file")

    error = saved_or_error(Checkpoints(tmp_path / "run" / "checkpoints"), content(1), False)

    assert error is not None
    assert error.errno == errno.ENOTDIR
    assert str(tmp_path) in str(error)


def test_the_message_says_how_much_room_was_needed(tmp_path):
    (tmp_path / "run").write_text("a file")
    held = content(1, 10**6)
    megabytes = sum(array.nbytes for array in held.arrays.values()) / 1e6

    error = saved_or_error(Checkpoints(tmp_path / "run"), held, False)

    assert f"({megabytes:.1f} MB)" in str(error)


def test_errors_of_the_content_are_not_taken_for_errors_of_the_disk(tmp_path):
    with pytest.raises(TypeError):
        Checkpoints(tmp_path).save(Content(content(1).clock, {}, {"x": object()}, {}))
