"""PG001, RuleFailed: a rule of Perigee's that failed itself.

It says nothing of your program: `check` and the guards of `fit` never end what they look at. The
other rules went on, and so did the training. Please report it, with the places that it lists; until
it is mended, leave the code out, or make Perigee check less (`guards=` of `fit`).
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from perigee._errors import PerigeeError
from perigee.diagnostics._finding import Finding

CODE, NAME = "PG001", "RuleFailed"


class Fence:
    """Runs rules: one that fails ends nothing, and is told of as a finding.

    What a rule raises as a `PerigeeError` is what it found, and comes out.
    """

    def __init__(self) -> None:
        self._failures: list[tuple[str, Exception]] = []

    def run(self, rule: Callable[..., Iterable[Finding] | None], *arguments: Any) -> list[Finding]:
        """Return what a rule finds; nothing if it fails.

        Args:
            rule: Takes the arguments; it may report its result only by raising a `PerigeeError`.
            arguments: Arguments of the rule.
        """
        try:
            return list(rule(*arguments) or ())
        except PerigeeError:
            raise
        except Exception as error:
            self.add(rule_name(rule), error)
            return []

    def add(self, rule: str, error: Exception) -> None:
        """Take note of a rule that failed.

        Args:
            rule: What is said of it, such as `"PG222, WrongSign"`.
            error: What it raised.
        """
        failed(rule, error)
        self._failures.append((rule, error))

    def findings(self) -> list[Finding]:
        """Return what is to be told: one finding for rules that failed at one place alike."""
        alike: dict[tuple[str, str], tuple[dict[str, None], Exception]] = {}
        for rule, error in self._failures:
            key = _said(error), _places(error)[0]
            alike.setdefault(key, ({}, error))[0][rule] = None
        return [_finding(list(rules), error) for rules, error in alike.values()]


def failed(rule: str, error: Exception) -> None:
    """Is called with each rule that fails; Perigee's own tests let it raise the error."""


def rule_name(rule: Callable[..., Any]) -> str:
    """Return the code and the name of a rule, as its module begins with them."""
    module = sys.modules[rule.__module__]
    head = re.match(r"PG\d{3}[^:\n]*(?=:)", module.__doc__ or "")
    return head[0] if head else module.__name__.rpartition(".")[2]


# Rules that look at values within a step, when these are known: their caller is the step.

_told: ContextVar[Fence | None] = ContextVar("fence", default=None)


@contextmanager
def telling(fence: Fence) -> Generator[None]:
    """Let `guarded` functions tell a fence of their failures."""
    token = _told.set(fence)
    try:
        yield
    finally:
        _told.reset(token)


def guarded(rule: Callable[..., None]) -> Callable[..., None]:
    """Return a rule that ends no step within which it is called."""

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
        expected="rules that look at every program that runs.",
        fix="report this fault of Perigee's, with the places. Nothing need change in your program.",
    )


def _said(error: Exception) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _places(error: Exception) -> list[str]:
    """Return where an error was raised, the innermost place first, from the rule on."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first one is the fence itself
    return [
        f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno}, in {frame.name}: {frame.line}"
        for frame in reversed(frames)
    ] or ["an unknown place"]
