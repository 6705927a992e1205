"""The lock of a run directory: one process writes to it at a time."""

import json
import os
import uuid
from contextlib import suppress
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import Self

from perigee._disk import check_file, open_file, within
from perigee._errors import FileKindError, RunInUseError
from perigee._processes.process import LOCK_NAME, Process, read_process

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_BEGIN = b'{"pid": '


class RunLock:
    """A lock on a run directory, held until `release` or until the process ends in any way.

    The system's lock on `run.lock` is released when the process ends, even if it is killed, and
    children that outlive it do not keep it. If the file system has no such locks, the content of
    the file decides: pid, machine and start of the process that holds it. A process on another
    machine counts as running, since that cannot be checked.

    Args:
        directory: The run directory; it and its parents are created if missing.

    Raises:
        RunInUseError: If a running process holds it.
        FileKindError: If the file is a link, or no lock has written it.
        OSError: If the directory or the file cannot be created.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._place = within(directory, LOCK_NAME)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        check_lock(self._path)
        self._file = self._take_with_system()
        if self._file is None:
            self._take_with_file()
        self._is_held = True

    @property
    def _path(self) -> Path:
        return Path(self._place)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def renew(self) -> None:
        """Take the lock again in a directory that was made again.

        Raises:
            RunInUseError: If another process was faster.
            OSError: If the file cannot be created.
        """
        if self._file is None:
            self._take_with_file()
            return
        file, self._file = self._file, self._take_with_system()
        _held.discard(file)
        file.close()

    def release(self, *, removes: bool = False) -> None:
        """Release the lock; does nothing if it is not held.

        Args:
            removes: Whether its file is removed, too, and its directory if nothing else is in it.
        """
        if not self._is_held:
            return
        self._is_held = False
        if removes and self._file is not None and self._is_named(self._file):
            self._path.unlink(missing_ok=True)  # who waits for this file looks for another one
        if self._file is not None:
            _held.discard(self._file)
            self._file.close()  # the file stays: waiting processes must find the same one
        elif self._holder() == Process.current():  # a child has the object too, but not the lock
            self._path.unlink()
        if removes:
            with suppress(OSError):  # something else is in it
                self._path.parent.rmdir()

    def _take_with_system(self) -> FileIO | None:
        """Return the locked file; `None` if the system has no locks for it."""
        if fcntl is None:
            return None
        file = FileIO(open_file(self._path, os.O_RDWR | os.O_CREAT), "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise self._in_use(self._holder()) from error
        except OSError:  # the file system has none
            file.close()
            return None
        if not self._is_named(file):  # who held it before has removed it meanwhile
            file.close()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return self._take_with_system()
        _held.add(file)
        with suppress(OSError):  # on a full disk; only needed for messages of others
            file.truncate()
            file.write(self._record())
        return file

    def _is_named(self, file: FileIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.lstat(self._path))
        except FileNotFoundError:
            return False

    def _take_with_file(self) -> None:
        holder = self._holder()
        if holder is not None and holder.may_live():
            raise self._in_use(holder)
        if os.path.lexists(self._path):
            # If several found it stale, one renames it; what another wrote since is restored.
            aside = self._path.with_name(f"{LOCK_NAME}.{uuid.uuid4().hex}.old")
            self._path.rename(aside)
            found = read_process(aside)
            if found != holder:
                aside.rename(self._path)
                raise self._in_use(found)
            aside.unlink()
        try:
            file = FileIO(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "w")
        except FileExistsError as error:
            raise self._in_use(self._holder()) from error
        with file:
            file.write(self._record())

    def _record(self) -> bytes:
        return json.dumps(asdict(Process.current())).encode("ascii")

    def _holder(self) -> Process | None:
        return read_process(self._path)

    def _in_use(self, holder: Process | None) -> RunInUseError:
        pid, host = (None, None) if holder is None else (holder.pid, holder.host)
        return RunInUseError(str(self._path.parent), str(self._path), pid, host)


def check_lock(path: Path) -> None:
    """Refuse a file that no lock has written; it may be missing.

    Raises:
        FileKindError: If it is no regular file, or does not begin as those of locks do.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            content = file.read(len(_BEGIN)).strip(b"\0")  # zeros: the power failed
    except FileNotFoundError:
        return
    if not _BEGIN.startswith(content):
        raise FileKindError(str(path), "not a file of Perigee", "the lock of a run")


_held: set[FileIO] = set()


def _let_go() -> None:
    """Close the files in a child: a lock lasts as long as any process has its file open."""
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
