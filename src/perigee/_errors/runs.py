"""Errors about arguments and run directories (PG5xx, PG6xx)."""

import errno
from collections.abc import Mapping, Sequence

from perigee._errors._tree import PerigeeError


class RunExistsError(PerigeeError, FileExistsError):
    """The run directory holds a run already."""

    code = "PG501"

    def __init__(self, path: str, found: str) -> None:
        self.path, self.found = path, found
        super().__init__(
            f"{path} holds a run already ({found}).",
            expected="an empty or new directory: a run is never overwritten.",
            fix="choose another path, or move the old run away.",
        )


class StateMismatchError(PerigeeError, ValueError):
    """A stored state and the Step that is to take it differ, so that nothing was loaded.

    Variables are known by the attribute path of their owner, their place among its variables and
    their name. Renamed attributes, other layers or optimizers, and layers and optimizers that are
    not built yet make a difference. So do a value of another shape or of another family (float,
    integer, boolean), an integer that the variable cannot hold, and a float that would be rounded.

    To load the part that matches on purpose, such as the trunk of a model under a new head, pass
    `strict=False`: what was left out is returned then.
    """

    code = "PG520"

    def __init__(
        self, missing: Sequence[str], unexpected: Sequence[str], different: Mapping[str, str]
    ) -> None:
        self.missing, self.unexpected = tuple(missing), tuple(unexpected)
        self.different = dict(different)
        counts = (
            f"{len(missing)} of the Step's variables are not stored",
            f"{len(unexpected)} stored ones are not in the Step",
            f"{len(different)} do not fit",
        )
        super().__init__(
            f"The stored state is not of this Step: {', '.join(counts)}.",
            items=[
                *(f"{path}: {why}" for path, why in different.items()),
                *(f"{path}: not stored" for path in missing),
                *(f"{path}: not in the Step" for path in unexpected),
            ],
            expected="the variables that were saved, each with its shape, and all built.",
            fix="use the Step as it was when it was saved; or load the matching part on purpose, "
            "with `strict=False`.",
        )


class DamagedCheckpointError(PerigeeError, ValueError):
    """A file of a checkpoint is not what was written.

    Every file is compared with the size and the checksum in `manifest.json`, and that file with a
    checksum of itself. What is asked for next is the checkpoint before: damaged ones are named and
    passed over, and only one that is asked for by its number raises this.
    """

    code = "PG521"

    def __init__(self, path: str, file: str, reason: str) -> None:
        self.path, self.file, self.reason = path, file, reason
        super().__init__(
            f"{file} in {path} cannot be used: {reason}.",
            expected="the file that was saved.",
            fix="take another checkpoint, or put the file back from a copy.",
        )


class NoCheckpointError(PerigeeError, FileNotFoundError):
    """There is no checkpoint as it was asked for, or none that is intact.

    Training does not begin anew by itself where there are only damaged checkpoints: what was
    trained may still be saved from them.
    """

    code = "PG522"

    def __init__(
        self,
        path: str,
        which: str,
        steps: Sequence[int],
        damaged: Sequence[DamagedCheckpointError],
    ) -> None:
        self.path, self.which = path, which
        self.steps, self.damaged = tuple(steps), tuple(damaged)
        there = ", ".join(str(step) for step in steps) or "none"
        super().__init__(
            f"{path} has no intact checkpoint for {which!r} (steps there: {there}).",
            items=[f"{error.path}/{error.file}: {error.reason}" for error in damaged],
            expected="at least one checkpoint that is what was saved.",
            fix="put the damaged files back from a copy, ask for another one, or move the "
            "directory away to begin anew."
            if damaged
            else "ask for one that is there, or check the path.",
        )


class CheckpointSaveError(PerigeeError, OSError):
    """A checkpoint could not be written.

    What was written of it has been removed, and all checkpoints before it are as they were: an old
    one is removed only after a new one is in its place.
    """

    code = "PG523"

    def __init__(self, path: str, size_bytes: int, error: OSError) -> None:
        self.path, self.size_bytes = path, size_bytes
        self.reason = error.strerror or str(error)
        super().__init__(
            f"{path} ({size_bytes / 1e6:,.1f} MB) could not be written: {self.reason}.",
            expected="a directory that can be written to, with room for one checkpoint more than "
            "are kept.",
            fix="free space there or keep fewer checkpoints."
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            else "make the directory writable, or choose another path for the run.",
        )
        self.errno = error.errno


class RunInUseError(PerigeeError, BlockingIOError):
    """Another process is writing to the run directory.

    Two processes in one run would overwrite each other's checkpoints. The lock goes with the
    process that holds it, also when it is killed. Only on a file system without locks is a process
    of another machine taken for a living one, as nothing tells from here; if it has ended, delete
    the lock file.
    """

    code = "PG524"

    def __init__(self, path: str, lock: str, pid: int | None, host: str | None) -> None:
        self.path, self.lock, self.pid, self.host = path, lock, pid, host
        who = "another process" if pid is None else f"process {pid} on {host}"
        super().__init__(
            f"{path} is being written to by {who}.",
            expected="one process for each run.",
            fix="wait until it ends, stop it, or choose another path. If it is on another machine "
            f"and has ended, delete {lock}.",
        )


class CheckpointContentError(PerigeeError, TypeError):
    """Something is to be saved that a checkpoint does not hold.

    A checkpoint holds no objects and no code, so that nothing is executed when it is loaded:
    strings, numbers, booleans, `None` and NumPy arrays of numbers, in dicts with strings as keys
    and in lists, 64 levels deep at most.
    """

    code = "PG525"

    def __init__(self, path: str, found: str) -> None:
        self.path, self.found = path, found
        super().__init__(
            f"{path} {found}, which a checkpoint does not hold.",
            expected="strings, numbers, booleans, `None` and arrays of numbers, in dicts whose "
            "keys are strings without a leading `$`, and in lists.",
            fix="save the numbers from which it can be made again.",
        )


class CheckpointVersionError(PerigeeError, ValueError):
    """A checkpoint was written by a later version of Perigee, in a format that this one lacks.

    It is not passed over for an older checkpoint like a damaged one: it is whole, and training
    would fall back without need.
    """

    code = "PG526"

    def __init__(self, path: str, version: int, known: int) -> None:
        self.path, self.version, self.known = path, version, known
        super().__init__(
            f"{path} has format {version}.",
            expected=f"a format up to {known}.",
            fix="use a version of Perigee at least as new as the one that wrote it.",
        )


class RandomStateError(PerigeeError, ValueError):
    """The state of a random generator cannot be saved, or what was saved is no such state.

    NumPy's global generator can be exchanged for one of another kind; only its own, the Mersenne
    Twister, is saved.
    """

    code = "PG527"

    def __init__(self, generator: str, reason: str) -> None:
        self.generator, self.reason = generator, reason
        super().__init__(
            f"The state of {generator} is {reason}.",
            expected="the state that the generator had when it was saved.",
            fix="leave NumPy's global generator as it is, and take another checkpoint if this one "
            "was changed.",
        )


class LogShortError(PerigeeError, ValueError):
    """A file that a run writes to holds less than it did when the checkpoint was taken.

    A run that resumes goes on after what the file held then, and cuts off what lies beyond, so
    that nothing is missing in it and nothing stands in it twice. With a file that was cut, or
    replaced by another one, neither can be kept.
    """

    code = "PG540"

    def __init__(self, path: str, found: str, needed: str) -> None:
        self.path, self.found, self.needed = path, found, needed
        super().__init__(
            f"{path} holds {found}.",
            expected=f"at least the {needed} that it held at the checkpoint.",
            fix="put the file back from a copy, or delete it to go on without what it held.",
        )


class LogExistsError(PerigeeError, FileExistsError):
    """A file that a new run is to write holds something already.

    Only a run that resumes writes to a file that is there.
    """

    code = "PG541"

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(
            f"{path} holds something that this run did not write.",
            expected="a path where nothing is yet, or an empty file.",
            fix="choose another path, or move the old file away.",
        )


class WriterError(PerigeeError, OSError):
    """A writer could not write, and was told to end the training then.

    Left to itself, training goes on without it: the records wait in memory until the writer can
    write again, and those that never could be written are counted in `run.json`.
    """

    code = "PG542"

    def __init__(self, name: str, step: int, reason: str) -> None:
        self.name, self.step, self.reason = name, step, reason
        super().__init__(
            f"The writer {name!r} failed after step {step}: {reason}.",
            expected="every record to be written, since its writers are strict.",
            fix="make room, or the place writable, and resume; or let training go on without it.",
        )


class MissingPackageError(PerigeeError, ImportError):
    """A package that is needed for what was asked is not installed."""

    code = "PG543"

    def __init__(self, package: str, purpose: str) -> None:
        self.package, self.purpose = package, purpose
        super().__init__(
            f"The package {package!r} cannot be imported, and {purpose} need it.",
            expected=f"{package} to be installed.",
            fix=f'python -m pip install "perigee[{package}]"',
        )


class RunFileError(PerigeeError, ValueError):
    """The `run.json` of a run that is to be taken up cannot be read.

    It is only ever replaced as a whole, so that no crash of a run leaves it damaged.
    """

    code = "PG544"

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(
            f"{path} cannot be read: {reason}.",
            expected="the file that the run wrote.",
            fix="put it back from a copy, or use the version of Perigee that wrote it.",
        )


class NoRunError(PerigeeError, FileNotFoundError):
    """There is no run in a directory of which one is to be shown.

    Each run keeps a `run.json`; the directory above several runs has none of its own.
    """

    code = "PG548"

    def __init__(self, path: str, near: Sequence[str] = ()) -> None:
        self.path, self.near = path, tuple(near)
        super().__init__(
            f"There is no run in {path!r}{', but in:' if near else '.'}",
            expected="a directory with a `run.json`, which `run=` of `fit` makes.",
            fix="name one of those." if near else "`perigee runs DIR` lists the runs below `DIR`.",
            items=near,
        )


class RunArgumentError(PerigeeError, ValueError):
    """A run is to go on with another value of an argument that decides its numbers.

    The seed and the way in which the step runs were chosen when the run was made, and stand in its
    checkpoints. A run that went on with others would be neither of the two trainings.
    """

    code = "PG545"

    def __init__(self, path: str, name: str, saved: str, given: str) -> None:
        self.path, self.name, self.saved, self.given = path, name, saved, given
        super().__init__(
            f"{path} was trained with {name}={saved}, and is to go on with {name}={given}.",
            expected="the value that the run was made with.",
            fix=f"leave `{name}` out, pass {saved}, or start a new run.",
        )


class StepAheadError(PerigeeError, ValueError):
    """The Step was trained further than the checkpoint from which the run is to go on.

    Its updates since then would be overwritten. This happens where a training ended with an error
    after its last save, and the same Step is passed again.
    """

    code = "PG546"

    def __init__(self, path: str, optimizer: str, updates: int, saved: int) -> None:
        self.path, self.optimizer, self.updates, self.saved = path, optimizer, updates, saved
        super().__init__(
            f"{optimizer} of the Step has made {updates} updates, and {path} was saved after "
            f"{saved}.",
            expected="a Step that is new, or as it was saved.",
            fix="make the Step anew; or load the checkpoint on purpose before, by "
            "`pg.Run(path).restore(step)`.",
        )


class LoopError(PerigeeError, RuntimeError):
    """A prepared Step is not driven in the order that makes it resumable.

    Its methods are called within a `with` block. With a run, `goes_on` begins each turn of the
    loop: it is there that the state is saved, so that a resumed loop begins a whole turn.
    """

    code = "PG547"

    def __init__(self, called: str, why: str, fix: str) -> None:
        self.called, self.why = called, why
        super().__init__(
            f"`{called}` was called {why}.",
            expected="`with pg.prepare(step, run=...) as trainer:`, and in it "
            "`while trainer.goes_on(steps=...):` around the calls.",
            fix=fix,
        )


class ArgumentError(PerigeeError, ValueError):
    """An argument has a value that makes no sense, alone or with another one."""

    code = "PG601"

    def __init__(self, name: str, given: str, expected: str, fix: str) -> None:
        self.name, self.given = name, given
        super().__init__(f"{name}={given} cannot be used here.", expected=expected, fix=fix)


class UnknownArgumentError(PerigeeError, TypeError):
    """A function was called with an argument that it does not have."""

    code = "PG602"

    def __init__(self, function: str, name: str, meant: str | None, known: Sequence[str]) -> None:
        self.function, self.name, self.meant, self.known = function, name, meant, tuple(known)
        super().__init__(
            f"`{function}` has no argument {name!r}.",
            expected=f"one of {', '.join(known)}.",
            fix=meant or "leave it out.",
        )
