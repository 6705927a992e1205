"""Disk operations beyond writing files."""

import errno
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from perigee._errors import FileKindError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# A link would lead elsewhere, and a pipe would wait for a reader. Not every system has these.
_SAFELY = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))


def flush_directory(path: Path) -> None:
    """Flush a directory, so that its entries survive a power failure; no effect on Windows."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_file(path: Path, flags: int) -> int:
    """Open a file without following a link, and return its descriptor.

    Args:
        path: The file.
        flags: Those of `os.open`.

    Raises:
        FileKindError: If there is a link, a directory or a device.
        OSError: If the system call fails.
    """
    check_file(path)
    try:
        descriptor = os.open(path, flags | _SAFELY, 0o666)
    except OSError:
        check_file(path)  # it may have become a link since
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileKindError(str(path), "not a regular file", "a regular file")
    return descriptor


def read_file(path: Path, most_bytes: int) -> bytes:
    """Return the bytes of a file, without following a link or waiting for a pipe.

    Args:
        path: The file.
        most_bytes: The most that it may have.

    Raises:
        FileKindError: If there is a link, a directory or a device.
        ValueError: If it is longer.
        OSError: If it cannot be read.
    """
    with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it has more than {most_bytes:,} bytes")
    return content


def check_file(path: Path) -> None:
    """Refuse a link, a directory or a device in the place of a file.

    Raises:
        FileKindError: If there is a link, a directory or a device.
    """
    _check_kind(path, stat.S_ISREG, "a regular file")


def check_folder(path: Path) -> None:
    """Refuse a link or a file in the place of a directory.

    Raises:
        FileKindError: If there is a link or a file.
    """
    _check_kind(path, stat.S_ISDIR, "a directory")


def make_folder(path: Path) -> None:
    """Create a directory, whose parent exists, unless it exists itself.

    Raises:
        FileKindError: If there is a link or a file.
        OSError: If it cannot be created.
    """
    check_folder(path)
    path.mkdir(exist_ok=True)


def _check_kind(path: Path, is_right: Callable[[int], bool], expected: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISLNK(mode):
        raise FileKindError(str(path), f"a link to {os.readlink(path)}", expected)
    if not is_right(mode):
        kinds = {stat.S_IFDIR: "a directory", stat.S_IFREG: "a file"}
        found = kinds.get(stat.S_IFMT(mode), "a pipe or a device")
        raise FileKindError(str(path), found, expected)


class Place(os.PathLike[str]):
    """A directory that is followed where it is renamed, and made again where it is deleted.

    Args:
        path: The directory; a relative path is that of now, whatever the working directory is
            later.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(os.path.abspath(path))
        self._descriptor: int | None = None
        self._lock = threading.Lock()
        self._when_made: Callable[[], object] = lambda: None
        self.times_made = 0

    def __fspath__(self) -> str:
        return str(self._path)

    def __truediv__(self, name: str) -> "Within":
        return Within(self, name)

    @property
    def path(self) -> Path:
        """Where it is now."""
        return self._path

    def hold(self, when_made: Callable[[], object]) -> None:
        """Open the directory, so that `check` can find it wherever it is.

        Without effect on Windows, where an open directory can be neither deleted nor renamed.

        Args:
            when_made: Called when it was made again; may refuse it by an `OSError`.
        """
        self._when_made = when_made
        if os.name != "nt":
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)

    def release(self) -> None:
        """Close what `hold` opened; it is no longer followed."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def check(self) -> str | None:
        """Find the directory, or make it again, and return what happened, if anything.

        Returns:
            What to say; to the first caller only.

        Raises:
            OSError: If it cannot be made again.
        """
        with self._lock:
            if self._descriptor is None or self._is_at(self._path):
                return None
            old, found = self._path, _path_of(self._descriptor)
            if found is not None and self._is_at(found):
                if found == Path(os.path.realpath(old)):
                    return None
                self._path = found
                return (
                    f"{old} was renamed in training, or a link to it changed. The run continues "
                    f"in {found}."
                )
            is_deleted = not os.fstat(self._descriptor).st_nlink
            if not is_deleted and not str(found).endswith(" (deleted)"):
                if old.is_dir():  # a file system without lasting inode numbers
                    return None
                raise FileNotFoundError(errno.ENOENT, "it was renamed or deleted", str(old))
            self._make()
            return (
                f"{old} was deleted in training. It is made again, with its logs and "
                "a new checkpoint; older checkpoints and samples are lost."
            )

    def _make(self) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        flush_directory(self._path.parent)
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._when_made()
        except BaseException:
            os.close(descriptor)
            raise
        held, self._descriptor = self._descriptor, descriptor
        assert held is not None
        os.close(held)
        self.times_made += 1

    def _is_at(self, path: Path) -> bool:
        assert self._descriptor is not None
        try:
            return os.path.samestat(os.stat(path), os.fstat(self._descriptor))
        except (FileNotFoundError, NotADirectoryError):
            return False


class Within(os.PathLike[str]):
    """A path below a `Place`, wherever that is.

    Args:
        place: The directory, or a path within it.
        name: The last part of the path.
    """

    def __init__(self, place: "Place | Within", name: str) -> None:
        self._place, self._name = place, name

    def __fspath__(self) -> str:
        return os.path.join(self._place, self._name)

    def __truediv__(self, name: str) -> "Within":
        return Within(self, name)


def within(directory: str | os.PathLike[str], *names: str) -> os.PathLike[str]:
    """Return a path below a directory, which moves with it if that is a `Place`."""
    path = directory if isinstance(directory, Place | Within) else Path(directory)
    for name in names:
        path = path / name
    return path


def make_above(path: str | os.PathLike[str]) -> None:
    """Create the directories above a path, unless it is below a `Place`, which does so itself."""
    if not isinstance(path, Place | Within):
        Path(path).parent.mkdir(parents=True, exist_ok=True)


def _path_of(descriptor: int) -> Path | None:
    """Return the path of an open directory, which may be deleted; `None` if it is not known."""
    try:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    except OSError:
        get_path = getattr(fcntl, "F_GETPATH", None)  # of macOS
        if fcntl is None or get_path is None:
            return None
    try:
        found = fcntl.fcntl(descriptor, get_path, bytes(1024))
    except OSError:
        return None
    return Path(os.fsdecode(found.rstrip(b"\0")))


def new_thread(name: str) -> ThreadPoolExecutor | None:
    """Return a thread to run functions in order; `None` if the system has no more threads.

    Args:
        name: Its name, for debuggers.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix=name)
    try:
        wait([thread.submit(int)])
    except RuntimeError:
        return None
    return thread
