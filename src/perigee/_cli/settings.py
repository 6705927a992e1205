"""Settings from `[tool.perigee.check]` of a project's `pyproject.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from perigee._cli.files import question
from perigee._cli.pages import all_pages, near_pages

Level = Literal["default", "full"]
FailOn = Literal["error", "warning", "hint"]
Format = Literal["text", "json", "github"]

_TABLE = "[tool.perigee.check]"


class SettingsError(Exception):
    """A setting on the command line or in a file is invalid."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a check.

    Attributes:
        ignore: Codes that are not reported.
        level: `"default"`, or `"full"`, which adds trials of some hundred steps.
        fail_on: The lowest severity at which the command fails.
    """

    ignore: tuple[str, ...] = ()
    level: Level = "default"
    fail_on: FailOn = "warning"


def settings_for(file: Path) -> Settings:
    """Return the settings of the nearest `pyproject.toml` with the table, from `file` upwards.

    Raises:
        SettingsError: If it cannot be read, or has an invalid setting.
    """
    for directory in file.resolve().parents:
        path = directory / "pyproject.toml"
        if not path.is_file():
            continue
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsError(f"{path} cannot be read: {error}") from error
        table: Any = content
        for name in ("tool", "perigee", "check"):
            table = table.get(name) if isinstance(table, dict) else None
        if table is not None:
            return _parse(table, str(path))
    return Settings()


def with_options(
    settings: Settings,
    ignore: Sequence[str],
    level: str | None,
    fail_on: str | None,
) -> Settings:
    """Return the settings with command-line options: codes are added, the rest is replaced.

    Raises:
        SettingsError: If a code is unknown, or a choice is invalid.
    """
    codes = [code.strip() for given in ignore for code in given.split(",") if code.strip()]
    return replace(
        settings,
        ignore=(*settings.ignore, *(known_code(code, "--ignore") for code in codes)),
        level=settings.level if level is None else one_of("--level", level, Level),
        fail_on=settings.fail_on if fail_on is None else one_of("--fail-on", fail_on, FailOn),
    )


def known_code(given: str, where: str) -> str:
    """Return a code in its normal form.

    Raises:
        SettingsError: If it is unknown; similar ones are named.
    """
    code = given.upper()
    if code in all_pages():
        return code
    near = ", ".join(f"{page.code} ({page.name})" for page in near_pages(given))
    raise SettingsError(
        f"{where}: there is no code {given!r}."
        + (f" Did you mean {near}?" if near else "")
        + " `perigee explain` lists all codes."
    )


def one_of(where: str, given: Any, choices: Any) -> Any:
    """Return a valid choice.

    Raises:
        SettingsError: If it is not one of the choices.
    """
    known = get_args(choices)
    if given in known:
        return given
    raise SettingsError(
        f"{where}: {given!r} is not one of {', '.join(known)}.{question(given, known)}"
    )


def _parse(table: Any, path: str) -> Settings:
    if not isinstance(table, dict):
        raise SettingsError(f"{path}: {_TABLE} is not a table.")
    known = ("ignore", "level", "fail-on")
    for name in table:
        if name not in known:
            raise SettingsError(
                f"{path}: {_TABLE} has no setting {name!r}, but {', '.join(known)}."
                f"{question(name, known)}"
            )
    codes = table.get("ignore", [])
    if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes):
        raise SettingsError(f'{path}: ignore must be a list of codes, such as ["PG220"].')
    return Settings(
        ignore=tuple(known_code(code, f"{path}: ignore") for code in codes),
        level=one_of(f"{path}: level", table.get("level", "default"), Level),
        fail_on=one_of(f"{path}: fail-on", table.get("fail-on", "warning"), FailOn),
    )
