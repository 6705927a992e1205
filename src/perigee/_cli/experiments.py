"""Loads the experiment of a file, for the commands that train, measure and verify it."""

from __future__ import annotations

import types
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perigee._cli.files import FileError, as_program, compiled, similar, split

if TYPE_CHECKING:
    from perigee._api.experiment import Experiment

_WANTED = "experiment"


@dataclass(frozen=True, slots=True)
class Settings:
    """The `--set` options, by the part of the experiment that they change."""

    step: dict[str, str]
    data: dict[str, str]
    validation: dict[str, str]

    @classmethod
    def parsed(cls, given: Sequence[str]) -> Settings:
        """Parse `part.name=value`.

        Raises:
            FileError: If one is not of that form.
        """
        parts: dict[str, dict[str, str]] = {"step": {}, "data": {}, "validation": {}}
        for text in given:
            name, equals, value = text.partition("=")
            part, dot, argument = name.strip().partition(".")
            if not (equals and dot and part in parts and argument.isidentifier()):
                raise FileError(
                    f"--set {text}: it is not of the form step.NAME=VALUE, data.NAME=VALUE or "
                    "validation.NAME=VALUE."
                )
            parts[part][argument] = value.strip()
        return cls(**parts)


@contextmanager
def opened(file: str) -> Generator[Experiment]:
    """Import a file, and yield the experiment in it; what the file prints is printed.

    Args:
        file: `FILE` or `FILE:NAME`.

    Raises:
        FileError: If there is no such file or experiment.
    """
    path, name = split(file)
    with imported(path) as names:
        yield experiment_of(path, name, names)


@contextmanager
def imported(path: Path) -> Generator[dict[str, Any]]:
    """Import a file, and yield its contents by name.

    Raises:
        FileError: If there is no such file.
    """
    code = compiled(path)
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    with as_program(path, module, ()):
        try:
            exec(code, vars(module))
        except SystemExit as error:
            raise FileError(
                f"{path} called `sys.exit({error.code!r})` while it was imported; call that "
                'only under `if __name__ == "__main__":`.'
            ) from error
        yield vars(module)


def experiment_of(path: Path, name: str | None, names: dict[str, Any]) -> Experiment:
    """Return the experiment of a file.

    Raises:
        FileError: If there is none, or there are several and none is named.
    """
    from perigee._api.experiment import Experiment

    known = {n: v for n, v in names.items() if isinstance(v, Experiment)}
    if name is not None:
        if name in known:
            return known[name]
        if name in names:
            kind = type(names[name]).__name__
            raise FileError(f"{path}:{name} is a {kind}, not a `pg.Experiment`.{_listed(known)}")
        raise FileError(f"{path} has no {name!r}.{similar(name, known) or _listed(known)}")
    if not known:
        raise FileError(
            f"{path} holds no `pg.Experiment`.\n"
            "Write `experiment = pg.Experiment(step=make_step, data=load_data, fit={...})` into "
            f"it; a script that itself calls `pg.fit` is run by `python {path}`."
        )
    if len({id(value) for value in known.values()}) > 1 and _WANTED not in known:
        raise FileError(f"{path} holds several experiments.{_listed(known)} Name one: {path}:NAME.")
    return known.get(_WANTED) or next(iter(known.values()))


def _listed(known: dict[str, Any]) -> str:
    return f" Its experiments: {', '.join(known)}." if known else ""
