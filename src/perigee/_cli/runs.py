"""`perigee runs` and `perigee report`: results of saved runs. No framework is imported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perigee._cli.answering import answering
from perigee._errors import NoRunError

if TYPE_CHECKING:
    from perigee.report import KeptRun


@answering
def runs(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A directory with runs, at any depth.")
    ] = Path("runs"),
    value: Annotated[
        list[str] | None,
        typer.Option("--value", help="A logged value to compare by, such as val_loss; repeatable."),
    ] = None,
    sort: Annotated[
        str | None, typer.Option("--sort", help="A logged value to sort by, the best first.")
    ] = None,
) -> None:
    """List runs: state, epochs, steps, time, last and best values."""
    from perigee import report as reports
    from perigee._errors import PerigeeError

    found: list[KeptRun] = []
    for path in reports.find_runs(directory):
        name = os.path.relpath(path, directory)
        try:
            found.append(reports.read_kept(path, name if name != "." else path.resolve().name))
        except (PerigeeError, OSError) as error:  # a damaged one hides no other
            typer.echo(f"{path} is skipped: {error}", err=True)
    if not found:
        raise NoRunError(str(directory))
    values = list(value or ())
    for name in [*values, *([sort] if sort else [])]:
        _check_recorded(name, found)
    if sort is not None:
        values = values if sort in values else [sort, *values]
        found.sort(key=lambda run: _rank(run, sort))
    typer.echo(reports.table(found, values))


@answering
def report(
    directories: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Run directories, one or several.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write; by default report.html in the run, or in this directory for "
            "several runs.",
        ),
    ] = None,
) -> None:
    """Write the report of a run, or of several side by side, as one HTML file."""
    from perigee import report as reports

    names = _names(directories)
    kept = [reports.read_kept(path, name) for path, name in zip(directories, names, strict=True)]
    if output is None:
        output = Path(reports.FILE_NAME)
        output = directories[0] / output if len(directories) == 1 else output
    reports.write_page(output, kept)
    typer.echo(str(output))


def _names(paths: list[Path]) -> list[str]:
    """Return as much of each path as is unique."""
    paths = [path.resolve() for path in paths]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return [str(path) for path in paths]


def _check_recorded(name: str, found: list[KeptRun]) -> None:
    known = sorted({each for run in found for each in run.value_names()})
    if name not in known:
        raise typer.BadParameter(f"none of them logged {name!r}; logged are {', '.join(known)}.")


def _rank(run: KeptRun, name: str) -> tuple[bool, float]:
    """Return the sort key of a run: the best first, those without the value last."""
    from perigee._events.better import better_mode

    last, best = run.values(name)[-1:], run.best(name)
    value = best if best is not None else last[0] if last else float("nan")
    sign = -1 if better_mode(name.rpartition("/")[2]) == "max" else 1
    return value != value, sign * value
