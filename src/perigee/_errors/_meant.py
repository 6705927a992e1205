"""Suggestions for a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable


def near_names(given: object, known: Iterable[str], most: int = 1) -> list[str]:
    """Return the known names that are most similar to the given one, at most `most`."""
    import difflib  # needed only for mistakes

    return difflib.get_close_matches(str(given), list(known), n=most)


def did_you_mean(
    given: object, known: Iterable[str], *, most: int = 1, form: str = "`{}`"
) -> str | None:
    """Return a "did you mean" question; `None` if no known name is similar.

    >>> did_you_mean("epoch", ["epochs", "steps"])
    'did you mean `epochs`?'

    Args:
        given: The name that does not exist.
        known: The names that do.
        most: The most names to suggest.
        form: The format of a name.
    """
    near = [form.format(name) for name in near_names(given, known, most)]
    return f"did you mean {', '.join(near)}?" if near else None
