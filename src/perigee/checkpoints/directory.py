"""The checkpoints of a run: saved atomically, a few kept, the newest intact one found."""

import math
import os
import re
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from perigee._disk import flush_directory, new_thread, within
from perigee._errors import (
    ArgumentError,
    CheckpointSaveError,
    CheckpointVersionError,
    DamagedCheckpointError,
    NoCheckpointError,
)
from perigee._events.better import Mode, better_mode
from perigee._events.clock import Clock
from perigee.checkpoints import content
from perigee.checkpoints.content import Content, Monitored, Prepared
from perigee.checkpoints.lock import RunLock

_NAME = re.compile("step-[0-9]{8,19}")
# The second forms are those of version 0.1.
_UNFINISHED = re.compile(r"(unfinished|step)-[0-9]{8,19}\.[0-9a-f]{32}\.tmp")
_REPLACED = re.compile(r"(replaced|step)-[0-9]{8,19}\.old")

_GRACE_SECS = 1.0
"""How long the directory may be missing before it is made again."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint that was read.

    Attributes:
        content: Its content.
        path: Its directory.
        monitored: The value by which it is compared; `None` if there is none.
        passed_over: Damaged checkpoints that would have been loaded before it.
    """

    content: Content
    path: Path
    monitored: float | None
    passed_over: tuple[DamagedCheckpointError, ...]


class Checkpoints:
    """The directory `checkpoints` of a run, with one directory for each step that was saved.

    A checkpoint is written under a temporary name, flushed to the disk and then renamed: a process
    that is killed, or a machine that loses power, at any instant leaves all of it or nothing. Older
    ones are removed only after the new one is complete, and so are those of later steps: they
    belong to a course of the run that was abandoned for an earlier checkpoint. What was not written
    here is never removed: other files and directories, links, and checkpoints to which something
    was added. One of these in the place of a new checkpoint is renamed to `set-aside-...`. The
    checkpoint of step 0, from before the first step, is removed as soon as there is another one.

    Args:
        directory: The directory; the first save creates it, with its parents.
        keep: The number of newest checkpoints to keep, at least 1; `None` for all.
        best: The name of a value, such as `"val_loss"`, by which to keep the best one as well.
        mode: Whether low or high values are better; `None` derives it from the name.
        lock: The lock of the writing process. If given, remains of killed processes are removed.
        check: Called before each save, to find the directory above, which is then not created; may
            raise an `OSError`.

    Attributes:
        removal_error: Why the last save could not remove old checkpoints; `None` where it could.
        times_made_again: How often a save found the directory missing after an earlier one.

    Raises:
        ArgumentError: If `keep` is less than 1, or `mode` cannot be derived from the name.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int | None = 3,
        best: str | None = None,
        mode: Mode | None = None,
        lock: RunLock | None = None,
        check: Callable[[], object] | None = None,
    ) -> None:
        if keep is not None and keep < 1:
            raise ArgumentError("keep", str(keep), "1 or more.", "pass `None` to keep all.")
        self._place = within(directory)
        self._keep = keep
        self._best = best
        self._sign = 0 if best is None else _sign(best, mode)
        self._thread: ThreadPoolExecutor | None = None
        self._under_way: Future[None] | None = None
        self._is_writer = lock is not None
        self._check = check
        self._has_saved = False
        self.removal_error: OSError | None = None
        self.times_made_again: int = 0
        if lock is not None:
            self._clear_remains()

    @property
    def directory(self) -> Path:
        """The directory, wherever it is now."""
        return Path(self._place)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Saving.

    def save(
        self, saved: Content, monitored: float | None = None, *, background: bool = False
    ) -> Path:
        """Save a checkpoint, replacing one of the same step, if any.

        At most one save runs at a time: a further one waits for it. In the background, everything
        except `saved.arrays` is copied first and the rest happens in a thread; an error is raised
        by the next call, which then does nothing else. It waits for the futures in the facts of
        `saved` before the checkpoint gets its name.

        Args:
            saved: The content to save. Its arrays must not change until it is saved.
            monitored: The current value of `best`, if there is one; NaN is never the best.
            background: Whether to return before it is saved.

        Returns:
            Its directory.

        Raises:
            CheckpointSaveError: If the system refuses, now or in the previous save. No checkpoint
                is lost, and nothing of the new one remains.
            CheckpointContentError: If it holds something that cannot be stored.
            ArgumentError: If `monitored` is given without a name for it.
        """
        self.wait()
        if monitored is not None and self._best is None:
            raise ArgumentError(
                "monitored", str(monitored), "`best` to name it.", "pass `best=` as well."
            )
        named = None
        if self._best is not None and monitored is not None:
            named = Monitored(self._best, float(monitored))
        prepared = content.prepare(saved, named)
        step = saved.clock.step
        if background:
            self._thread = self._thread or new_thread("perigee-checkpoints")
        if background and self._thread is not None:
            self._under_way = self._thread.submit(self._write, step, prepared)
        else:
            self._write(step, prepared)
        return self.path_of(step)

    @property
    def criterion(self) -> dict[str, str] | None:
        """By which value the best one is kept, for the facts of a checkpoint."""
        if self._best is None:
            return None
        return {"name": self._best, "mode": "min" if self._sign > 0 else "max"}

    @property
    def has_failed(self) -> bool:
        """Whether a save in the background has failed, which `wait` will raise."""
        done = self._under_way
        return done is not None and done.done() and done.exception() is not None

    def is_better(self, value: float, than: float | None) -> bool:
        """Return whether a value of `best` is better than another; NaN never is.

        Args:
            value: The value.
            than: The other value; `None` if there is none yet.
        """
        if math.isnan(value):
            return False
        return than is None or math.isnan(than) or self._sign * value < self._sign * than

    def wait(self) -> None:
        """Wait for the current save, if any.

        Raises:
            CheckpointSaveError: If the save failed.
        """
        if self._under_way is not None:
            wait([self._under_way])
            done, self._under_way = self._under_way, None
            done.result()

    def close(self) -> None:
        """Wait like `wait`, and end the thread."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None

    def _write(self, step: int, prepared: Prepared) -> None:
        try:
            if self._is_writer:
                self._clear_unfinished()  # of a save that failed, if the system refused that too
            try:
                self._write_once(step, prepared)
            except FileNotFoundError:  # the directory was deleted or renamed meanwhile
                self._write_once(step, prepared)
        except OSError as error:
            path = str(self.path_of(step))
            raise CheckpointSaveError(path, prepared.size_bytes, error) from error
        self.removal_error = None
        try:
            self._remove_old(step)
        except OSError as error:
            self.removal_error = error

    def _write_once(self, step: int, prepared: Prepared) -> None:
        if self._check is not None:
            self._check()
        beside = self._unfinished(step)
        try:
            if not self.directory.is_dir():
                if self._check is not None and self._has_saved:
                    time.sleep(_GRACE_SECS)  # the whole run is perhaps being deleted
                    self._check()
                self.directory.mkdir(parents=self._check is None, exist_ok=True)
                flush_directory(self.directory.parent)
                self.times_made_again += self._has_saved
            content.write(beside, prepared)
            self._publish(beside, self.path_of(step))
            self._has_saved = True
        finally:
            # It still exists if something failed, including a keyboard interrupt.
            content.remove(beside)

    def _publish(self, beside: Path, place: Path) -> None:
        is_own = content.is_own(place)
        aside = place.with_name(f"replaced-{place.name.removeprefix('step-')}.old")
        if not is_own or os.path.lexists(aside):
            aside = _set_aside(place)
        is_taken = os.path.lexists(place)
        if is_taken:  # no system renames a directory over a nonempty one
            place.rename(aside)  # if the process is killed here, `_clear_remains` handles it
        try:
            beside.rename(place)
        except BaseException:
            if is_taken:
                aside.rename(place)
            raise
        flush_directory(self.directory)
        if is_taken and is_own:
            content.remove(aside)

    def _remove_old(self, step: int) -> None:
        steps = [each for each in self.steps() if content.is_own(self.path_of(each))]
        past = [each for each in steps if each <= step and (each or not step)]
        kept = set(past if self._keep is None else past[-self._keep :])
        if self._best is not None:
            ranked = self._by_value(past, [], self._best, self._sign)
            kept.update(each for each, _ in ranked[:1])
        for each in steps:
            if each not in kept:
                self._remove(each)

    def remove_first(self) -> None:
        """Remove the checkpoint of step 0; one to which something was added is renamed instead."""
        place = self.path_of(0)
        if content.is_own(place):
            self._remove(0)
        elif os.path.lexists(place):
            place.rename(_set_aside(place))

    def _remove(self, step: int) -> None:
        # Atomically: half a checkpoint would be reported as damaged.
        gone = self._unfinished(step)
        self.path_of(step).rename(gone)
        content.remove(gone)

    def _clear_remains(self) -> None:
        for aside in filter(content.is_own, self._named(_REPLACED)):
            place = aside.with_name(f"step-{aside.stem.rpartition('-')[2]}")
            if not os.path.lexists(place):
                aside.rename(place)
            else:
                content.remove(aside)
        self._clear_unfinished()

    def _clear_unfinished(self) -> None:
        for remains in self._named(_UNFINISHED):
            content.remove(remains)

    def _named(self, pattern: re.Pattern[str]) -> list[Path]:
        try:  # a run that begins again may clear the directory at any instant
            names = os.listdir(self.directory)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [self.directory / name for name in sorted(names) if pattern.fullmatch(name)]

    def _unfinished(self, step: int) -> Path:
        """Return a new name for a directory that is not, or no longer, a checkpoint."""
        return self.directory / f"unfinished-{step:08d}.{uuid.uuid4().hex}.tmp"

    # Loading.

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints in order, including damaged ones."""
        steps = sorted(int(path.name.removeprefix("step-")) for path in self._named(_NAME))
        return [step for step in steps if os.path.lexists(self.path_of(step))]

    def newest(self) -> Loaded | None:
        """Return the newest intact checkpoint; `None` if there are no checkpoints.

        Raises:
            NoCheckpointError: If all are damaged, naming them.
            CheckpointVersionError: If a later version of Perigee wrote the newest one.
            CheckpointSaveError: If the current save fails.
        """
        self.wait()
        steps = self.steps()
        return self._first_intact("newest", steps[::-1], []) if steps else None

    def load(self, which: Literal["newest", "best"] | int = "newest") -> Loaded:
        """Return a checkpoint, verified by its checksums.

        Args:
            which: `"newest"`, `"best"`, or the number of a step. For the first two, damaged ones
                are skipped. Without a name for the best, the newest checkpoints say it.

        Raises:
            NoCheckpointError: If there is none, or all are damaged.
            DamagedCheckpointError: If the one of that step is damaged.
            CheckpointVersionError: If a later version of Perigee wrote it.
            ArgumentError: If `which` is invalid, or nothing says which value decides.
            CheckpointSaveError: If the current save fails.
        """
        self.wait()
        steps = self.steps()
        if which == "newest":
            return self._first_intact("newest", steps[::-1], [])
        if which == "best":
            damaged: list[DamagedCheckpointError] = []
            name, sign = self._decides(steps)
            if name is None:
                if not steps:
                    raise NoCheckpointError(str(self.directory), "best", [], [])
                raise ArgumentError(
                    "which",
                    "'best'",
                    "a run that was trained with `best=`, such as `best='val_loss'`: its "
                    "checkpoints say by which value they are compared, and these do not.",
                    "pass 'newest', or the number of a step.",
                )
            ranked = [step for step, _ in self._by_value(steps, damaged, name, sign)]
            return self._first_intact(f"best by {name}", ranked, damaged)
        if type(which) is not int:
            raise ArgumentError(
                "which",
                repr(which),
                "'newest', 'best' or a step.",
                "pass 'newest' for the last one.",
            )
        if which not in steps:
            raise NoCheckpointError(str(self.directory), f"step {which}", steps, [])
        return self._read(which, [])

    def best(self) -> tuple[Monitored, Clock, Path] | None:
        """Return the value of the best checkpoint, its progress and where it is, if there is one.

        Only the manifest is read, so it may turn out to be damaged.
        """
        steps = self.steps()
        try:
            name, sign = self._decides(steps)
            ranked = [] if name is None else self._by_value(steps, [], name, sign)
            for step, _ in ranked[:1]:
                manifest = content.read_manifest(self.path_of(step))
                if manifest.monitored is not None:
                    return manifest.monitored, manifest.clock, self.path_of(step)
        except (ArgumentError, DamagedCheckpointError, CheckpointVersionError):
            pass  # nothing says what is best, or it is changed by another process
        return None

    def _decides(self, steps: list[int]) -> tuple[str | None, int]:
        """Return the value that decides which one is best, and its sign; `None` if nothing says.

        Raises:
            ArgumentError: If low or high values may be better.
        """
        if self._best is not None:
            return self._best, self._sign
        old: str | None = None  # of a checkpoint that names the value alone
        for step in reversed(steps):
            try:
                manifest = content.read_manifest(self.path_of(step))
            except DamagedCheckpointError:
                continue
            match manifest.facts.get("criterion"):
                case {"name": str(name), "mode": "min" | "max" as mode}:
                    return name, _sign(name, mode)
                case _:
                    monitored = manifest.monitored
                    old = old or (None if monitored is None else monitored.name)
        return (None, 0) if old is None else (old, _sign(old, None))

    def _first_intact(
        self, which: str, steps: list[int], damaged: list[DamagedCheckpointError]
    ) -> Loaded:
        for step in steps:
            try:
                return self._read(step, damaged)
            except DamagedCheckpointError as error:
                damaged.append(error)
        raise NoCheckpointError(str(self.directory), which, self.steps(), damaged)

    def _read(self, step: int, damaged: list[DamagedCheckpointError]) -> Loaded:
        path = self.path_of(step)
        held, manifest = content.read(path)
        if held.clock.step != step:
            reason = f"it belongs to step {held.clock.step}"
            raise DamagedCheckpointError(str(path), content.MANIFEST, reason)
        monitored = None if manifest.monitored is None else manifest.monitored.value
        return Loaded(held, path, monitored, tuple(damaged))

    def _by_value(
        self,
        steps: list[int],
        damaged: list[DamagedCheckpointError],
        name: str,
        sign: int,
    ) -> list[tuple[int, float]]:
        """Return steps with their values, the best first and the newest first among equals."""
        values: list[tuple[int, float]] = []
        for step in steps:
            try:
                found = content.read_manifest(self.path_of(step)).monitored
            except DamagedCheckpointError as error:
                damaged.append(error)
            else:
                if found and found.name == name and not math.isnan(found.value):
                    values.append((step, found.value))
        return sorted(values, key=lambda each: (sign * each[1], -each[0]))

    def path_of(self, step: int) -> Path:
        """Return the directory of a checkpoint, which need not exist.

        Args:
            step: Its step.
        """
        return self.directory / f"step-{step:08d}"


def _set_aside(place: Path) -> Path:
    """Return a new name for what is in the place of a checkpoint."""
    return place.with_name(f"set-aside-{place.name}-{uuid.uuid4().hex[:8]}")


def _sign(name: str, mode: Mode | None) -> int:
    mode = mode or better_mode(name)
    if mode not in ("min", "max"):
        raise ArgumentError(
            "best",
            repr(name),
            "a name that implies whether low or high values are better.",
            "pass `mode='min'` or `mode='max'`.",
        )
    return 1 if mode == "min" else -1
