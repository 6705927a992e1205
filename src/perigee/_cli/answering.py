"""How a command answers mistakes: with what is wrong and how to mend it, not with a traceback."""

from __future__ import annotations

import functools
import inspect
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer

from perigee._cli.files import FileError
from perigee._errors import PerigeeError

_FAILED = 1
_WRONG = 2

_TRACEBACK = inspect.Parameter(
    "traceback",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool, typer.Option("--traceback", help="Show where in the code an error was raised.")
    ],
)


def answering(command: Callable[..., Any]) -> Callable[..., None]:
    """Let a command say errors in a few lines, with `--traceback` for all of them.

    It exits with 2 for what Perigee refuses, and with 1 where the user's code raised.
    """

    @functools.wraps(command)
    def run(*args: Any, traceback: bool = False, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            if traceback:
                raise
            typer.echo(_said(error), err=True)
            is_refused = isinstance(error, PerigeeError | FileError)
            raise typer.Exit(_WRONG if is_refused else _FAILED) from None

    signature = inspect.signature(command, eval_str=True)
    parameters = [*signature.parameters.values(), _TRACEBACK]
    run.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _said(error: Exception) -> str:
    """Return what an error says, and of an error of user code where it was raised."""
    notes = [str(note) for note in getattr(error, "__notes__", ())]
    if isinstance(error, PerigeeError | FileError):
        return "\n".join([str(error), *notes])
    head = "".join(traceback.format_exception_only(error)).strip()
    lines = [line for line in [head] if line]
    place = _place(error)
    if place is not None:
        lines.append(f"Raised in {place}.")
    lines.append("`--traceback` shows where it comes from.")
    return "\n".join(lines)


def _place(error: Exception) -> str | None:
    """Return file and line of the innermost code that is no installed package's."""
    own = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = frame.f_code.co_filename
        if path.startswith("<") or "site-packages" in path or path.startswith(sys.prefix):
            continue
        if frame.f_globals.get("__name__", "").partition(".")[0] in ("perigee", "typer"):
            continue
        own = f"{path}, line {line}"
    return own
