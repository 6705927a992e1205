"""The base class of the errors: a message of four parts, a code, and facts as attributes."""

from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar

from perigee._errors._frames import are_whole, lines_of

_MOST_LISTED = 5

_MOST_LINES = 10
"""Lines of an error in a notebook."""


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
        most_listed: The most items in its message.
        can_be_ignored: Whether `ignore_findings` turns it off, since it may be intended.
        happened: What was observed, with values, in one sentence.
        items: Everything that it is about (variables by path, batches, names).
        expected: What would have been right.
        fix: What to change.
    """

    code: ClassVar[str] = "PG000"
    shown_by: ClassVar[str] = ""
    most_listed: ClassVar[int] = _MOST_LISTED
    can_be_ignored: ClassVar[bool] = False

    # TensorFlow would replace an error that passes through code it rewrites, unless it has this.
    ag_pass_through: ClassVar[bool] = True

    def __init__(
        self, happened: str, *, expected: str, fix: str, items: Sequence[str] = ()
    ) -> None:
        self.happened = happened
        self.items: tuple[str, ...] = tuple(items)
        self.expected = expected
        self.fix = fix
        super().__init__(
            compose(
                type(self).__name__,
                self.code,
                happened,
                expected,
                fix,
                self.items,
                self.most_listed,
            )
        )

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows, in ten lines: where it was raised, the message, notes."""
        if are_whole():
            from traceback import format_exception  # needed only here

            return "".join(format_exception(self)).splitlines()
        frames = lines_of(self.__traceback__)
        shown = [*frames[:1], *frames[1:][-1:]]
        message, room = str(self).splitlines(), _MOST_LINES - len(shown)
        if len(message) > room:
            message = [*message[: room - 4], "  - ...", *message[-3:]]
        notes = "\n".join(getattr(self, "__notes__", [])).splitlines()
        return [*shown, *message, *notes][:_MOST_LINES]


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


def listed(items: Sequence[str], most: int = _MOST_LISTED) -> list[str]:
    """Return at most so many items; instead of the others, how many there are."""
    more = len(items) - most
    return [*items[:most], *([f"... and {more} more"] if more > 0 else [])]


def compose(
    name: str,
    code: str,
    happened: str,
    expected: str,
    fix: str,
    items: Sequence[str],
    most: int = _MOST_LISTED,
) -> str:
    """Lay out the four parts that errors and findings share, listing at most so many items."""
    lines = [
        f"{name} [{code}]: {happened}",
        *(f"  - {item}" for item in listed(items, most)),
        f"Expected: {expected}",
        f"Fix: {fix}",
        f"More: perigee explain {code}",
    ]
    return "\n".join(lines)
