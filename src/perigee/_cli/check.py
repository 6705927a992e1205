"""`perigee check`: run the checks on what a file would train."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from perigee._cli.answering import answering
from perigee._cli.files import Target, run_until_fit, split
from perigee._cli.settings import (
    Format,
    Settings,
    one_of,
    settings_for,
    with_options,
)

_FOUND, _RAISED = 1, 2
_SEVERITIES = ("error", "warning", "hint")
_COMMANDS = {"error": "error", "warning": "warning", "hint": "notice"}
_BATCHES = 8
"""The number of batches drawn from an iterator, which nothing else will use."""


@partial(answering, failed=_RAISED)
def check(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE[:NAME]",
            help="A Python file, and optionally the NAME in it of a function or object that "
            "provides a Step or compiled model with its data, or of a function that trains on a "
            "batch. Without NAME the file runs up to where it would first train.",
            show_default=False,
        ),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGUMENTS", help="For FILE itself, after --.", show_default=False),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(
            metavar="default|full",
            help="full also runs some hundred steps on a copy. [default: default]",
            show_default=False,
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE", help="Codes that are not reported.", show_default=False),
    ] = None,
    format: Annotated[
        str,
        typer.Option(metavar="text|json|github", help="The format of findings."),
    ] = "text",
    fail_on: Annotated[
        str | None,
        typer.Option(
            metavar="error|warning|hint",
            help="The lowest severity that fails. [default: warning]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check what FILE would train for silent problems. Nothing is trained.

    FILE runs up to its first call of `pg.fit`, `pg.keras_fit`, `model.fit` or
    `model.train_on_batch`; the arguments of that call are checked, and the rest of the file does
    not run. With a loop of its own, FILE runs up to the first update by an optimizer; the function
    that the loop calls with each batch is checked. Further settings are read from
    [tool.perigee.check] in pyproject.toml.

    The exit status is 0 if nothing is found, 1 for findings, and 2 if FILE or the options cannot be
    used.
    """
    path, name = split(file)
    shape: Format = one_of("--format", format, Format)
    settings = with_options(settings_for(path), ignore or [], level, fail_on)
    told: list[tuple[Target, Any]] = []
    run_until_fit(
        path,
        name,
        arguments or [],
        lambda target: told.append((target, _check(target, settings))),
    )
    ((target, report),) = told
    typer.echo(_written(shape, path, target, report), nl=bool(len(report)) or shape != "github")
    worst = _SEVERITIES[: _SEVERITIES.index(settings.fail_on) + 1]
    if any(finding.severity in worst for finding in report):
        raise typer.Exit(_FOUND)


def _check(target: Target, settings: Settings) -> Any:
    from perigee._api.check import check as check_step

    data, validation = target.data, target.validation
    return check_step(
        target.step,
        list(islice(data, _BATCHES)) if isinstance(data, Iterator) else data,
        validation=None if isinstance(validation, Iterator) else validation,
        batch_size=target.batch_size,
        **target.length,
        level=settings.level,
        ignore=settings.ignore,
    )


def _written(shape: Format, path: Path, target: Target, report: Any) -> str:
    if shape == "json":
        facts = {
            "file": str(path),
            "line": target.line,
            "target": target.name or _name(target.step),
            "findings": [finding.facts() for finding in report],
        }
        return json.dumps(facts, indent=2)
    if shape == "github":
        return "\n".join(_annotation(path, target.line, finding) for finding in report)
    return f"{path}:{target.line}: {target.name or _name(target.step)}\n{report}"


def _name(step: Any) -> str:
    """Return the name of what was checked: that of the model, if its steps are Keras's."""
    if hasattr(step, "__name__"):  # a function, of which `pg.fit` makes a Step
        return step.__name__
    model: Any = getattr(step, "model", None)
    if model is None or not type(step).__module__.startswith("perigee."):
        return type(step).__name__
    return f"{type(model).__name__} {model.name!r}"


def _annotation(path: Path, line: int, finding: Any) -> str:
    """Format a finding as a GitHub workflow command, which shows it at the line."""
    relative = os.path.relpath(path) if path.is_absolute() else str(path)
    title = f"{finding.code} {finding.name}"
    head = f"file={_property(relative)},line={line},title={_property(title)}"
    return f"::{_COMMANDS[finding.severity]} {head}::{_data(str(finding))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
