"""Opening the directory of a run: who may write to it, and from where it is resumed."""

from __future__ import annotations

import errno
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import fspath
from pathlib import Path
from typing import Any

import keras

from perigee import _backends
from perigee._disk import Place
from perigee._errors import (
    CheckpointContentError,
    CheckpointSaveError,
    DamagedCheckpointError,
    DataChangedError,
    NoCheckpointError,
    RunArgumentError,
    RunExistsError,
    RunFileError,
    StateMismatchError,
    StepAheadError,
)
from perigee._events.clock import Clock
from perigee._events.events import BY_CALLBACK, INTERRUPTIONS
from perigee._events.protocols import Feed, Source
from perigee._events.stored_shapes import loading
from perigee._execution import Execution, Plan
from perigee._processes.process import LOCK_NAME
from perigee._runs.belongings import check_directory, set_aside
from perigee._runs.changes import adapted
from perigee._runs.facts import check_facts
from perigee._runs.run import Run, checkpoints_of, warn_of_damage
from perigee._step.state import Tracked, snapshot, track
from perigee._step.step import Step
from perigee._step.updates import counter_of, internals
from perigee.checkpoints import (
    Checkpoints,
    Loaded,
    RunLock,
    content,
    load_arrays,
    random_state,
    set_random_state,
)
from perigee.checkpoints.state import load_gradients, load_objects, savable_objects, unlike
from perigee.data import PassFeed
from perigee.writers.failures import Failures
from perigee.writers.history import Best
from perigee.writers.run_directory import FILE_NAME as RUN_NAME
from perigee.writers.run_directory import read_run
from perigee.writers.tensorboard import TensorBoard


@dataclass(frozen=True, slots=True)
class Draws:
    """Random states of the host, of which the order of data may depend.

    Attributes:
        opened: When the data was first opened.
        resumed: Where its next batch is drawn.
    """

    opened: Mapping[str, Any]
    resumed: Mapping[str, Any]


class OpenRun:
    """A run that this process holds, and the checkpoint from which it is resumed.

    Args:
        run: What the user passed.
        step: The Step that is trained.
        seed: The seed for the order of the data; `None` if it has none.
        is_seed_given: Whether the user passed this seed.
        is_writer: Whether this process writes; of several that train together, one does.

    Attributes:
        run: What the user passed.
        step: The Step that is trained.
        seed: The seed for the order of the data: that of the run.
        place: The directory, which may move.
        failures: What could not be written, counted.
        is_writer: Whether this process writes.
        checkpoints: Those of the run.
        loaded: The newest intact checkpoint, or `None` where the run is new.
        events: Writes TensorBoard's files, or `None`.
        other_data: How the data differs from that whose position was saved, or `None`.

    Raises:
        RunInUseError: If a living process writes to the directory.
        ForeignFilesError: If the directory holds files of a run's names, but no run.
        FileKindError: If one of its files is a link, or not what a run writes.
        RunExistsError: If there is a run, and it must not be resumed.
        NoCheckpointError: If there is no checkpoint, and there must be one.
        RunArgumentError: If the run has another seed than the user passed.
    """

    def __init__(
        self,
        run: Run,
        step: Step,
        seed: int | None,
        *,
        is_seed_given: bool = False,
        is_writer: bool = True,
    ) -> None:
        self.run, self.step, self.seed = run, step, seed
        self.place = Place(fspath(run.path))
        self.failures = Failures()
        self.is_writer = is_writer
        self._unloaded: Mapping[str, Any] | None = None
        self.other_data: DataChangedError | None = None
        if is_writer and check_directory(self.path) and run.resume == "never":
            raise RunExistsError(str(self.path), RUN_NAME)
        self._is_new = not self.path.exists()
        self._lock = RunLock(self.place) if is_writer else None
        try:
            if is_writer:
                self.place.hold(self._claim)
            self.checkpoints: Checkpoints = checkpoints_of(
                run, self._lock, self.place, self.find if is_writer else None
            )
            self.loaded: Loaded | None = self._load()
            if self.loaded is not None:
                saved = self.loaded.content.facts["seed"]
                if is_seed_given and saved != seed:
                    raise RunArgumentError(str(self.path), "seed", repr(saved), repr(seed))
                self.seed = saved
            # The package may be missing, which is said before anything is written.
            writes_events = run.tensorboard and is_writer
            self.events: TensorBoard | None = TensorBoard(self.place) if writes_events else None
        except BaseException:
            self._release()
            raise

    @property
    def path(self) -> Path:
        """The directory, wherever it is now."""
        return self.place.path

    def find(self) -> None:
        """Find the directory where it was renamed, or make it again where it was deleted.

        Raises:
            OSError: If that is not possible.
        """
        found = self.place.check()
        if found is not None:
            self.failures.count("directory")
            self.failures.say(found)

    def _claim(self) -> None:
        """Take the lock in a directory that was made again."""
        others = set(os.listdir(self.path)) - {LOCK_NAME}
        if others:
            taken = "it was deleted in training, and something else is in its place"
            raise FileExistsError(errno.EEXIST, taken, str(self.path))
        assert self._lock is not None
        self._lock.renew()

    @property
    def resumed_at(self) -> tuple[Clock, str | None] | None:
        """Where training stood, and why nothing was left to train; `None` where the run is new."""
        if self.loaded is None:
            return None
        return self.loaded.content.clock, self.loaded.content.facts["finished"]

    @property
    def loop_state(self) -> Mapping[str, Any] | None:
        """What the loop saved of itself; `None` where the run is new."""
        return None if self.loaded is None else self.loaded.content.facts["loop"]

    @property
    def origin(self) -> str | None:
        """The checkpoint that was loaded, or `None`."""
        return None if self.loaded is None else str(self.loaded.path)

    @property
    def plan(self) -> Plan | None:
        """The plan of the run that was loaded; `None` where there is none for this framework."""
        if self.loaded is None or self.loaded.content.facts["plan"] is None:
            return None
        if self.loaded.content.facts["backend"] != _backends.current().name:
            return None
        return Plan.remembered(self.loaded.content.facts["plan"])

    def best(self) -> Best | None:
        """Return the best checkpoint so far; `None` without one, or without `best`."""
        found = None if self.run.best is None else self.checkpoints.best()
        if found is None:
            return None
        monitored, clock, path = found
        return Best(monitored.name, monitored.value, clock, path)

    @property
    def devices(self) -> int:
        """The number of devices on which the Step is trained together."""
        replicas = internals(self.step).replicas
        if replicas is not None:
            return replicas.count
        spread = keras.distribution.distribution()
        return 1 if spread is None else math.prod(spread.device_mesh.shape)

    def inexact(self) -> list[str]:
        """Return why the run that was loaded resumes inexactly here: it was trained elsewhere."""
        if self.loaded is None:
            return []
        facts, name, found = self.loaded.content.facts, _backends.current().name, list[str]()
        if facts["backend"] != name:
            found.append(
                f"the framework, {facts['backend']} then and {name} now: each draws other random "
                "numbers from the same seeds and rounds differently, and the way to run the step "
                "is chosen again"
            )
        then = facts.get("devices", self.devices)  # of a run of version 0.1, nobody knows
        if then != self.devices:
            found.append(
                f"the devices, {then} then and {self.devices} now: sums are rounded in another "
                "order"
                # JAX computes over several devices what one would.
                + (
                    ""
                    if name == "jax"
                    else "; replicas draw their own random numbers, and take "
                    "statistics, as in BatchNormalization, of their own rows"
                )
            )
        return found

    def finished(self, epochs: int | None, steps: int | None) -> str | None:
        """Return why the run that was loaded has nothing left to train; `None` where it has.

        Args:
            epochs: How many there are to be in all now, which may be more than there were.
            steps: The same of steps.
        """
        if self.resumed_at is None:
            return None
        clock, reason = self.resumed_at
        if self.run.resume == "past_stop":
            reason = None
        if steps is not None and clock.step >= steps:
            return "steps"
        if epochs is not None and clock.epoch >= epochs:
            return "epochs"
        return None if reason in ("epochs", "steps") else reason

    @property
    def was_stopped_by_callback(self) -> bool:
        """Whether a callback stopped the training that was loaded."""
        return self.resumed_at is not None and self.resumed_at[1] == BY_CALLBACK

    @property
    def ended(self) -> str | None:
        """When the training that was loaded ended; `None` if a kill or a signal cut its end off."""
        facts = _facts(self.path)
        ended, reason = facts.get("ended"), facts.get("stop_reason")
        return ended if isinstance(ended, str) and reason not in INTERRUPTIONS else None

    def check_execution(self, execution: Execution) -> None:
        """Refuse another way to run the step than that of the run.

        Raises:
            RunArgumentError: If another one was passed.
        """
        plan = self.plan
        if plan is None:
            return
        path, mode, fuses = str(self.path), execution.given_mode, execution.fuses
        if mode is not None and mode != plan.mode:
            raise RunArgumentError(path, "execution", repr(plan.mode), repr(mode))
        if fuses is not None and fuses != plan.is_fused:
            counts = {True: "more than 1, or 'auto'", False: "1"}
            raise RunArgumentError(path, "steps_per_call", counts[plan.is_fused], counts[fuses])

    @property
    def saved_rates(self) -> Mapping[str, float] | None:
        """The learning rates that the program stated when the checkpoint was saved, by optimizer.

        `None` where they were not saved.
        """
        said = None if self.loaded is None else self.loaded.content.facts.get("stated_rates")
        if not isinstance(said, Mapping):
            return None
        return {path: rate for path, rate in said.items() if isinstance(rate, float)}

    @property
    def saved_settings(self) -> Mapping[str, Any] | None:
        """What the program stated of the framework's own objects when the checkpoint was saved.

        `None` where that was not saved.
        """
        said = None if self.loaded is None else self.loaded.content.facts.get("stated_settings")
        return said if isinstance(said, Mapping) else None

    def restore_data(self, feed: Source) -> Draws:
        """Bring the data to where it was saved, and look at its next batch.

        Data that is drawn again up to there may draw from the global generators, which are then
        as they were when it was first opened. Other data begins with the pass that would have been
        next, which is for `compared` to accept or refuse.
        """
        opened = random_state()
        if self.loaded is not None:
            facts = self.loaded.content.facts
            if facts["began"] is not None:
                opened = facts["began"]
                set_random_state(opened)
            try:
                feed.load_state(self.loaded.content.data)
            except DataChangedError as error:
                if not isinstance(feed, PassFeed) or "passes" not in self.loaded.content.data:
                    raise  # a loop of the user's own has no passes
                self.other_data = error
                feed.begin_pass(self.loaded.content.clock.epoch)
            set_random_state(facts["random"])
        feed.peek()
        return Draws(opened, random_state())

    def restore_validation(self, feed: Feed) -> None:
        """Let validations have the orders that come next, where each has one of its own."""
        if self.loaded is not None:
            feed.begin_after(self.loaded.content.facts["validations"])

    def check_step(self, is_built: bool) -> None:
        """Check that the Step can be given the state that was saved.

        Args:
            is_built: Whether it is built; otherwise what it has so far is checked.

        Raises:
            StateMismatchError: If it is another one.
        """
        if self.loaded is not None:
            tracked = track(self.step)
            found = unlike(tracked, self._arrays(self.loaded, tracked))
            unexpected = found.unexpected if is_built else ()
            if found.missing or unexpected or found.different:
                raise StateMismatchError(found.missing, unexpected, found.different)

    def _arrays(self, loaded: Loaded, tracked: Tracked) -> Mapping[str, Any]:
        return adapted(tracked, loaded.content.arrays, loaded.content.clock.batch > 0)

    def load_step(self) -> None:
        """Give the Step the state that was saved, if any; it must be built.

        Raises:
            StateMismatchError: If the Step is another one. Nothing is changed then.
            StepAheadError: If it was trained further. Nothing is changed then.
        """
        if self.loaded is not None:
            self._refuse_step_ahead(self.loaded)
            tracked = track(self.step)
            load_arrays(tracked, self._arrays(self.loaded, tracked))
            self._load_gradients(tracked)
            self.load_host_state()

    def objects(self) -> tuple[dict[str, Any], list[CheckpointContentError]]:
        """Return the state of the Step outside variables, and why some of it cannot be saved."""
        is_users = type(self.step).host_state is not Step.host_state
        return savable_objects(track(self.step), only_tensors=is_users)

    def check_objects(self) -> None:
        """Refuse state outside variables that no checkpoint can hold.

        Raises:
            CheckpointContentError: If there is some.
        """
        _, refused = self.objects()
        if refused:
            raise refused[0]

    def load_host_state(self) -> None:
        """Give the Step what was saved of it outside variables, if anything.

        Raises:
            StateMismatchError: If it holds other objects. Nothing is changed then.
        """
        if self.loaded is None:
            return
        facts = self.loaded.content.facts
        if facts["backend"] == _backends.current().name:
            load_objects(track(self.step), facts.get("objects"))
        if facts.get("left_out"):
            warnings.warn(
                f"The training in {self.path} ended as no checkpoint could hold "
                f"{', '.join(facts['left_out'])}. All else is resumed; what was left out is as the "
                "program says.",
                RuntimeWarning,
                stacklevel=4,
            )
        if facts["host"] is not None:
            with loading(f"{type(self.step).__name__}.load_host_state"):
                self.step.load_host_state(facts["host"])

    def load_what_is_built(self, *, is_new: bool = False) -> None:
        """Give the variables of the Step that there are, and had none yet, what was saved of them.

        The others are saved again as they are, until they are there.

        Args:
            is_new: Whether variables may have been made that the run never had.

        Raises:
            StateMismatchError: If the Step is another one.
            StepAheadError: If it was trained further.
        """
        if self.loaded is None:
            return
        if self._unloaded is None:
            self._refuse_step_ahead(self.loaded)
            self._unloaded = self.loaded.content.arrays
        tracked = track(self.step)
        known = self.loaded.content.arrays
        missing = [e.key for e in tracked.entries if e.key not in known and not is_new]
        left = load_arrays(tracked, self._unloaded, strict=False)
        if missing or left.different:
            raise StateMismatchError(missing, (), left.different)
        loaded = self._unloaded.keys() - set(left.unexpected)
        entries = tuple(entry for entry in tracked.entries if entry.key in loaded)
        self._load_gradients(replace(tracked, entries=entries))
        self._unloaded = {key: self._unloaded[key] for key in left.unexpected}

    def _load_gradients(self, tracked: Tracked) -> None:
        """Give variables the gradients that waited in them for a later step."""
        assert self.loaded is not None
        facts = self.loaded.content.facts
        if facts["backend"] == _backends.current().name:
            load_gradients(tracked, facts.get("gradients"))

    def unloaded(self) -> Mapping[str, Any]:
        """Return what was saved and has no variable yet."""
        return self._unloaded or {}

    def close(self) -> None:
        """Wait for a save in progress, and release the directory."""
        try:
            self.checkpoints.close()
        except CheckpointSaveError as error:  # an error of the training is on its way out
            warnings.warn(str(error), RuntimeWarning, stacklevel=2)
        finally:
            self._release()

    def _release(self) -> None:
        self.place.release()
        if self._lock is not None:
            # Without `run.json`, training never began.
            is_unused = self._is_new and not (self.path / RUN_NAME).exists()
            self._lock.release(removes=is_unused)

    def _refuse_step_ahead(self, loaded: Loaded) -> None:
        tracked = track(self.step)
        keys = {id(entry.variable): entry.key for entry in tracked.entries}
        for path, optimizer in tracked.optimizers.items():
            counter = counter_of(optimizer)
            stored = loaded.content.arrays.get(keys.get(id(counter), ""))
            if stored is None or stored.shape or stored.dtype.kind not in "iu":
                continue  # what it is instead is said where it is loaded
            made, saved = int(snapshot([counter])[0]), int(stored)
            if saved < 0:
                reason = f"{path} has made {saved} updates in it"
                raise DamagedCheckpointError(str(loaded.path), content.STATE, reason)
            if made > saved:
                raise StepAheadError(str(loaded.path), path, made, saved)

    def _load(self) -> Loaded | None:
        steps = self.checkpoints.steps()
        is_failed = steps == [0] and self._has_failed()
        if steps and not is_failed:
            loaded = self.checkpoints.load("newest")
            warn_of_damage(loaded)
            check_facts(loaded)
            return loaded
        if self.run.resume == "required":
            raise NoCheckpointError(str(self.checkpoints.directory), "newest", [], [])
        if self.is_writer and check_directory(self.path):
            if is_failed:
                self.checkpoints.remove_first()
            warnings.warn(
                f"{self.path} holds a training that ended before its first save, so nothing of it "
                f"can be resumed. Its logs were moved to {set_aside(self.path)}, and training "
                "starts from step 0.",
                RuntimeWarning,
                stacklevel=4,
            )
        return None

    def _has_failed(self) -> bool:
        """Tell whether an error ended the training that has saved no step yet.

        Whoever mends its cause may change anything, so it is not resumed; its logs are kept.
        """
        if self.run.resume == "required":
            return False
        reason = _facts(self.path).get("stop_reason")
        return isinstance(reason, str) and reason.startswith("error: ")


def _facts(path: Path) -> Mapping[str, Any]:
    """Return what `run.json` says; nothing if it is missing or cannot be read."""
    try:
        return read_run(path) or {}
    except (RunFileError, OSError):
        return {}
