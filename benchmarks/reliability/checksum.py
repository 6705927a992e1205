"""What a checksum adds to writing 100 MB and flushing them to the disk.

    python -m benchmarks.reliability.checksum [--rounds 15] [--mbytes 100] [--directory DIR]

Each candidate is taken in two ways: of each chunk before it is written, and in a thread of its own
beside the writing. The last row is what a checkpoint does. Times are medians of rounds in which
all run in turn; the processor time tells what is taken from a training that goes on meanwhile.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "numpy")  # nothing is computed here

import numpy as np
import xxhash
from benchmarks.timing import in_turn, median_interval, paired_ratios

from perigee.checkpoints import _files

CHUNK_BYTES = 2**20
LIMIT = 1.15


class TwoOfZlib:
    """CRC-32 and Adler-32 together: 64 bits of Python's own library."""

    def __init__(self) -> None:
        self.values = 0, 1

    def update(self, chunk: memoryview) -> None:
        crc, adler = self.values
        self.values = zlib.crc32(chunk, crc), zlib.adler32(chunk, adler)


class CrcAndSum:
    """CRC-32, and the sum of the 64-bit words by NumPy: 96 bits."""

    def __init__(self) -> None:
        self.crc = self.total = 0

    def update(self, chunk: memoryview) -> None:
        self.crc = zlib.crc32(chunk, self.crc)
        self.total += int(np.add.reduce(np.frombuffer(chunk, "<u8"), dtype=np.uint64))


CANDIDATES: dict[str, Callable[[], Any]] = {
    "xxh3_128": xxhash.xxh3_128,
    "crc32 + sum": CrcAndSum,
    "crc32 + adler32": TwoOfZlib,
    "sha1": hashlib.sha1,
    "sha256": hashlib.sha256,
    "blake2b": hashlib.blake2b,
}


def chunks(data: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


def write(path: Path, data: memoryview, checksum: Any = None) -> None:
    """Write and flush a file, with the checksum of each chunk before it."""
    with path.open("wb") as file:
        for chunk in chunks(data):
            if checksum is not None:
                checksum.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def write_beside(path: Path, data: memoryview, checksum: Any) -> None:
    """Write and flush a file while a thread takes its checksum."""

    def take() -> None:
        for chunk in chunks(data):
            checksum.update(chunk)

    with ThreadPoolExecutor(1) as thread:
        taken = thread.submit(take)
        write(path, data)
        taken.result()


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--mbytes", type=float, default=100)
    parser.add_argument("--directory", help="where to write; the disk counts")
    arguments = parser.parse_args()
    size_bytes = int(arguments.mbytes * 1e6) // CHUNK_BYTES * CHUNK_BYTES
    random = np.random.default_rng(0)
    data = random.integers(0, 256, size_bytes, np.uint8).data
    with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
        path = Path(folder, "data")
        processor: dict[str, list[float]] = {}

        def measured(name: str, run: Callable[[], object]) -> Callable[[], None]:
            processor[name] = []

            def timed() -> None:
                began = time.process_time()
                run()
                processor[name].append(time.process_time() - began)
                path.unlink()

            return timed

        runs = {"write and flush": measured("write and flush", lambda: write(path, data))}
        for name, make in CANDIDATES.items():
            for how, function in (("before", write), ("beside", write_beside)):
                label = f"{name}, {how}"
                runs[label] = measured(label, lambda f=function, m=make: f(path, data, m()))
        runs["a checkpoint's file"] = measured(
            "a checkpoint's file", lambda: _files.write_file(path, [data])
        )
        in_turn(runs, 2)
        for values in processor.values():
            values.clear()
        seconds = in_turn(runs, arguments.rounds)
    plain = seconds["write and flush"]
    print(f"{size_bytes / 1e6:.0f} MB, {arguments.rounds} rounds, {os.cpu_count()} cores")
    print(f"{'':26}{'ms':>7}{'ratio':>8}{'95% interval':>16}{'processor ms':>15}")
    for name, values in seconds.items():
        ratios = paired_ratios(values, plain)
        low, high = median_interval(ratios)
        print(
            f"{name:26}{statistics.median(values) * 1e3:7.0f}{np.median(ratios):8.2f}"
            f"{f'{low:.2f} to {high:.2f}':>16}{statistics.median(processor[name]) * 1e3:15.0f}"
        )
    ratio = float(np.median(paired_ratios(seconds["a checkpoint's file"], plain)))
    print(f"A checkpoint's file takes {ratio:.2f} of writing and flushing; the limit is {LIMIT}.")


if __name__ == "__main__":
    main()
