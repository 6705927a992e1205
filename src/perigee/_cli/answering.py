"""Error messages of commands: what is wrong and how to fix it, instead of a traceback."""

from __future__ import annotations

import functools
import inspect
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from typing import Annotated, Any

import typer

from perigee._cli.files import FileError
from perigee._cli.settings import SettingsError
from perigee._errors import PerigeeError, whole_tracebacks

_FAILED = 1
_WRONG = 2
_REFUSED = PerigeeError | FileError | SettingsError

_TRACEBACK = inspect.Parameter(
    "traceback",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool, typer.Option("--traceback", help="Show where in the code an error was raised.")
    ],
)


def answering(command: Callable[..., Any], failed: int = _FAILED) -> Callable[..., None]:
    """Make a command print errors in a few lines, with `--traceback` for the whole.

    Args:
        command: The command.
        failed: Its exit status if the user's code raised; 2 if Perigee refused something.
    """

    @functools.wraps(command)
    def run(*args: Any, traceback: bool = False, **kwargs: Any) -> None:
        try:
            with whole_tracebacks() if traceback else nullcontext():
                command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            typer.echo(_traced(error) if traceback else _said(error), err=True)
            raise typer.Exit(_WRONG if isinstance(error, _REFUSED) else failed) from None

    signature = inspect.signature(command, eval_str=True)
    parameters = [*signature.parameters.values(), _TRACEBACK]
    run.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _traced(error: Exception) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


def _said(error: Exception) -> str:
    """Return the message of an error, and for an error of user code where it was raised."""
    notes = [str(note) for note in getattr(error, "__notes__", ())]
    if isinstance(error, _REFUSED):
        return "\n".join([str(error), *notes])
    head = "".join(traceback.format_exception_only(error)).strip()
    return f"{_place(error)}{head}\n`--traceback` shows where it comes from."


def _place(error: Exception) -> str:
    """Return file and line of the innermost code outside installed packages, like a linter."""
    own = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = frame.f_code.co_filename
        if path.startswith("<") or "site-packages" in path or path.startswith(sys.prefix):
            continue
        if frame.f_globals.get("__name__", "").partition(".")[0] in ("perigee", "typer"):
            continue
        own = f"{path}:{line}: "
    return own
