"""The pages of `perigee explain`: one per code, from the docstring next to the code."""

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from perigee._errors import PerigeeError, near_names

_MOST_SUGGESTED = 5

_SUBJECTS = {"PG7": "Findings of guards while a training runs (PG7xx)"}
"""Subjects of codes that no error class has."""

_ABOUT_TAPES = frozenset(
    {"PG101", "PG104", "PG105", "PG110", "PG121", "PG129", "PG209", "PG411", "PG451"}
)

_OF_TAPES = """\
`accumulate`, several replicas, `nonfinite="skip"` and the other frameworks need `minimize`. In a
Step, a gradient tape becomes these lines, which also scale the loss, add the weight penalties and
check that a gradient reaches each variable:

```python
def objective():
    return loss_fn(y, self.model(x, training=True))


loss = self.minimize(objective, self.optimizer, self.model)
```"""
"""What the pages about updates that a step makes itself end with."""


@dataclass(frozen=True, slots=True)
class Page:
    """The page about one code.

    Attributes:
        code: The code, such as `"PG101"`.
        name: The error class with the code, or the rule that reports it as a finding.
        caught_as: The built-in exceptions that it inherits from.
        subject: The subject of its group of codes; empty for the base class of all errors.
        text: The explanation, in Markdown, beginning with a summary sentence.
        is_finding: Whether it is reported, not raised.
        shown_by: The evidence for an error about the program that is trained; else empty.
        can_be_ignored: Whether `ignore_findings` turns it off.
    """

    code: str
    name: str
    caught_as: tuple[str, ...]
    subject: str
    text: str
    is_finding: bool = False
    shown_by: str = ""
    can_be_ignored: bool = False

    @property
    def summary(self) -> str:
        """The first sentence of the explanation."""
        return self.text.partition("\n\n")[0].replace("\n", " ")


def all_pages() -> dict[str, Page]:
    """Return every page by its code, in the order of the codes."""
    pages = [_page_of(error) for error in _errors_below(PerigeeError)]
    subjects = _SUBJECTS | {page.code[:3]: page.subject for page in pages if page.subject}
    pages += _rule_pages(subjects)
    pages = [
        replace(page, text=f"{page.text}\n\n{_OF_TAPES}") if page.code in _ABOUT_TAPES else page
        for page in pages
    ]
    return {page.code: page for page in sorted(pages, key=lambda page: page.code)}


def find_page(asked: str) -> Page | None:
    """Return the page for a code or a class name, ignoring case; `None` if unknown."""
    wanted = _normalized(asked)
    for page in all_pages().values():
        if wanted in (page.code, page.name.upper()):
            return page
    return None


def near_pages(asked: str) -> list[Page]:
    """Return the pages whose codes or names are most similar to the request, at most five."""
    pages = all_pages()
    by_label = pages | {page.name.upper(): page for page in pages.values()}
    labels = near_names(_normalized(asked), by_label, most=_MOST_SUGGESTED)
    return sorted({by_label[label] for label in labels}, key=lambda page: page.code)


def _normalized(asked: str) -> str:
    asked = asked.strip().strip("[]").upper()
    return f"PG{asked}" if asked.isdigit() else asked


def _errors_below(error: type[PerigeeError]) -> Iterator[type[PerigeeError]]:
    # A class that inherits its code is a variant of its base class, without its own page.
    if "code" in vars(error):
        yield error
    for subclass in error.__subclasses__():
        yield from _errors_below(subclass)


def _rule_pages(subjects: Mapping[str, str]) -> Iterator[Page]:
    """Yield the pages of rules, from the docstrings of their modules.

    The modules are parsed, not imported, since that would import a framework.
    """
    for path in sorted((Path(__file__).parents[1] / "diagnostics").rglob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        head = re.match(r"(PG\d{3}), ([A-Z]\w+): ", text)
        if head is not None:
            code, name = head.groups()
            summary = text[head.end() :]
            text = summary[:1].upper() + summary[1:]
            yield Page(code, name, (), subjects.get(code[:3], ""), text, True, can_be_ignored=True)


def _page_of(error: type[PerigeeError]) -> Page:
    # The attributes of an error are documented for readers of the code, not of the page.
    text = (inspect.getdoc(error) or "").partition("\n\nAttributes:")[0]
    subject = inspect.getdoc(sys.modules[error.__module__]) or ""
    return Page(
        code=error.code,
        name=error.__name__,
        caught_as=tuple(
            base.__name__
            for base in error.__bases__
            if base is not Exception and not issubclass(base, PerigeeError)
        ),
        subject="" if error is PerigeeError else subject.partition("\n")[0].rstrip("."),
        text=text,
        shown_by=error.shown_by,
        can_be_ignored=error.can_be_ignored,
    )
