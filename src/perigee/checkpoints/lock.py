"""The lock of a run directory: one process writes to it at a time."""

import json
import os
import socket
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from perigee._errors import RunInUseError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FILE_NAME = "run.lock"

_MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Process:
    """Which process, on which machine.

    Attributes:
        pid: Its number, which the system gives to others later.
        host: The name of the machine.
        began: Boot of the machine and ticks since then at which the process began, which tells it
            from others of the same number; empty where the system does not say.
    """

    pid: int
    host: str
    began: str

    @classmethod
    def current(cls) -> Self:
        """Return the process that asks."""
        pid = os.getpid()
        return cls(pid, socket.gethostname(), _began(pid))

    def may_live(self) -> bool:
        """Tell whether it lives, as far as this machine can tell."""
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # it lives, and is someone else's
        return self.began == _began(self.pid)


class RunLock:
    """A lock on a run directory, held until `release` or until the process ends in any way.

    The system's own lock on `run.lock` goes with the process, also when it is killed, and children
    that it leaves behind do not keep it. Where the file system has no such locks, what the file
    says decides: number, machine and start of the process that holds it. Another machine's process
    counts as living there, since nothing tells.

    Args:
        directory: The run directory; it and its parents are made where they are missing.

    Raises:
        RunInUseError: If a living process holds it.
        OSError: If the directory or the file cannot be made.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._path = Path(directory) / FILE_NAME
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._take_with_system()
        if self._file is None:
            self._take_with_file()
        self._is_held = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Let others have it; what is not held stays as it is."""
        if not self._is_held:
            return
        self._is_held = False
        if self._file is not None:
            _held.discard(self._file)
            self._file.close()  # the file stays: whoever waits for its lock must find the same one
        elif self._holder() == Process.current():  # a child has the object too, and not the lock
            self._path.unlink()

    def _take_with_system(self) -> FileIO | None:
        """Return the locked file; `None` where the system has no locks for it."""
        if fcntl is None:
            return None
        file = FileIO(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise self._in_use(self._holder()) from error
        except OSError:  # the file system has none
            file.close()
            return None
        _held.add(file)
        with suppress(OSError):  # on a full disk; it is for the message of others only
            file.truncate()
            file.write(self._record())
        return file

    def _take_with_file(self) -> None:
        holder = self._holder()
        if holder is not None and holder.may_live():
            raise self._in_use(holder)
        if os.path.lexists(self._path):
            # Of several that found it stale, one renames it; what another wrote since is put back.
            aside = self._path.with_name(f"{FILE_NAME}.{uuid.uuid4().hex}.old")
            self._path.rename(aside)
            found = _read(aside)
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
        return _read(self._path)

    def _in_use(self, holder: Process | None) -> RunInUseError:
        pid, host = (None, None) if holder is None else (holder.pid, holder.host)
        return RunInUseError(str(self._path.parent), str(self._path), pid, host)


def _read(path: Path) -> Process | None:
    """Return the process that a file names; `None` if it names none."""
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(_MOST_BYTES))
        pid, host, began = said["pid"], said["host"], said["began"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    if type(pid) is not int or not 0 < pid < 2**31:
        return None
    return Process(pid, str(host), str(began))


def _began(pid: int) -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        # Its second field is the name of the program, in parentheses, with anything in it.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    return f"{boot}+{fields[19].decode('ascii')}"


_held: set[FileIO] = set()


def _let_go() -> None:
    """Close the files in a child: a lock lasts as long as any process has its file open."""
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
