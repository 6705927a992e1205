"""The field's words in what users read: no phrase that a practitioner would have to guess at."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())
PAGES = [
    *sorted((ROOT / "src" / "perigee").rglob("*.py")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
]

BETTER = {
    r"(go|goes|going|gone|went) on": "continue, resume",
    r"(take|takes|taken|taking|took) up": "resume",
    r"anew": "again, from the start",
    r"(put|puts|putting) (\w+ )?back": "restore, undo",
    r"(tell|tells|telling|told) of": "report, notify",
    r"(hear|hears|heard) of": "is notified of, is called with",
    r"(come|comes|coming|came) to": "result, amount",
    r"(ask|asks|asked|asking) for": "request",
    r"whole numbers?": "integer",
    r"from (0|1|one|zero) on": "positive, not negative",
    r"aloud": "warn",
    r"as far as (anyone knows|(it|they) (is|are)|(is|are)) ?(known)?": "known",
    r"nobody has": "until, not yet",
    r"known again": "identity",
    r"by what (a|each|it|the) \w+ is": "name it by a noun",
    r"took equally long": "is divided evenly",
    r"choose one": "list the choices",
    r"(what|that|which) (is|are) no(?! (longer|more|other))": "is not a",
    r"(?-i:Of)(?! course)": "subject before verb",
    r"of which a \w+ would not": "subject before verb",
    r"(trace|traces|traced|tracing) again": "retrace",
    r"(compile|compiles|compiled|compiling) again": "recompile",
    r"the first process(?! of a container)": "chief process",
    r"without a word": "silently",
    r"(step|steps|update|updates) (that )?(is|are|was|were) left out": "skip",
    r"(leave|leaves|leaving) (a|the) (step|update)s? out": "skip",
    r"nothing of it behind": "undoes",
    r"(less|least) usual": "advanced, rare",
    r"proving that nothing changed": "parity",
}
"""Phrases to avoid, as regular expressions, and what to write instead."""


def phrases(text: str) -> list[str]:
    """The phrases of `BETTER` in a text, also across its lines and its halves of a string."""
    text = re.sub(r'"\s*\n\s*[rf]?"', "", text)
    text = re.sub(r"\s*\n\s*(#+ )?", " ", text)
    return [
        f"{text[max(0, found.start() - 30) : found.end() + 30]!r}: {better}"
        for pattern, better in BETTER.items()
        for found in re.finditer(rf"\b{pattern}(?!\w)", text, re.IGNORECASE)
    ]


@pytest.mark.parametrize(
    "text",
    [
        "A run goes on.",
        "# it goes\n# on",
        '"the run is taken "\n    f"up here"',
        "Of iterables and functions some batches are drawn ahead.",
    ],
)
def test_a_phrase_is_seen_wherever_lines_break(text):
    assert len(phrases(text)) == 1


@pytest.mark.parametrize("text", ["while trainer.goes_on(steps=3):", "the run was resumed"])
def test_right_words_and_public_names_pass(text):
    assert phrases(text) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_use_the_words_of_the_field(page):
    assert phrases(page.read_text(encoding="utf-8")) == []
