"""What in a directory belongs to a run; nothing else there is overwritten, moved or removed."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from perigee._disk import check_file, check_folder, flush_directory
from perigee._errors import (
    DamagedCheckpointError,
    FileKindError,
    ForeignFilesError,
    RunFileError,
)
from perigee._processes.process import LOCK_NAME
from perigee._runs.run import CHECKPOINTS_NAME
from perigee.checkpoints import Checkpoints, content
from perigee.checkpoints.lock import check_lock
from perigee.report import FILE_NAME as REPORT_NAME
from perigee.report.reading import may_be_run
from perigee.report.writing import is_report
from perigee.writers import samples, tensorboard
from perigee.writers.json_lines import FILE_NAME as METRICS_NAME
from perigee.writers.run_directory import FILE_NAME as RUN_NAME
from perigee.writers.run_directory import read_run

_FOLDERS = (tensorboard.DIRECTORY_NAME, samples.DIRECTORY_NAME)
_ABANDONED = "abandoned-"


def check_directory(path: Path) -> bool:
    """Return whether a directory holds a run, and refuse one where a run would do harm.

    Raises:
        ForeignFilesError: If there are files of a run's names, but no run.
        FileKindError: If one of them is a link, or something else than a run writes.
        RunFileError: If there is a `run.json` that cannot be read.
    """
    if os.path.lexists(path) and not path.is_dir():
        raise FileKindError(str(path), "not a directory", "a directory")
    check_lock(path / LOCK_NAME)
    for name in (RUN_NAME, METRICS_NAME, REPORT_NAME):
        check_file(path / name)
    for name in _FOLDERS:
        check_folder(path / name)
    checkpoints = path / CHECKPOINTS_NAME
    if not checkpoints.is_dir():  # a link to a directory is one
        check_folder(checkpoints)
    # Before `run.json` is looked for: another process may just begin a run, which writes it first.
    found = _named_like_a_run(path)
    if _is_run(path):
        return True
    if found:
        raise ForeignFilesError(str(path), found)
    return False


def set_aside(path: Path) -> Path:
    """Move what a run wrote before its first save to a new directory in its own, and return that.

    Files of others in the same directories stay where they are. `run.json` is the last to be moved:
    if the process is killed before, the rest still belongs to a run.
    """
    place = _new_folder(path)
    logs = [path / METRICS_NAME, path / REPORT_NAME]
    if logs[1].exists() and not is_report(logs[1]):
        logs.pop()
    files = samples.sample_files(path / samples.DIRECTORY_NAME)
    files += tensorboard.event_files(path / tensorboard.DIRECTORY_NAME)
    for file in [*filter(Path.exists, logs), *files, path / RUN_NAME]:
        target = place / file.relative_to(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    emptied = {file.parent for file in files}
    for folder in sorted(emptied) + [path / name for name in _FOLDERS]:
        with suppress(OSError):  # something else is in it
            folder.rmdir()
    flush_directory(place)
    flush_directory(path)
    return place


def _named_like_a_run(path: Path) -> list[str]:
    """Return what is in a directory under the names that a run uses; empty directories are free."""
    files = (RUN_NAME, METRICS_NAME, REPORT_NAME)
    found = [name for name in files if os.path.lexists(path / name)]
    # In the directories of a run, also of one that failed early, others may keep something, too.
    if not any(path.glob(f"{_ABANDONED}*/{RUN_NAME}")):
        folders = [name for name in _FOLDERS if _holds_something(path / name)]
        checkpoints = path / CHECKPOINTS_NAME
        if checkpoints.is_symlink():  # others may use the disk to which it leads
            is_taken = bool(Checkpoints(checkpoints).steps())
        else:
            is_taken = _holds_something(checkpoints)
        found += [f"{name}/" for name in [*folders, *[CHECKPOINTS_NAME] * is_taken]]
    return found


def _is_run(path: Path) -> bool:
    if os.path.lexists(path / RUN_NAME):
        return _is_own(path)
    checkpoints = Checkpoints(path / CHECKPOINTS_NAME)
    if checkpoints.directory.is_symlink():  # they may be those of any run
        return False
    return any(map(_is_checkpoint, (checkpoints.path_of(step) for step in checkpoints.steps())))


def _is_own(path: Path) -> bool:
    """Return whether a directory has the `run.json` of a run."""
    try:
        facts: Mapping[str, Any] | None = read_run(path)
    except RunFileError:
        if may_be_run(path / RUN_NAME):
            raise
        return False
    if facts is None:
        return False
    versions = facts.get("versions")  # of a run of version 0.1, which has no id
    return isinstance(facts.get("id"), str) or (
        isinstance(versions, dict) and "perigee" in versions
    )


def _is_checkpoint(path: Path) -> bool:
    try:
        content.read_manifest(path)
    except DamagedCheckpointError:
        return False
    return True


def _holds_something(folder: Path) -> bool:
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def _new_folder(path: Path) -> Path:
    name = f"{_ABANDONED}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    place, number = path / name, 1
    while os.path.lexists(place):  # of the same second
        number += 1
        place = path / f"{name}-{number}"
    place.mkdir()
    return place
