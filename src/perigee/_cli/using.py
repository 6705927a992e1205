"""`perigee evaluate` and `predict`: use the weights that a run of a file's experiment has kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from perigee._cli.answering import answering
from perigee._cli.experiments import Settings, opened
from perigee._cli.files import FileError
from perigee._cli.training import BatchSize, File, Mode, Seed, Set, as_kept, fit_arguments, seed_all

if TYPE_CHECKING:
    import numpy as np

    from perigee._runs.run import Run
    from perigee._step.step import Step

RunPath = Annotated[
    Path | None,
    typer.Option("--run", metavar="DIR", help="The run; by default that of the experiment."),
]
Which = Annotated[
    str | None,
    typer.Option(
        metavar="newest|best|STEP",
        help="The checkpoint of the run; by default the best, or the newest if none is best.",
    ),
]
Best = Annotated[
    str | None,
    typer.Option(
        metavar="VALUE",
        help="The value that decides `best`; by default the one that the run was trained with.",
    ),
]
Untrained = Annotated[
    bool,
    typer.Option("--untrained", help="Use the step as FILE makes it, without weights of a run."),
]
On = Annotated[
    Literal["validation", "data"], typer.Option(help="The data of the experiment to use.")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Batches to draw.")]


@answering
def evaluate(
    file: File,
    run: RunPath = None,
    which: Which = None,
    best: Best = None,
    untrained: Untrained = False,
    on: On = "validation",
    steps: Steps = None,
    batch_size: BatchSize = None,
    execution: Mode = None,
    seed: Seed = None,
    set_: Set = None,
) -> None:
    """Measure the weights that a run of FILE has kept, on its validation data."""
    given = {"batch_size": batch_size, "seed": seed}
    chosen = _Chosen(run, which, best, untrained)
    values = _used("evaluate", file, chosen, on, steps, given, execution, set_)
    width = max((len(name) for name in values), default=0)
    for name, value in values.items():
        typer.echo(f"{name.ljust(width)}  {value:.6g}")


@answering
def predict(
    file: File,
    run: RunPath = None,
    which: Which = None,
    best: Best = None,
    untrained: Untrained = False,
    on: On = "validation",
    steps: Steps = None,
    batch_size: BatchSize = None,
    execution: Mode = None,
    seed: Seed = None,
    set_: Set = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write, which must not exist.")
    ] = Path("predictions.npz"),
) -> None:
    """Predict with the weights that a run of FILE has kept, and write NumPy's file of arrays."""
    if output.exists():
        raise FileError(f"--output {output}: this file exists; choose another.")
    given = {"batch_size": batch_size, "seed": seed}
    chosen = _Chosen(run, which, best, untrained)
    arrays = _named(_used("predict", file, chosen, on, steps, given, execution, set_))
    _write(output, arrays)
    for name, array in arrays.items():
        typer.echo(f"{name}  {array.dtype} {array.shape}")
    typer.echo(str(output))


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Which weights to use, by the options of the command line."""

    run: Path | None
    which: str | None
    best: str | None
    untrained: bool

    def check(self) -> None:
        """Refuse options that contradict each other, or mean nothing."""
        which = self.which
        if which not in (None, "newest", "best") and not which.isdecimal():
            raise FileError(f"--which {which}: newest, best, or the number of a step.")
        if self.untrained and (self.run, which, self.best) != (None, None, None):
            raise FileError("--untrained: omit --run, --which and --best, which choose weights.")


def _used(
    method: Literal["evaluate", "predict"],
    file: str,
    chosen: _Chosen,
    on: str,
    steps: int | None,
    given: Mapping[str, Any],
    execution: str | None,
    set_: list[str] | None,
) -> Any:
    """Return what the step of a file gives on its data, with the weights of a run."""
    chosen.check()
    settings = Settings.parsed(set_ or ())
    with opened(file) as experiment:
        import perigee as pg

        arguments = fit_arguments(experiment, given, execution, None)
        if getattr(experiment, on) is None:
            raise FileError(f"The experiment has no {on}.")
        run = None if chosen.untrained else _run(arguments.get("run"), chosen)
        seed_all(arguments.get("seed"))
        step = experiment.make_step(settings.step)
        data = experiment.make_data(on, getattr(settings, on))
        more = {name: arguments[name] for name in ("execution", "batch_size") if name in arguments}
        if on == "validation" and not _is_arrays(data):
            more.pop("batch_size", None)
        use = partial(getattr(pg, method), step, data, **more)
        if run is not None:
            typer.echo(_restored(run, step, chosen.which, use))
        return use(steps=steps)


def _run(own: Any, chosen: _Chosen) -> Run:
    """Return the run whose weights are used.

    Raises:
        ArgumentError: If neither the experiment nor the command line has one.
        NoRunError: If there is none in its directory.
    """
    from perigee._errors import ArgumentError, NoRunError

    if own is None and chosen.run is None:
        raise ArgumentError(
            "run",
            "None",
            "a run, whose weights are used: the experiment has none.",
            "pass --run DIR; or --untrained to use the step as the file makes it.",
        )
    run = as_kept(own, chosen.run, {"best": chosen.best})
    if chosen.run is not None and chosen.best is None:  # it may be that of another training
        run = replace(run, best=None)
    path = Path(run.path)
    if not (path / "run.json").exists():
        from perigee.report import find_runs

        error = NoRunError(str(path), [str(found) for found in find_runs(path)])
        error.add_note("`--untrained` uses the step as the file makes it.")
        raise error
    return run


def _restored(run: Run, step: Step, which: str | None, use: Callable[..., Any]) -> str:
    """Load the weights of a checkpoint, and describe it; `use` builds the Step if need be."""
    from perigee._errors import NoCheckpointError, StepNotBuiltError
    from perigee._runs.run import checkpoints_of

    checkpoints = checkpoints_of(run)
    if which is None:
        which = "newest" if checkpoints.best() is None else "best"
    chosen: Any = int(which) if which.isdecimal() else which
    try:
        try:
            clock = run.restore(step, chosen)
        except StepNotBuiltError:  # the run is an old one
            use(steps=1)
            clock = run.restore(step, chosen)
    except NoCheckpointError as error:
        error.add_note("`--untrained` uses the step as the file makes it.")
        raise
    best = checkpoints.best()
    is_best = best is not None and best[1] == clock
    said = f", best by {best[0].name} ({best[0].value:.6g})" if best and is_best else ""
    path = checkpoints.path_of(clock.step)
    return f"Weights of {run.path} after step {clock.step}{said}: {path}"


def _is_arrays(data: Any) -> bool:
    """Return whether Perigee splits the data into batches."""
    import keras
    import numpy as np

    if isinstance(data, list):
        return False
    leaves = keras.tree.flatten(data)
    return bool(leaves) and all(isinstance(leaf, np.ndarray) for leaf in leaves)


def _named(predicted: Any) -> dict[str, np.ndarray]:
    """Return what was predicted as arrays by their paths; one that is alone as `predictions`."""
    import keras
    import numpy as np

    leaves = keras.tree.flatten_with_path(predicted)
    return {
        "/".join(map(str, path)) or "predictions": np.asarray(leaf)
        for path, leaf in leaves
        if leaf is not None
    }


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays by name; a name that is an argument of `numpy.savez` gets an underscore."""
    import numpy as np

    taken = ("file", "allow_pickle")
    with path.open("xb") as file:
        named: dict[str, Any] = {f"{n}_" if n in taken else n: a for n, a in arrays.items()}
        np.savez(file, **named)
