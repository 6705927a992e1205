"""Records as TensorBoard events, written without TensorFlow."""

from __future__ import annotations

import io
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perigee._disk import check_folder, make_above, make_folder, within
from perigee._errors import MissingPackageError
from perigee._events.events import Ended, Hook, Recorded, Started
from perigee._events.stored_shapes import count, dict_of, fields
from perigee.writers._appended import (
    AppendedFile,
    check_length,
    is_lasting,
    make_own,
    warn_of_missing,
)

if TYPE_CHECKING:
    from perigee._step.shown import Histograms, Shown

DIRECTORY_NAME = "events"

_TRAIN, _VALIDATION = "train", "validation"
_SUFFIX = ".perigee"
_FILE = re.compile(rf"events\.out\.tfevents\.[0-9]{{10}}{re.escape(_SUFFIX)}")


class TensorBoard(Hook):
    """Write records as events for TensorBoard: `tensorboard --logdir runs`.

    Directories, tags and steps are those of `keras.callbacks.TensorBoard`, so that runs of both
    appear in one chart: `train` and `validation` hold `epoch_<name>` against the number of the
    epoch, from 0; `train` holds `batch_<name>` against the step for windows of steps, with metrics
    over the epoch so far as `batch_running/<name>`, and `validation` holds
    `evaluation_<name>_vs_iterations` for a validation in mid-epoch. Learning rates are among the
    values of `train`, and the configuration is a text there. Samples of `pg.sample` are images or
    texts under their own names.

    Each record is passed to the operating system in one write. TensorBoard's own asynchronous
    writer would import TensorFlow if that is installed.

    A resumed run keeps exactly the events from before the checkpoint, without those of an
    interrupted epoch. It continues in a new file, which makes a running TensorBoard drop the later
    steps, too.

    Args:
        directory: The run directory, which must exist when training starts; the events are written
            to its `events/`.
        configuration: Facts to show as a text, with the name of the Step and the numbers of epochs
            and steps.

    Raises:
        MissingPackageError: If the package `tensorboard` is not installed.
    """

    may_lag = True

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        configuration: Mapping[str, Any] | None = None,
    ) -> None:
        self._place = within(directory, DIRECTORY_NAME)
        self._configuration = dict(configuration or {})
        self._package = _Package()
        self._files: dict[str, AppendedFile] = {}
        self._kept: dict[str, int] = {}  # the size in bytes of every file of the run
        self._is_cut_due = False
        self._void_from: int | None = None
        self._under_way: Recorded | None = None
        self._done: set[str] = set()

    @property
    def path(self) -> Path:
        """The directory of the events, wherever it is now."""
        return Path(self._place)

    @property
    def missing(self) -> Path | None:
        """A file of this process that was deleted in training, if any."""
        return next((file.path for file in self._files.values() if file.is_missing), None)

    def restore(self) -> None:
        """Make the files of this process again, with all their events, where they were deleted.

        Raises:
            OSError: If they cannot be made.
        """
        for directory, file in self._files.items():
            make_above(self._place)
            make_folder(self.path)
            make_folder(self.path / directory)
            file.restore()

    def on_start(self, event: Started) -> None:
        """Open the file, so that a read-only directory is detected before step 1."""
        self._close()
        self._void_from = event.clock.step + 1 if self._is_cut_due else None
        there = self._names()
        if self._is_cut_due:
            for name in there:
                if name in self._kept:
                    make_own(self.path / name)
                    os.truncate(self.path / name, self._kept[name])
                else:
                    (self.path / name).unlink()
        self._is_cut_due = False
        if self._kept:
            self._file(_TRAIN)
        else:
            self._write(_TRAIN, 0, self._text(event))

    def on_record(self, event: Recorded) -> None:
        """Append one event, or one each for training and validation."""
        number = event.clock.step
        train, validation = "batch_{}", "evaluation_{}_vs_iterations"
        if event.scope == "epoch":
            number = event.clock.epoch - (event.clock.batch == 0)
            train = validation = "epoch_{}"
        summaries = {_TRAIN: self._package.Summary(), _VALIDATION: self._package.Summary()}
        for name, value in event.values.items():
            if name.startswith("val_"):
                directory, tag = _VALIDATION, validation.format(name.removeprefix("val_"))
            else:
                directory, tag = _TRAIN, train.format(name)
            summaries[directory].value.add(tag=_utf8(tag), simple_value=float(value))
        for name, shown in event.samples.items():
            is_validated = name.startswith("val_")
            summary = summaries[_VALIDATION if is_validated else _TRAIN]
            summary.MergeFrom(self._package.sample(_utf8(name.removeprefix("val_")), shown))
        if event is not self._under_way:  # retried after an error, it may be half written
            self._under_way, self._done = event, set()
        for directory, summary in summaries.items():
            if summary.value and directory not in self._done:
                self._write(directory, number, summary, lasts=is_lasting(event))
                self._done.add(directory)

    def on_end(self, event: Ended) -> None:
        """Close the files."""
        self._close()

    def state(self) -> dict[str, Any]:
        """Wait until the events are on the disk, and return the files to keep, with sizes."""
        for file in self._files.values():
            file.flush()
        return {"size_bytes": dict(self._kept)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue after the events that existed at `state`, from the next start.

        Raises:
            LogShortError: If one of the files is shorter than it was then.
        """
        fields({"size_bytes": dict_of(count(2**63))})(state, "events")
        names = self._names()  # no other file is touched
        self._kept = {}
        for name, size_bytes in state["size_bytes"].items():
            if name not in names:
                warn_of_missing(self.path / name)
            elif check_length(self.path / name, size_bytes):
                self._kept[name] = size_bytes
        self._is_cut_due = True

    def _write(self, directory: str, number: int, summary: Any, *, lasts: bool = True) -> None:
        file = self._file(directory)
        file.write(self._package.encode(step=number, summary=summary))
        if lasts:
            self._kept[f"{directory}/{file.path.name}"] = file.size_bytes

    def _file(self, directory: str) -> AppendedFile:
        """Return the file of a directory, created at its first use.

        Its number is the highest there, since readers read files in the order of their names.
        """
        if directory not in self._files:
            folder = self.path / directory
            make_above(self._place)
            make_folder(self.path)
            make_folder(folder)
            last = max(
                (name for name in self._names() if name.startswith(f"{directory}/")), default="0"
            )
            number = int("".join(filter(str.isdigit, last))) + 1
            name = f"events.out.tfevents.{number:010d}{_SUFFIX}"
            file = AppendedFile(within(self._place, directory, name))
            file.open()
            try:
                file.write(self._package.header(self._void_from))
            except OSError:
                file.close()
                file.path.unlink(missing_ok=True)
                raise
            self._files[directory] = file
            self._kept[f"{directory}/{file.path.name}"] = file.size_bytes
        return self._files[directory]

    def _names(self) -> list[str]:
        """Return the files that this class has created here, by directory and name, in order."""
        return [f"{path.parent.name}/{path.name}" for path in event_files(self.path)]

    def _text(self, event: Started) -> Any:
        facts = {
            "step": type(event.step).__name__,
            "epochs": event.epochs,
            "steps": event.steps,
            "steps_per_epoch": event.steps_per_epoch,
            **self._configuration,
        }
        shown = json.dumps(facts, indent=2, default=str, ensure_ascii=False)
        return self._package.text("configuration", _utf8(f"```json\n{shown}\n```"))

    def _close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}


def event_files(directory: Path) -> list[Path]:
    """Return the files that `TensorBoard` has written to a directory.

    Raises:
        FileKindError: If it, or a directory in it, is a link or a file.
    """
    found: list[Path] = []
    check_folder(directory)
    for folder in (directory / _TRAIN, directory / _VALIDATION):
        check_folder(folder)
        if folder.exists():
            found += (path for path in folder.iterdir() if _FILE.fullmatch(path.name))
    return sorted(found)


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


class _Package:
    """The used parts of the package `tensorboard`: its protocol, its records and checksums."""

    def __init__(self) -> None:
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.plugins.text.summary_v2 import text_pb
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError as error:
            raise MissingPackageError("tensorboard", "TensorBoard's events") from error
        self.Summary, self.text = Summary, text_pb
        self._event, self._session_log, self._record_writer = Event, SessionLog, RecordWriter

    def sample(self, tag: str, shown: Shown) -> Any:
        """Return an image or texts as a summary."""
        from perigee._step.shown import Histograms, Images  # needs NumPy

        if isinstance(shown, Histograms):
            return self._histograms(tag, shown)
        if not isinstance(shown, Images):
            texts = "\n\n".join(shown.texts)
            return self.text(tag, _utf8(texts))
        height, width, channels = shown.grid.shape
        summary = self.Summary()
        image = summary.value.add(tag=tag).image
        image.height, image.width, image.colorspace = height, width, channels
        image.encoded_image_string = shown.content()
        return summary

    def _histograms(self, tag: str, shown: Histograms) -> Any:
        summary = self.Summary()
        for name, (edges, counts) in shown.bins.items():
            middles = (edges[1:] + edges[:-1]) / 2
            found = summary.value.add(tag=_utf8(f"{tag}/{name}")).histo
            found.min, found.max, found.num = edges[0], edges[-1], counts.sum()
            found.sum, found.sum_squares = counts @ middles, counts @ middles**2
            found.bucket_limit.extend(edges[1:])
            found.bucket.extend(counts)
        return summary

    def encode(self, **fields: Any) -> bytes:
        """Return one event as a record with checksums."""
        buffer = io.BytesIO()
        event = self._event(wall_time=time.time(), **fields)
        self._record_writer(buffer).write(event.SerializeToString())
        return buffer.getvalue()

    def header(self, first_step: int | None) -> bytes:
        """Return the header of a file; it makes readers drop events from `first_step` or later."""
        version = self.encode(file_version="brain.Event:2")
        if first_step is None:
            return version
        start = self._session_log(status=self._session_log.START)
        return version + self.encode(step=first_step, session_log=start)
