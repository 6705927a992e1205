"""The content of a checkpoint, and its directory."""

import os
import stat
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perigee._disk import flush_directory
from perigee._errors import (
    CheckpointContentError,
    CheckpointVersionError,
    DamagedCheckpointError,
)
from perigee._events.clock import Clock
from perigee._events.stored_shapes import MOST_STEPS
from perigee.checkpoints import _files, _plain, _tensors
from perigee.checkpoints._files import Stamp

FORMAT_VERSION = 1

MANIFEST = "manifest.json"
STATE = "state.safetensors"
FACTS = "facts.safetensors"
POSITION = "data/position.json"
POSITION_ARRAYS = "data/arrays.safetensors"

_NEEDED = {STATE, POSITION}
_KNOWN = {*_NEEDED, FACTS, POSITION_ARRAYS}  # no other file is ever opened
_MOST_NUMBER = 2**63


@dataclass(frozen=True, slots=True)
class Content:
    """Everything that a run needs to resume.

    `facts` and `data` are strings, numbers (including those that are not finite), booleans, `None`
    and NumPy arrays, in dicts with strings as keys, and in lists; tuples become lists.

    Attributes:
        clock: The progress of the training.
        arrays: The state of the Step by key, as `arrays_of` returns it. Not copied, so it must not
            change until it is written.
        facts: All other state: hooks, histories, random state, host state.
        data: The position of the feed.
    """

    clock: Clock
    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Monitored:
    """The value by which checkpoints are compared.

    Attributes:
        name: The name of the logged value, such as `"val_loss"`.
        value: The value; may be NaN or infinite.
    """

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """Content that no longer changes: copied, or guaranteed to be constant.

    Attributes:
        head: The manifest without the files.
        files: By name, arrays or bytes.
    """

    head: Mapping[str, Any]
    files: Mapping[str, Mapping[str, np.ndarray] | bytes]

    def parts(self, name: str) -> list[memoryview]:
        """Return the bytes of a file, in parts."""
        held = self.files[name]
        return [memoryview(held)] if isinstance(held, bytes) else _tensors.encode(held)

    @property
    def size_bytes(self) -> int:
        """The total size of the files, without the manifest."""
        return sum(part.nbytes for name in self.files for part in self.parts(name))


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        clock: The progress of the training.
        monitored: The value by which it is compared; `None` if there is none.
        facts: The facts of `Content`, without their arrays.
        files: The identity of each file, by name.
    """

    clock: Clock
    monitored: Monitored | None
    facts: Mapping[str, Any]
    files: Mapping[str, Stamp]


def prepare(content: Content, monitored: Monitored | None = None) -> Prepared:
    """Prepare content to be written, possibly by another thread.

    Raises:
        CheckpointContentError: If it holds something that cannot be stored.
    """
    for key, array in content.arrays.items():
        if not _tensors.can_hold(array.dtype):
            raise CheckpointContentError(key, f"is an array of {array.dtype}")
    in_facts: dict[str, np.ndarray] = {}
    in_data: dict[str, np.ndarray] = {}
    facts = _plain.simplified(content.facts, "facts", in_facts)
    position = _plain.to_json(_plain.simplified(content.data, "data", in_data))
    _refuse_long("data", position)
    value = None if monitored is None else _plain.simplified(asdict(monitored), "monitored", {})
    # They are encoded in the thread, so that the caller need not wait.
    files: dict[str, Mapping[str, np.ndarray] | bytes]
    files = {STATE: dict(content.arrays), POSITION: position}
    if in_facts:
        files[FACTS] = in_facts
    if in_data:
        files[POSITION_ARRAYS] = in_data
    head = {
        "format_version": FORMAT_VERSION,
        "clock": asdict(content.clock),
        "monitored": value,
        "facts": facts,
    }
    return Prepared(head, files)


def write(directory: Path, prepared: Prepared) -> None:
    """Write content to a new directory, and flush it to the disk.

    Raises:
        OSError: If the system refuses; what was written remains.
        CheckpointContentError: If the facts without their arrays are too long to be read.
    """
    directory.mkdir()  # no more than that: whatever is above may just be deleted
    (directory / "data").mkdir()
    stamps = {
        name: asdict(_files.write_file(directory / name, prepared.parts(name)))
        for name in prepared.files
    }
    manifest = _sealed({**prepared.head, "files": stamps})
    _refuse_long("facts", manifest)
    _files.write_file(directory / MANIFEST, [manifest])
    flush_directory(directory / "data")
    flush_directory(directory)


def read(directory: Path) -> tuple[Content, Manifest]:
    """Return the content of a checkpoint, verified by its checksums.

    Nothing stored is executed or followed, and no more memory is allocated than the size of its
    files.

    Raises:
        DamagedCheckpointError: If it is damaged, naming the file.
        CheckpointVersionError: If a later version of Perigee wrote it.
    """
    manifest = read_manifest(directory)
    with _blamed(directory, "data"):
        _refuse_other_than_directory(directory / "data")
    files = {name: _read(directory, name, manifest) for name in manifest.files}
    tensors = {name: _arrays(directory, name, content) for name, content in files.items()}
    with _blamed(directory, MANIFEST):
        facts = _plain.restored(manifest.facts, tensors.get(FACTS, {}))
    with _blamed(directory, POSITION):
        if len(files[POSITION]) > _plain.MOST_BYTES:
            raise ValueError(f"it has more than {_plain.MOST_BYTES:,} bytes")
        data = _plain.from_json(files[POSITION].tobytes())
        if not isinstance(data, dict):
            raise ValueError("it is not a JSON object")
        data = _plain.restored(data, tensors.get(POSITION_ARRAYS, {}))
    return Content(manifest.clock, tensors[STATE], facts, data), manifest


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of a checkpoint, without reading the other files.

    Raises:
        DamagedCheckpointError: If it is damaged.
        CheckpointVersionError: If a later version of Perigee wrote it.
    """
    with _blamed(directory, MANIFEST):
        _refuse_other_than_directory(directory)
        raw = _files.read_small_file(directory / MANIFEST, _plain.MOST_BYTES)
        said = _plain.from_json(raw)
        if not isinstance(said, dict) or _sealed(said) != raw:
            raise ValueError("mismatch of its own checksum")
        version = said.get("format_version")
        if type(version) is not int or version < 1:
            raise ValueError("it has no valid format version")
        if version > FORMAT_VERSION:
            raise CheckpointVersionError(str(directory), version, FORMAT_VERSION)
        facts = said.get("facts")
        if not isinstance(facts, dict):
            raise ValueError("it holds no facts")
        return Manifest(
            _clock(said.get("clock")),
            _monitored(said.get("monitored")),
            facts,
            _stamps(said.get("files")),
        )


def is_own(directory: Path) -> bool:
    """Return whether a directory holds a checkpoint, perhaps damaged, and nothing else.

    Its files prove it, or, if some of them are missing, its manifest.
    """
    found = _files_in(directory)
    if found is None or not found <= {*_KNOWN, MANIFEST}:
        return False
    if found >= _NEEDED:
        return True
    try:
        read_manifest(directory)
    except (DamagedCheckpointError, CheckpointVersionError):
        return False
    return True


def remove(directory: Path) -> None:
    """Remove the files of a checkpoint, whole or in part, and its directory if no other is there.

    What the system refuses to remove remains.
    """
    found = _files_in(directory) or set()
    with suppress(OSError):
        for name in found & {*_KNOWN, MANIFEST}:
            (directory / name).unlink()
        if os.path.lexists(directory / "data"):
            (directory / "data").rmdir()
        directory.rmdir()


def _files_in(directory: Path) -> set[str] | None:
    """Return the files in a directory and in its `data`; `None` if it is no directory."""
    found: set[str] = set()
    try:
        _refuse_other_than_directory(directory)
        for entry in os.scandir(directory):
            if entry.name == "data" and entry.is_dir(follow_symlinks=False):
                found.update(f"data/{name}" for name in os.listdir(entry.path))
            else:
                found.add(entry.name)
    except (OSError, ValueError):
        return None
    return found


def _refuse_long(path: str, text: bytes) -> None:
    if len(text) > _plain.MOST_BYTES:
        raise CheckpointContentError(path, f"has {len(text):,} bytes that are not arrays")


def _sealed(said: Mapping[str, Any]) -> bytes:
    """Return the bytes of a manifest, which end with the checksum of its content."""
    rest = {key: value for key, value in said.items() if key != "checksum"}
    return _plain.to_json({**rest, "checksum": _files.checksum_of([_plain.to_json(rest)])})


@contextmanager
def _blamed(directory: Path, name: str) -> Generator[None]:
    """Raise `DamagedCheckpointError` with the name of the file."""
    try:
        yield
    except (CheckpointVersionError, DamagedCheckpointError):
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise DamagedCheckpointError(str(directory), name, reason) from error
    except RecursionError as error:
        raise DamagedCheckpointError(str(directory), name, "it is nested too deeply") from error
    except MemoryError as error:
        reason = "there is not enough memory for it"
        raise DamagedCheckpointError(str(directory), name, reason) from error
    except ValueError as error:
        raise DamagedCheckpointError(str(directory), name, str(error)) from error


def _read(directory: Path, name: str, manifest: Manifest) -> np.ndarray:
    with _blamed(directory, name):
        return _files.read_file(directory / name, manifest.files[name])


def _arrays(directory: Path, name: str, content: np.ndarray) -> dict[str, np.ndarray]:
    with _blamed(directory, name):
        return {} if name == POSITION else _tensors.decode(content)


def _refuse_other_than_directory(path: Path) -> None:
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise ValueError("it is not a directory")


def _clock(said: Any) -> Clock:
    if not isinstance(said, dict) or said.keys() != {"step", "epoch", "batch"}:
        raise ValueError("it has no clock")
    if not all(_is_count(number) for number in said.values()):
        raise ValueError("its clock has invalid counts")
    clock = Clock(**said)
    # Each finished epoch has a step at least.
    if clock.step >= MOST_STEPS or clock.epoch + clock.batch > clock.step:
        raise ValueError("its clock shows what no training reaches")
    return clock


def _monitored(said: Any) -> Monitored | None:
    if said is None:
        return None
    if not isinstance(said, dict) or said.keys() != {"name", "value"}:
        raise ValueError("it has no monitored value")
    value = _plain.restored(said["value"], {})
    if not isinstance(said["name"], str) or not isinstance(value, float):
        raise ValueError("it has no monitored value")
    return Monitored(said["name"], value)


def _stamps(said: Any) -> dict[str, Stamp]:
    if not isinstance(said, dict) or not _NEEDED <= said.keys() <= _KNOWN:
        raise ValueError(f"it names files other than {', '.join(sorted(_KNOWN))}")
    for stamp in said.values():
        if (
            not isinstance(stamp, dict)
            or stamp.keys() != {"size_bytes", "checksum"}
            or not _is_count(stamp["size_bytes"])
            or not isinstance(stamp["checksum"], str)
        ):
            raise ValueError("it does not describe its files")
    return {name: Stamp(**stamp) for name, stamp in said.items()}


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST_NUMBER
