"""The root of the errors: four parts, a code, and the facts kept as attributes."""

from collections.abc import Sequence
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
        happened: What was seen, with values, one sentence.
        items: The things that it is about (variables by path, batches, names), all of them.
        expected: What would have been right.
        fix: What to change.
    """

    code: ClassVar[str] = "PG000"

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
