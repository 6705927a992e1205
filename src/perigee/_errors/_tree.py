"""The root of the errors: four parts, a code, and the facts kept as attributes."""

from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar

_MOST_LISTED = 5


class PerigeeError(Exception):
    """Root of every error that Perigee raises on its own account.

    Exceptions raised by user code pass through unchanged; they are never turned into one of these.
    Each subclass also inherits the built-in exception that a reader would catch, and takes facts,
    from which it composes a message of four parts: what happened, what was expected, how to mend
    it, and where to read more.

    Attributes:
        code: Stable identifier of the kind of error, such as `"PG101"`.
        shown_by: What shows that a program has it, for the table of the docs; empty where the
            error is about something else than the program that is trained.
        can_be_ignored: Whether `ignore_findings` turns it off: nothing breaks where it is meant.
        happened: What was seen, with values, one sentence.
        items: The things that it is about (variables by path, batches, names), all of them.
        expected: What would have been right.
        fix: What to change.
    """

    code: ClassVar[str] = "PG000"
    shown_by: ClassVar[str] = ""
    can_be_ignored: ClassVar[bool] = False

    def __init__(
        self, happened: str, *, expected: str, fix: str, items: Sequence[str] = ()
    ) -> None:
        self.happened = happened
        self.items: tuple[str, ...] = tuple(items)
        self.expected = expected
        self.fix = fix
        super().__init__(
            compose(type(self).__name__, self.code, happened, expected, fix, self.items)
        )


_kept: ContextVar[list[PerigeeError] | None] = ContextVar("kept", default=None)


def refuse(error: PerigeeError, ignored: Collection[str]) -> None:
    """Raise an error about a program, unless it can be ignored and is.

    Args:
        error: Raised, but for within `keeping_refusals`.
        ignored: The codes that the Step ignores.
    """
    if error.can_be_ignored and error.code in ignored:
        return
    kept = _kept.get()
    if kept is None or not error.can_be_ignored:
        raise error
    if str(error) not in map(str, kept):
        kept.append(error)


@contextmanager
def keeping_refusals() -> Generator[list[PerigeeError]]:
    """Yield a list for the errors that could be ignored: they let the step run on meanwhile."""
    kept: list[PerigeeError] = []
    token = _kept.set(kept)
    try:
        yield kept
    finally:
        _kept.reset(token)


class PerigeeWarning(UserWarning):
    """Something is probably wrong; the same is on `History.findings`."""


def compose(
    name: str, code: str, happened: str, expected: str, fix: str, items: Sequence[str]
) -> str:
    """Lay out the four parts that errors and findings share, listing at most five items."""
    listed = [f"  - {item}" for item in items[:_MOST_LISTED]]
    if len(items) > _MOST_LISTED:
        listed.append(f"  - ... and {len(items) - _MOST_LISTED} more")
    lines = [
        f"{name} [{code}]: {happened}",
        *listed,
        f"Expected: {expected}",
        f"Fix: {fix}",
        f"More: perigee explain {code}",
    ]
    return "\n".join(lines)
