"""What was probably meant by a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable


def near_names(given: object, known: Iterable[str], most: int = 1) -> list[str]:
    """Return the names that look most like the one that was given, at most so many."""
    import difflib  # which only mistakes need

    return difflib.get_close_matches(str(given), list(known), n=most)


def did_you_mean(
    given: object, known: Iterable[str], *, most: int = 1, form: str = "`{}`"
) -> str | None:
    """Return the names that were probably meant as a question; `None` where none is like it.

    >>> did_you_mean("epoch", ["epochs", "steps"])
    'did you mean `epochs`?'

    Args:
        given: What does not exist.
        known: What does.
        most: How many to name at most.
        form: How a name is written.
    """
    near = [form.format(name) for name in near_names(given, known, most)]
    return f"did you mean {', '.join(near)}?" if near else None
