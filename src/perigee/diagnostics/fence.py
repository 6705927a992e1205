"""PG001, RuleFailed: a rule of Perigee that raised an error itself.

It says nothing about your program: `check` and the guards of `fit` never end what they examine. The
other rules continued, and so did the training. Please report it, with the places that it lists;
until it is fixed, exclude the rule, or check less (`guards=` of `fit`).

No program is shown: one that shows it shows a bug of Perigee's, which is then mended.

How sure: a hint; the rule raised the exception that it names.
"""

from __future__ import annotations

import re
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from perigee._errors import PerigeeError
from perigee.diagnostics._finding import Finding

CODE, NAME = "PG001", "RuleFailed"


class Fence:
    """Runs rules: one that fails ends nothing, and is reported as a finding.

    A `PerigeeError` that a rule raises is its result, and is raised.
    """

    def __init__(self) -> None:
        self._failures: list[tuple[str, Exception]] = []

    def run(self, rule: Callable[..., Iterable[Finding] | None], *arguments: Any) -> list[Finding]:
        """Return what a rule finds; nothing if it fails. What its probes warn of is not shown.

        Args:
            rule: Takes the arguments; it may report its result only by raising a `PerigeeError`.
            arguments: Arguments of the rule.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return list(rule(*arguments) or ())
        except PerigeeError:
            raise
        except Exception as error:
            self.add(rule_name(rule), error)
            return []

    def add(self, rule: str, error: Exception) -> None:
        """Record a rule that failed.

        Args:
            rule: Its name in the report, such as `"PG222, WrongSign"`.
            error: What it raised.
        """
        failed(rule, error)
        self._failures.append((rule, error))

    def findings(self) -> list[Finding]:
        """Return one finding for all rules that failed at the same place."""
        alike: dict[tuple[str, str], tuple[dict[str, None], Exception]] = {}
        for rule, error in self._failures:
            key = _said(error), _places(error)[0]
            alike.setdefault(key, ({}, error))[0][rule] = None
        return [_finding(list(rules), error) for rules, error in alike.values()]


def failed(rule: str, error: Exception) -> None:
    """Called with each rule that fails; Perigee's own tests let it raise the error."""


def rule_name(rule: Callable[..., Any]) -> str:
    """Return the code and the name of a rule, as its module begins with them."""
    module = sys.modules[rule.__module__]
    head = re.match(r"PG\d{3}[^:\n]*(?=:)", module.__doc__ or "")
    return head[0] if head else module.__name__.rpartition(".")[2]


# Rules that examine values within a step, when these are known: the step calls them.

_told: ContextVar[Fence | None] = ContextVar("fence", default=None)


@contextmanager
def telling(fence: Fence) -> Generator[None]:
    """Let `guarded` functions report their failures to a fence."""
    token = _told.set(fence)
    try:
        yield
    finally:
        _told.reset(token)


def guarded(rule: Callable[..., None]) -> Callable[..., None]:
    """Return a rule that never ends the step that calls it."""

    def run(*arguments: Any) -> None:
        try:
            rule(*arguments)
        except PerigeeError:
            raise
        except Exception as error:
            name = rule_name(getattr(rule, "func", rule))
            fence = _told.get()
            failed(name, error) if fence is None else fence.add(name, error)

    return run


def _finding(rules: list[str], error: Exception) -> Finding:
    what = f"The rule {rules[0]}" if len(rules) == 1 else f"{len(rules)} rules"
    which = "" if len(rules) == 1 else f" ({'; '.join(rules)})"
    return Finding(
        code=CODE,
        name=NAME,
        severity="hint",
        happened=f"{what}{which} failed: {_said(error)}, at:",
        items=tuple(_places(error)),
        expected="rules that handle every program that runs.",
        fix="report this bug in Perigee, with the places. Your program need not change.",
    )


def _said(error: Exception) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _places(error: Exception) -> list[str]:
    """Return where an error was raised within the rule, the innermost place first."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first one is the fence itself
    return [
        f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno}, in {frame.name}: {frame.line}"
        for frame in reversed(frames)
    ] or ["an unknown place"]
