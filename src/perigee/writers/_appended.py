"""A file that grows by whole records: valid after any crash, and cut back when a run resumes."""

import contextlib
import os
import warnings
from io import FileIO
from pathlib import Path

from perigee._disk import flush_directory
from perigee._errors import LogShortError
from perigee._events.events import Recorded


class AppendedFile:
    """A file to which records are appended, each whole or not at all.

    A record reaches the operating system in one write, so that another program can follow the
    file, and a process that is killed leaves at most one torn record at the end. A write that
    fails is taken back, at once or before the next one.

    Args:
        path: The file, in a directory that exists.

    Attributes:
        path: The file.
        size_bytes: What the records in it take, without a torn one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.size_bytes = 0
        self._file: FileIO | None = None
        self._is_torn = False
        self._is_named = False

    def open(self, size_bytes: int | None = None) -> None:
        """Open the file, made if it is missing, and cut off what lies beyond `size_bytes`."""
        self.close()
        self._file = FileIO(self.path, "a")
        if size_bytes is not None and os.fstat(self._file.fileno()).st_size > size_bytes:
            os.ftruncate(self._file.fileno(), size_bytes)
        self.size_bytes = os.fstat(self._file.fileno()).st_size
        self._is_torn = self._is_named = False

    def write(self, record: bytes) -> int:
        """Append one whole record.

        Raises:
            OSError: If the system does not take it; the file is then as it was before.
            ValueError: If the file is not open.
        """
        if self._file is None:
            raise ValueError(f"{self.path} is not open: a record came before the start.")
        if self._is_torn:
            self._take_back(self._file)
        rest = memoryview(record)
        try:
            while rest:  # one call; another only after a part was taken, to hear the reason why
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._is_torn = True
            with contextlib.suppress(OSError):  # before the next record, then
                self._take_back(self._file)
            raise
        self.size_bytes += len(record)
        return len(record)

    def _take_back(self, file: FileIO) -> None:
        os.ftruncate(file.fileno(), self.size_bytes)
        self._is_torn = False

    def flush(self) -> None:
        """Wait until what was written is on the disk, under its name."""
        if self._file is None:
            return
        os.fsync(self._file.fileno())
        if not self._is_named:
            flush_directory(self.path.parent)
            self._is_named = True

    def close(self) -> None:
        """Close the file if it is open."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


def is_lasting(event: Recorded) -> bool:
    """Tell whether a run that goes on from here keeps this record.

    One of an epoch that was left in the middle is written again, whole, when a run goes on.
    """
    return event.scope != "epoch" or event.clock.batch == 0


def check_length(path: Path, size_bytes: int) -> bool:
    """Tell whether a file is there to be cut to `size_bytes`.

    One that was deleted is not: a run may go on without what it held, and a warning says so.

    Raises:
        LogShortError: If it is there, and shorter.
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
    """Say that a file to which the run wrote before is not there."""
    warnings.warn(
        f"{path} is not there any more: the run goes on, without what it wrote to it before.",
        RuntimeWarning,
        stacklevel=2,
    )
