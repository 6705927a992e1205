"""Files with a checksum: flushed when written, verified when read."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
import xxhash

_CHUNK_BYTES = 2**20  # small enough to stay in the cache between checksum and write
_ALGORITHM = "xxh3_128"


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file's identity: its size and checksum.

    Attributes:
        size_bytes: Its size.
        checksum: Its checksum, prefixed by the name of the algorithm.
    """

    size_bytes: int
    checksum: str


def checksum_of(parts: Sequence[memoryview | bytes]) -> str:
    """Return the checksum of several parts.

    128 bits that detect damage, not an attacker, who would write the checksum too. It costs a ninth
    of writing and flushing; nothing in Python's own library with at least 64 bits costs less than
    the writing itself (`benchmarks/reliability/checksum.py`).
    """
    checksum = xxhash.xxh3_128()
    for part in parts:
        checksum.update(part)
    return f"{_ALGORITHM}:{checksum.hexdigest()}"


def write_file(path: Path, parts: Sequence[memoryview | bytes]) -> Stamp:
    """Write a new file, flush it to the disk, and return its identity.

    Raises:
        OSError: If the system call fails.
    """
    checksum = xxhash.xxh3_128()
    size_bytes = 0
    with path.open("xb") as file:
        for chunk in _chunks(parts):
            checksum.update(chunk)
            size_bytes += file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return Stamp(size_bytes, f"{_ALGORITHM}:{checksum.hexdigest()}")


def read_file(path: Path, stamp: Stamp) -> np.ndarray:
    """Return the bytes of a file that matches its stamp, shape `(size,)`, uint8.

    Raises:
        OSError: If the system call fails, or it is a link.
        ValueError: If it is not a regular file, or does not match the stamp, saying why.
        MemoryError: If there is not enough memory.
    """
    with _open(path) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes != stamp.size_bytes:
            raise ValueError(f"it has {size_bytes:,} bytes instead of {stamp.size_bytes:,}")
        content = np.empty(stamp.size_bytes, np.uint8)
        checksum = xxhash.xxh3_128()
        for chunk in _chunks([content.data]):
            while chunk:
                count = file.readinto(chunk)
                if not count:
                    raise ValueError("it ends early")
                checksum.update(chunk[:count])
                chunk = chunk[count:]
    if f"{_ALGORITHM}:{checksum.hexdigest()}" != stamp.checksum:
        raise ValueError("checksum mismatch")
    return content


def read_small_file(path: Path, most_bytes: int) -> bytes:
    """Return the bytes of a file that has no stamp.

    Raises:
        OSError: If the system call fails, or it is a link.
        ValueError: If it is not a regular file, or longer than `most_bytes`.
    """
    with _open(path) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes > most_bytes:
            raise ValueError(f"it has more than {most_bytes:,} bytes")
        return file.read(size_bytes)


def _chunks(parts: Sequence[memoryview | bytes]) -> Iterator[memoryview]:
    for part in parts:
        view = memoryview(part)
        for start in range(0, len(view), _CHUNK_BYTES):
            yield view[start : start + _CHUNK_BYTES]


def _open(path: Path) -> BufferedReader:
    # A link would lead elsewhere, and a pipe would wait for a writer. Not every system has these.
    flags = [getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY")]
    file = os.fdopen(os.open(path, os.O_RDONLY | sum(flags)), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("it is not a regular file")
    return file
