"""The base class of the errors: a message of four parts, a code, and facts as attributes."""

from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar

_MOST_LISTED = 5


class PerigeeError(Exception):
    """Base class of every error that Perigee itself raises.

    Exceptions raised by user code pass through unchanged; they are never turned into one of these.
    Each subclass also inherits the built-in exception that a reader would catch, and takes facts,
    from which it composes a message of four parts: what happened, what was expected, how to fix it,
    and where to read more.

    Attributes:
        code: Stable identifier of the kind of error, such as `"PG101"`.
        shown_by: The evidence for it in a program, for the table in the docs; empty for errors that
            are not about the program that is trained.
        can_be_ignored: Whether `ignore_findings` turns it off, since it may be intended.
        happened: What was observed, with values, in one sentence.
        items: Everything that it is about (variables by path, batches, names).
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
        error: Raised, except within `keeping_refusals`.
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
    """Yield a list that collects errors that could be ignored, while the step continues."""
    kept: list[PerigeeError] = []
    token = _kept.set(kept)
    try:
        yield kept
    finally:
        _kept.reset(token)


class PerigeeWarning(UserWarning):
    """A suspected problem; it is also in `History.findings`."""


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
