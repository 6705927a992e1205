"""Errors about arguments and run directories (PG5xx, PG6xx)."""

import errno
from collections.abc import Mapping, Sequence

from perigee._errors._tree import PerigeeError


class RunExistsError(PerigeeError, FileExistsError):
    """The run directory already holds a run."""

    code = "PG501"

    def __init__(self, path: str, found: str) -> None:
        self.path, self.found = path, found
        super().__init__(
            f"{path} already holds a run ({found}).",
            expected="an empty or new directory: a run is never overwritten.",
            fix="choose another path, or move the old run away.",
        )


class ForeignFilesError(PerigeeError, FileExistsError):
    """The run directory holds files of a run's names, but no run.

    A run is known by its `run.json` or by its checkpoints. Without them, files such as
    `metrics.jsonl` may be those of another tool: nothing is written beside them, overwritten or
    deleted. Files of other names may be in the directory, and stay there.
    """

    code = "PG502"

    def __init__(self, path: str, found: Sequence[str]) -> None:
        self.path, self.found = path, tuple(found)
        super().__init__(
            f"{path} holds {', '.join(found)}, but no run of Perigee: neither its `run.json` nor "
            "an intact checkpoint.",
            expected="a directory that holds a run, or nothing of these names.",
            fix=f'choose another directory, such as `run="{path}/run"`.',
        )


class FileKindError(PerigeeError, OSError):
    """A file or directory of a run is a link, or not what a run writes there.

    What is written through a link changes a file elsewhere, which may be anyone's. So a run follows
    no link in its directory, except `checkpoints`, which may be a link to a directory, for instance
    on a larger disk. The run directory itself may be reached through links. Neither does a run
    overwrite a `run.lock` or a `report.html` that it did not write.
    """

    code = "PG503"

    def __init__(self, path: str, found: str, expected: str) -> None:
        self.path, self.found = path, found
        super().__init__(
            f"{path} is {found}.",
            expected=f"{expected}, or nothing of that name.",
            fix="replace the link by what it leads to, or remove it, or choose another directory "
            "for the run. Only `checkpoints` may be a link to a directory."
            if found.startswith("a link")
            else "move it away, or choose another directory for the run.",
        )


class StateMismatchError(PerigeeError, ValueError):
    """A stored state does not match the Step, so nothing was loaded.

    A variable is identified by the attribute path of its owner, its index among the owner's
    variables and its name. So renamed attributes, other layers or optimizers, and layers and
    optimizers that are not built yet do not match. Neither does a value of another shape or another
    kind of dtype (float, integer, boolean), an integer that the variable cannot hold, or a float
    that would be rounded.

    To load the part that matches on purpose, such as the trunk of a model under a new head, pass
    `strict=False`, which returns what was skipped.
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
            f"The stored state does not match this Step: {', '.join(counts)}.",
            items=[
                *(f"{path}: {why}" for path, why in different.items()),
                *(f"{path}: not stored" for path in missing),
                *(f"{path}: not in the Step" for path in unexpected),
            ],
            expected="the variables that were saved, each with its shape, and all built.",
            fix="use the Step as it was when it was saved; or load the matching part on purpose, "
            "with `strict=False`.",
        )


class StepNotBuiltError(PerigeeError, ValueError):
    """A checkpoint was to be loaded into a Step with layers that are not built.

    A layer without an input shape has no variables before its first call. `Run.restore` calls the
    step once on zeros, in the shapes that the checkpoint recorded, and undoes all but the building.
    That is impossible if the checkpoint is an old one, without shapes, if the batches held anything
    but arrays (text, ragged or sparse tensors), or if the step cannot run on zeros.
    """

    code = "PG529"

    def __init__(self, path: str, layers: Sequence[str], why: str) -> None:
        self.path, self.layers, self.why = path, tuple(layers), why
        super().__init__(
            f"{path} cannot be loaded into a Step with layers that are not built; {why}.",
            items=[f"{layer}: not built" for layer in layers],
            expected="layers that are built, or a checkpoint from which they can be.",
            fix="build them before: call the models on a batch, or `pg.evaluate(step, data, "
            "steps=1)`.",
        )


class DamagedCheckpointError(PerigeeError, ValueError):
    """A file of a checkpoint is damaged.

    Every file is compared with the size and the checksum in `manifest.json`, and that file with its
    own checksum. Damaged checkpoints are named and skipped, and the one before is used; only a
    checkpoint requested by its number raises this.
    """

    code = "PG521"

    def __init__(self, path: str, file: str, reason: str) -> None:
        self.path, self.file, self.reason = path, file, reason
        super().__init__(
            f"{file} in {path} cannot be used: {reason}.",
            expected="the file that was saved.",
            fix="use another checkpoint, or restore the file from a copy.",
        )


class NoCheckpointError(PerigeeError, FileNotFoundError):
    """The requested checkpoint does not exist, or none is intact.

    Training does not restart automatically where all checkpoints are damaged: something may still
    be recovered from them.
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
            f"{path} has no intact checkpoint for {which!r} (available steps: {there}).",
            items=[f"{error.path}/{error.file}: {error.reason}" for error in damaged],
            expected="at least one intact checkpoint.",
            fix="restore the damaged files from a copy, request another checkpoint, or move the "
            "directory away to start over."
            if damaged
            else "request a step that is available, or check the path.",
        )


class CheckpointSaveError(PerigeeError, OSError):
    """A checkpoint could not be written.

    The partial checkpoint has been removed, and all earlier checkpoints are unchanged: an old one
    is removed only after a new one is complete.
    """

    code = "PG523"

    def __init__(self, path: str, size_bytes: int, error: OSError) -> None:
        self.path, self.size_bytes = path, size_bytes
        self.reason = error.strerror or str(error)
        super().__init__(
            f"{path} ({size_bytes / 1e6:,.1f} MB) could not be written: {self.reason}.",
            expected="a directory that can be written to, with room for one more checkpoint than "
            "are kept.",
            fix=way_out(error),
        )
        self.errno = error.errno


class RunInUseError(PerigeeError, BlockingIOError):
    """Another process is writing to the run directory.

    Two processes in one run would overwrite each other's checkpoints. The lock is released when the
    process that holds it ends, even if it is killed. Only on a file system without locks, a process
    on another machine is assumed to be running, since that cannot be checked from here; if it has
    ended, delete the lock file.
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
    """A checkpoint cannot hold a value that was to be saved.

    A checkpoint holds no objects and no code, so that nothing is executed when it is loaded. It
    holds strings, numbers, booleans, `None` and NumPy arrays of numbers, in dicts with strings as
    keys and in lists, nested at most 64 levels deep.

    It is raised before the first step where the first batch shows it. An attribute that a later
    step sets raises it at the next save, once all else is saved.
    """

    code = "PG525"

    def __init__(self, path: str, found: str, fix: str | None = None, rest: object = None) -> None:
        self.path, self.found, self.rest = path, found, rest
        super().__init__(
            f"{path} {found}, which a checkpoint cannot hold.",
            expected="strings, numbers, booleans, `None` and arrays of numbers, in dicts whose "
            "keys are strings without a leading `$`, and in lists.",
            fix=fix or "save the numbers from which it can be rebuilt.",
        )


class CheckpointVersionError(PerigeeError, ValueError):
    """A checkpoint was written by a later version of Perigee, in a format unknown to this one.

    It is not skipped for an older checkpoint, as a damaged one is: it is intact, and training would
    lose progress needlessly.
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
    """The state of a random generator cannot be saved, or the saved value is not such a state.

    NumPy's global generator can be replaced by one of another kind; only the default, the Mersenne
    Twister, is saved.
    """

    code = "PG527"

    def __init__(self, generator: str, reason: str) -> None:
        self.generator, self.reason = generator, reason
        super().__init__(
            f"The state of {generator} is {reason}.",
            expected="the state that the generator had when it was saved.",
            fix="keep NumPy's default global generator, and use another checkpoint if this one "
            "was changed.",
        )


class StoredStateError(PerigeeError, ValueError):
    """An object could not take back what a checkpoint holds of it.

    A Step's `load_host_state`, and the `load_state` of a hook or a callback, are called with what
    `host_state` or `state` returned when the training was saved. One of them has raised: the class
    has changed since then, or the file. Nothing has been trained.
    """

    code = "PG528"

    def __init__(self, called: str, reason: str) -> None:
        self.called, self.reason = called, reason
        super().__init__(
            f"{called} could not take what the checkpoint holds: {reason}.",
            expected="what the method that saves it returns today.",
            fix="let it accept what was saved before, too; or use the class as it was then.",
        )


class LogShortError(PerigeeError, ValueError):
    """A log file of a run is shorter than it was when the checkpoint was saved.

    A resumed run truncates the file to its length at the checkpoint and appends to it, so that
    nothing is missing and nothing is written twice. A file that was shortened or replaced makes
    this impossible.
    """

    code = "PG540"

    def __init__(self, path: str, found: str, needed: str) -> None:
        self.path, self.found, self.needed = path, found, needed
        super().__init__(
            f"{path} holds {found}.",
            expected=f"at least the {needed} that it held at the checkpoint.",
            fix="restore the file from a copy, or delete it to continue without its contents.",
        )


class LogExistsError(PerigeeError, FileExistsError):
    """A log file of a new run already exists and is not empty.

    Only a resumed run appends to an existing file.
    """

    code = "PG541"

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(
            f"{path} holds data that this run did not write.",
            expected="a path that does not exist yet, or an empty file.",
            fix="choose another path, or move the old file away.",
        )


class WriterError(PerigeeError, OSError):
    """A writer failed, and `strict=True` makes this end the training.

    By default, training continues without it: the records wait in memory until the writer can write
    again, and those that could never be written are counted in `run.json`.
    """

    code = "PG542"

    def __init__(self, name: str, step: int, reason: str) -> None:
        self.name, self.step, self.reason = name, step, reason
        super().__init__(
            f"The writer {name!r} failed after step {step}: {reason}.",
            expected="every record to be written, since its writers are strict.",
            fix="free space, or make the path writable, and resume; or pass `strict=False` to "
            "continue without it.",
        )


def way_out(error: OSError) -> str:
    """Return what to do about an error of the system in writing."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free space there or keep fewer checkpoints."
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return (
            "close files that are no longer used, or raise the limit on open files (`ulimit -n`)."
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
        return "put the directory of the run back in its place, or take away what stands there."
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "make the directory writable, or choose another path for the run."
    return "check the disk, or choose another path for the run."


class MissingPackageError(PerigeeError, ImportError):
    """A required package is not installed."""

    code = "PG543"

    def __init__(self, package: str, purpose: str) -> None:
        self.package, self.purpose = package, purpose
        super().__init__(
            f"The package {package!r} cannot be imported, and {purpose} need it.",
            expected=f"{package} to be installed.",
            fix=f'python -m pip install "perigee[{package}]"',
        )


class RunFileError(PerigeeError, ValueError):
    """The `run.json` of a run that is to be resumed cannot be read.

    The file is always replaced as a whole, so a crash of the run does not damage it.
    """

    code = "PG544"

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(
            f"{path} cannot be read: {reason}.",
            expected="the file that the run wrote.",
            fix="restore it from a copy, or use the version of Perigee that wrote it.",
        )


class NoRunError(PerigeeError, FileNotFoundError):
    """The directory holds no run.

    Each run keeps a `run.json`; a directory that contains several runs has none itself.
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
    """A run cannot be resumed with another value of an argument that determines its results.

    The seed and the execution mode were chosen when the run was created, and are stored in its
    checkpoints. A run resumed with others would equal neither of the two trainings.
    """

    code = "PG545"

    def __init__(self, path: str, name: str, saved: str, given: str) -> None:
        self.path, self.name, self.saved, self.given = path, name, saved, given
        super().__init__(
            f"{path} was trained with {name}={saved}, and cannot be resumed with {name}={given}.",
            expected="the value that the run was created with.",
            fix=f"omit `{name}`, pass {saved}, or start a new run.",
        )


class StepAheadError(PerigeeError, ValueError):
    """The Step was trained further than the checkpoint from which the run would resume.

    Its updates since then would be overwritten. This happens when a training ended with an error
    after its last save, and the same Step is passed again.
    """

    code = "PG546"

    def __init__(self, path: str, optimizer: str, updates: int, saved: int) -> None:
        self.path, self.optimizer, self.updates, self.saved = path, optimizer, updates, saved
        super().__init__(
            f"{optimizer} of the Step has made {updates} updates, and {path} was saved after "
            f"{saved}.",
            expected="a Step that is new, or as it was saved.",
            fix="create a new Step; or load the checkpoint explicitly first, with "
            "`pg.Run(path).restore(step)`.",
        )


class LoopError(PerigeeError, RuntimeError):
    """The methods of a prepared Step were called in an order that cannot be resumed.

    They are called within a `with` block. With a run, each iteration of the loop begins with
    `goes_on`: the state is saved there, so that a resumed loop begins with a whole iteration.
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


class CompiledCallError(PerigeeError, RuntimeError):
    """A function that trains was called while a framework compiles the code around it.

    There are no values yet then: the call would run once, on symbols, and never again. What it
    trains is compiled by Perigee itself.
    """

    code = "PG603"

    def __init__(self, function: str, compiler: str) -> None:
        self.function, self.compiler = function, compiler
        super().__init__(
            f"`{function}` was called inside a function that `{compiler}` compiles.",
            expected="a call from plain Python.",
            fix=f"remove `{compiler}` from the function that calls `{function}`: the step is "
            "compiled anyway.",
        )


class ArgumentError(PerigeeError, ValueError):
    """An argument has an invalid value, alone or together with another argument."""

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
            fix=meant or "omit it.",
        )


class RunChangedError(PerigeeError, ValueError):
    """The program differs from the one that trained the run so far.

    What a run logs was trained as its `run.json` says. So a start with another learning rate, loss,
    data set or other setting is refused, also where the run is finished, and each difference is
    listed as it was and as it is. Nothing in the directory was changed.

    `on_change="accept"` trains on with what the program says now, and writes to `run.json` when
    that was, at which step, and what changed. Epochs, steps, display, logging and saving may always
    change. What is compared, and what is not looked at, is listed in
    [Saving and resuming](../resuming.md#what-changed).
    """

    code = "PG550"
    most_listed = 40

    def __init__(self, path: str, step: int, changes: Sequence[str]) -> None:
        self.path, self.step, self.changes = path, step, tuple(changes)
        super().__init__(
            f"{path} was trained to step {step} with other settings than those of this start "
            "(was -> is):",
            items=changes,
            expected="the settings that the run was trained with.",
            fix="choose another directory, to train from the start; or continue with the settings "
            'of this start: `pg.Run(..., on_change="accept")`, `--accept-changes` on the command '
            "line.",
        )
