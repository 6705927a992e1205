"""A file that grows by whole records: valid after any crash, truncated when a run resumes."""

import contextlib
import errno
import os
import warnings
from io import FileIO
from pathlib import Path

from perigee._disk import check_file, flush_directory, make_above, open_file, within
from perigee._errors import LogShortError
from perigee._events.events import Recorded
from perigee.writers._replaced import replace_file

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND
_PART_BYTES = 2**20


class AppendedFile:
    """A file to which whole records are appended.

    A record reaches the operating system in one write, so that another program can follow the file,
    and a killed process leaves at most one partial record at the end. A failed write is undone, at
    once or before the next one. `restore` makes a file that was deleted again, with all its
    records, which the system keeps while it is open.

    Args:
        path: The file.

    Attributes:
        size_bytes: The size of the records in it, without a partial one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = within(path)
        self.size_bytes = 0
        self._file: FileIO | None = None
        self._is_torn = False
        self._is_named = False

    @property
    def path(self) -> Path:
        """The file, wherever its directory is now."""
        return Path(self._path)

    def open(self, size_bytes: int | None = None) -> None:
        """Open the file, creating it if missing, and truncate it to `size_bytes`.

        Raises:
            FileKindError: If it is a link, a directory or a device.
            OSError: If it cannot be opened.
        """
        self.close()
        make_above(self._path)
        make_own(self.path)
        self._file = FileIO(open_file(self.path, _FLAGS), "a")
        if size_bytes is not None and os.fstat(self._file.fileno()).st_size > size_bytes:
            os.ftruncate(self._file.fileno(), size_bytes)
        self.size_bytes = os.fstat(self._file.fileno()).st_size
        self._is_torn = self._is_named = False

    def write(self, record: bytes) -> int:
        """Append one whole record.

        Raises:
            OSError: If the write fails; the file is then unchanged.
            ValueError: If the file is not open.
        """
        if self._file is None:
            raise ValueError(f"{self.path} is not open: a record came before the start.")
        file = self._file
        self._check(file)
        if self._is_torn:
            self._take_back(file)
        rest = memoryview(record)
        try:
            while rest:  # one call; another only after a partial write, to get its error
                rest = rest[file.write(rest) :]
        except OSError:
            self._is_torn = True
            with contextlib.suppress(OSError):  # otherwise before the next record
                self._take_back(file)
            raise
        self.size_bytes += len(record)
        return len(record)

    def _take_back(self, file: FileIO) -> None:
        os.ftruncate(file.fileno(), self.size_bytes)
        self._is_torn = False

    def flush(self) -> None:
        """Wait until the file and its directory entry are on the disk."""
        if self._file is None:
            return
        self._check(self._file)
        os.fsync(self._file.fileno())
        if not self._is_named and not self.is_missing:
            flush_directory(self.path.parent)
            self._is_named = True

    @property
    def is_missing(self) -> bool:
        """Whether the file was deleted while it is open."""
        return self._file is not None and not os.path.lexists(self.path)

    def restore(self) -> bool:
        """Make the file again, with all its records, if it was deleted; return whether it was.

        Raises:
            OSError: If it cannot be made.
        """
        if self._file is None or not self.is_missing:
            return False
        self._copy(self._file)
        return True

    def _check(self, file: FileIO) -> None:
        """Refuse to write to a file that has lost its name to another one."""
        if os.name == "nt":  # there, an open file can be neither deleted nor renamed
            return
        try:
            is_own = os.path.samestat(os.lstat(self.path), os.fstat(file.fileno()))
        except FileNotFoundError:  # what is written now is in the file that `restore` makes
            return
        if not is_own:
            replaced = "another file is in its place, to which nothing is written"
            raise FileExistsError(errno.EEXIST, replaced, str(self.path))

    def _copy(self, file: FileIO) -> None:
        target = self.path
        copy = FileIO(open_file(target, _FLAGS | os.O_EXCL), "a")
        try:
            at = 0
            while at < self.size_bytes:
                part = os.pread(file.fileno(), min(_PART_BYTES, self.size_bytes - at), at)
                if not part:
                    raise OSError(errno.EIO, "its records cannot be read again", str(target))
                at += copy.write(part)
        except BaseException:
            copy.close()
            target.unlink(missing_ok=True)
            raise
        file.close()
        self._file, self._is_torn, self._is_named = copy, False, False

    def close(self) -> None:
        """Close the file if it is open."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


def make_own(path: Path) -> None:
    """Make a file, if there is one, safe to be changed in its place.

    A directory that was copied by hard links shares its files with the copy, in which nothing may
    change: such a file is replaced by one with the same content.

    Raises:
        FileKindError: If it is a link, a directory or a device.
        OSError: If it cannot be read or replaced.
    """
    check_file(path)
    if os.path.lexists(path) and os.lstat(path).st_nlink > 1:
        replace_file(path, path.read_bytes())


def is_lasting(event: Recorded) -> bool:
    """Return whether a run that resumes from here keeps this record.

    A record of an interrupted epoch is written again, complete, when the run resumes.
    """
    return event.scope != "epoch" or event.clock.batch == 0


def check_length(path: Path, size_bytes: int) -> bool:
    """Return whether there is a file to truncate to `size_bytes`.

    There is none if it was deleted: the run continues without its contents, with a warning.

    Raises:
        LogShortError: If it is shorter.
    """
    if not os.path.lexists(path):
        if size_bytes:
            warn_of_missing(path)
        return False
    found = path.stat().st_size
    if found < size_bytes:
        raise LogShortError(str(path), f"{found} bytes", f"{size_bytes} bytes")
    return True


def warn_of_missing(path: Path) -> None:
    """Warn that a file to which the run wrote before is missing."""
    warnings.warn(
        f"{path} is missing: the run continues without what it wrote there before.",
        RuntimeWarning,
        stacklevel=2,
    )
