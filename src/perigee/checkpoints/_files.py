"""Files with a checksum, flushed when they are written, looked at before they are read."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
import xxhash

_CHUNK_BYTES = 2**20  # small enough to be still in the cache when it is written after the checksum
_ALGORITHM = "xxh3_128"


@dataclass(frozen=True, slots=True)
class Stamp:
    """By what a file is known again.

    Attributes:
        size_bytes: How long it is.
        checksum: Of all of it, with the name of the algorithm in front.
    """

    size_bytes: int
    checksum: str


def checksum_of(parts: Sequence[memoryview | bytes]) -> str:
    """Return the checksum of what stands in several places.

    128 bits that tell damage, not an attacker: he would write the checksum too. It costs a ninth
    of writing and flushing; nothing in Python's own library with at least 64 bits costs less than
    the writing itself (`benchmarks/reliability/checksum.py`).
    """
    checksum = xxhash.xxh3_128()
    for part in parts:
        checksum.update(part)
    return f"{_ALGORITHM}:{checksum.hexdigest()}"


def write_file(path: Path, parts: Sequence[memoryview | bytes]) -> Stamp:
    """Write a new file, flush it to the disk, and return by what it is known again.

    Raises:
        OSError: If the system refuses.
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
    """Return the bytes of a file that is what its stamp says, shape `(size,)`, uint8.

    Raises:
        OSError: If the system refuses, or it is a link.
        ValueError: If it is no regular file, or not the one of the stamp, saying why.
        MemoryError: If there is no room for it.
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
        raise ValueError("its checksum is another one")
    return content


def read_small_file(path: Path, most_bytes: int) -> bytes:
    """Return the bytes of a file that has no stamp.

    Raises:
        OSError: If the system refuses, or it is a link.
        ValueError: If it is no regular file, or longer than `most_bytes`.
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
        raise ValueError("it is no regular file")
    return file
