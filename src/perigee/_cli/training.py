"""`perigee fit` and `verify`: train a file's experiment, and verify that it resumes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from perigee._cli.answering import answering
from perigee._cli.experiments import Settings, opened
from perigee._cli.files import FileError

if TYPE_CHECKING:
    from perigee._api.experiment import Experiment
    from perigee.tools import Profile

_LONGEST_VALIDATION = 2
"""The most validation batches in a dry run."""

File = Annotated[
    str,
    typer.Argument(
        metavar="FILE[:NAME]",
        help="A Python file with a `pg.Experiment`, and its name if there are several.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PART.NAME=VALUE",
        help="An argument of the function that makes the step, the data or the validation, such "
        "as step.temperature=4; repeatable.",
    ),
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Rows per batch, for arrays.")]
Seed = Annotated[
    int | None, typer.Option(help="Seed of the weights, the order of the data and all else.")
]
Mode = Annotated[
    Literal["auto", "graph", "xla", "eager"] | None, typer.Option(help="How the step runs.")
]


@answering
def fit(
    file: File,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs to train.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps to train.")] = None,
    steps_per_epoch: Annotated[int | None, typer.Option(min=1, help="Steps per epoch.")] = None,
    batch_size: BatchSize = None,
    shuffle: Annotated[
        bool | None, typer.Option("--shuffle/--no-shuffle", help="Whether arrays are shuffled.")
    ] = None,
    validate: Annotated[
        bool, typer.Option("--validate/--no-validate", help="Whether to validate.")
    ] = True,
    validation_steps: Annotated[
        int | None, typer.Option(min=1, help="Batches per validation.")
    ] = None,
    validate_every: Annotated[
        str | None, typer.Option(metavar="CADENCE", help='Such as "100 steps" or "2 epochs".')
    ] = None,
    accumulate: Annotated[int | None, typer.Option(min=1, help="Micro-batches per update.")] = None,
    nonfinite: Annotated[
        Literal["raise", "skip", "stop"] | None,
        typer.Option(help="What happens when a value is NaN or infinite."),
    ] = None,
    execution: Mode = None,
    steps_per_call: Annotated[
        int | None, typer.Option(min=1, help="The most steps in one call.")
    ] = None,
    progress: Annotated[
        Literal["auto", "bar", "lines", "off"] | None, typer.Option(help="How progress is shown.")
    ] = None,
    seed: Seed = None,
    run: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep checkpoints and logs here.")
    ] = None,
    save_every: Annotated[
        str | None,
        typer.Option(metavar="CADENCE", help='Such as "500 steps", "1 epoch" or "60 seconds".'),
    ] = None,
    keep: Annotated[int | None, typer.Option(min=1, help="Checkpoints to keep.")] = None,
    best: Annotated[
        str | None,
        typer.Option(metavar="VALUE", help="Also keep the best by this value: val_loss."),
    ] = None,
    resume: Annotated[
        Literal["auto", "never", "required", "past_stop"] | None,
        typer.Option(
            help="Whether an existing run is resumed; past_stop trains on where a callback stopped "
            "it."
        ),
    ] = None,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes",
            help="Resume the run with what has changed in the program since, and record that.",
        ),
    ] = False,
    tensorboard: Annotated[
        bool | None, typer.Option("--tensorboard/--no-tensorboard", help="Write events for it.")
    ] = None,
    set_: Set = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Try everything on a few steps (training, validation, saving, resuming) without "
            "callbacks, and save nothing.",
        ),
    ] = False,
    overfit_batches: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Train on only the first N batches, without validation and outside the "
            "experiment's run.",
        ),
    ] = None,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Trace some steps into the run, and report the time spent."),
    ] = False,
) -> None:
    """Train the experiment of FILE. Options replace its own settings."""
    given = {
        "epochs": epochs,
        "steps": steps,
        "steps_per_epoch": steps_per_epoch,
        "batch_size": batch_size,
        "shuffle": shuffle,
        "validation_steps": validation_steps,
        "validate_every": _cadence("--validate-every", validate_every),
        "accumulate": accumulate,
        "nonfinite": nonfinite,
        "progress": progress,
        "seed": seed,
    }
    kept = {
        "save_every": _cadence("--save-every", save_every),
        "keep": keep,
        "best": best,
        "resume": resume,
        "on_change": "accept" if accept_changes else None,
        "tensorboard": tensorboard,
    }
    if profile and dry_run:
        raise FileError("--profile: a dry run saves nothing; omit --dry-run or --profile.")
    settings = Settings.parsed(set_ or ())
    with opened(file) as experiment:
        arguments = fit_arguments(experiment, given, execution, steps_per_call)
        own = arguments.get("run")
        if overfit_batches is not None and not dry_run:
            _check_apart(own, run)
            own = None
        arguments["run"] = as_kept(own, run, kept)
        if dry_run:
            typer.echo(_tried(experiment, settings, arguments, validate, overfit_batches))
            return
        profiled = _profile(arguments) if profile else None
        history = _trained(experiment, settings, arguments, validate, overfit_batches)
        if arguments["run"] is not None:
            typer.echo(f"Kept in {arguments['run'].path}; report.html there shows it.")
        if overfit_batches is not None:
            typer.echo(_overfitted(overfit_batches, history.history))
        if profiled is not None and profiled.found is not None:
            typer.echo(str(profiled.found))


@answering
def verify(
    file: File,
    steps: Annotated[int, typer.Option(min=2, help="Steps in all.")] = 8,
    at: Annotated[
        int | None, typer.Option(min=1, help="The step at which to stop; half of them by default.")
    ] = None,
    batch_size: BatchSize = None,
    execution: Mode = None,
    set_: Set = None,
) -> None:
    """Check that the experiment of FILE resumes exactly where it was stopped, bit by bit."""
    settings = Settings.parsed(set_ or ())
    with opened(file) as experiment:
        from perigee.testing import verify_resume

        arguments = fit_arguments(experiment, {"batch_size": batch_size}, execution, None)
        for name in ("epochs", "steps", "run", "callbacks", "progress", "seed", "validate_every"):
            arguments.pop(name, None)
        arguments.pop("validation_steps", None)
        try:
            found = verify_resume(
                lambda: experiment.make_step(settings.step),
                lambda: experiment.make_data("data", settings.data),
                steps=steps,
                at=at,
                arguments=arguments,
            )
        except AssertionError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from None
    typer.echo(str(found))


def _cadence(name: str, text: str | None) -> Any:
    """Parse a cadence; this imports the framework."""
    if text is None:
        return None
    count, _, unit = text.strip().partition(" ")
    from perigee._events.schedule import Every

    try:
        match unit.strip():
            case "" | "step" | "steps":
                return Every(steps=int(count))
            case "epoch" | "epochs":
                return Every(epochs=int(count))
            case "second" | "seconds":
                return Every(seconds=float(count))
            case _:
                pass
    except ValueError:  # not a number, or an invalid one
        pass
    raise FileError(f'{name} {text!r}: write "100 steps", "2 epochs" or "60 seconds".')


def fit_arguments(
    experiment: Experiment,
    given: Mapping[str, Any],
    mode: str | None,
    steps_per_call: int | None,
) -> dict[str, Any]:
    """Return the arguments of `fit`: those of the experiment, replaced by those given."""
    given = {name: value for name, value in given.items() if value is not None}
    arguments = dict(experiment.fit)
    if {"epochs", "steps"} & given.keys():  # the requested one is the end
        for name in ("epochs", "steps"):
            arguments.pop(name, None)
    arguments |= given
    if mode is not None or steps_per_call is not None:
        from perigee._api.arguments import as_execution

        asked = as_execution(arguments.get("execution", "auto"))
        changes: dict[str, Any] = {"mode": mode, "steps_per_call": steps_per_call}
        changes = {name: value for name, value in changes.items() if value is not None}
        arguments["execution"] = replace(asked, **changes)
    return arguments


def as_kept(own: Any, path: Path | None, given: Mapping[str, Any]) -> Any:
    """Return the run, with the given options in place of the experiment's."""
    from perigee._api.arguments import as_run
    from perigee._runs.run import Run

    given = {name: value for name, value in given.items() if value is not None}
    run = as_run(own)
    if path is not None:
        run = Run(path) if run is None else replace(run, path=path)
    if run is None:
        if given:
            named = {"on_change": "--accept-changes"}
            options = ", ".join(named.get(name, f"--{name.replace('_', '-')}") for name in given)
            raise FileError(f"{options}: there is no run to store anything in; pass --run DIR.")
        return None
    return replace(run, **given)


def _check_apart(own: Any, path: Path | None) -> None:
    """Refuse the experiment's run for another training than the experiment's."""
    from perigee._api.arguments import as_run

    own = as_run(own)
    if own is not None and path is not None and path.resolve() == Path(own.path).resolve():
        raise FileError(
            f"--run {path}: this is the experiment's own run, which --overfit-batches leaves "
            "alone; pass another directory, or omit --run to save nothing."
        )


def _profile(arguments: dict[str, Any]) -> Profile:
    """Add a profiling hook to the callbacks, and return it."""
    from perigee._api.arguments import sorted_callbacks
    from perigee._disk import check_folder
    from perigee.tools import Profile

    if arguments["run"] is None:
        raise FileError("--profile: there is no run to store the trace in; pass --run DIR.")
    hooks, callbacks = sorted_callbacks(arguments.get("callbacks"))
    check_folder(place := Path(arguments["run"].path) / "profile")
    made = Profile(place)
    arguments["callbacks"] = [*hooks, made, *callbacks]
    return made


def seed_all(seed: int | None) -> None:
    """Seed weights and all else, if there is a seed."""
    if seed is not None:
        import keras

        keras.utils.set_random_seed(seed)


def _trained(
    experiment: Experiment,
    settings: Settings,
    arguments: Mapping[str, Any],
    validates: bool,
    overfit: int | None,
) -> Any:
    from perigee._api.experiment import PARTS
    from perigee._api.fit import fit as train
    from perigee._runs.changes import settings as set_up

    arguments = dict(arguments)
    seed_all(arguments.get("seed"))
    step = experiment.make_step(settings.step)
    data = experiment.make_data("data", settings.data)
    if overfit is not None:
        data = _first_batches(data, overfit, arguments)
        for name in ("batch_size", "shuffle", "steps_per_epoch"):
            arguments.pop(name, None)
    if overfit is None and validates and experiment.validation is not None:
        arguments["validation"] = experiment.make_data("validation", settings.validation)
    else:
        for name in ("validate_every", "validation_steps"):
            arguments.pop(name, None)
    with set_up(*experiment.settings({part: getattr(settings, part) for part in PARTS})):
        return train(step, data, **arguments)


def _first_batches(data: Any, count: int, arguments: Mapping[str, Any]) -> list[Any]:
    """Return the first batches of data, in its own order."""
    from perigee import _backends
    from perigee.data import open_feed

    feed = open_feed(data, batch_size=arguments.get("batch_size"))
    try:
        batches: list[Any] = []
        while len(batches) < count and (batch := feed.draw()) is not None:
            batches.append(_backends.current().to_host(batch))
        return batches
    finally:
        feed.close()


def _overfitted(count: int, values: Mapping[str, list[float]]) -> str:
    """Describe the result of training on a few batches."""
    shown = ", ".join(
        f"{name} {found[0]:.4g} -> {found[-1]:.4g}"
        for name, found in values.items()
        if found and not name.endswith("learning_rate")
    )
    return f"On {count} batch{'' if count == 1 else 'es'}: {shown}."


def _tried(
    experiment: Experiment,
    settings: Settings,
    arguments: Mapping[str, Any],
    validates: bool,
    overfit: int | None,
) -> str:
    """Train a little, save, and resume in a new Step, in a directory that is removed."""
    steps = max(2, arguments.get("accumulate", 1))
    tried = {
        **arguments,
        "progress": "off",
        "validation_steps": min(arguments.get("validation_steps") or 10**9, _LONGEST_VALIDATION),
    }
    for name in ("epochs", "callbacks", "validate_every"):
        tried.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="perigee-dry-run-") as folder:
        tried["run"] = as_kept(tried.get("run"), Path(folder) / "run", {"resume": "auto"})
        told: list[Any] = []
        for part in (1, 2):
            tried["steps"] = part * steps
            told.append(_trained(experiment, settings, tried, validates, overfit))
        first, again = told
        if again.resumed_from is None or again.resumed_from.step != steps:
            raise FileError("The saved run was not resumed.")
        saved = (Path(folder) / "run" / "checkpoints").rglob("*")
        newest = max(saved, key=lambda path: path.stat().st_size)
        size = newest.stat().st_size / 2**20
        names = ", ".join(n for n in first.history if not n.endswith("learning_rate"))
    validated = any(name.startswith("val_") for name in first.history)
    return (
        f"{steps} steps trained{', validated' if validated else ''} and saved ({size:.1f} MiB), "
        f"then resumed for {steps} more.\nLogged: {names}.\nNothing was saved."
    )
