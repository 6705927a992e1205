"""Refuse a site that would load anything from a network.

python docs/check_site.py build/site
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

LOADS = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}
"""The attribute through which an element loads something."""

NOT_LOADED = {"canonical", "next", "prev", "alternate"}
"""Kinds of `link` that load nothing."""


class Loaded(HTMLParser):
    """What a page loads.

    Attributes:
        addresses: The addresses as written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in LOADS and given.get("rel") not in NOT_LOADED:
            self.addresses.append(given.get(LOADS[tag]) or "")


def loaded_from_elsewhere(site: Path) -> Iterator[str]:
    """Yield external addresses that pages and style sheets load, each with its file."""
    for path in sorted(site.rglob("*.html")):
        page = Loaded()
        page.feed(path.read_text(encoding="utf-8"))
        for address in page.addresses:
            if re.match(r"(\w+:)?//", address):
                yield f"{path.relative_to(site)}: {address}"
    for path in sorted(site.rglob("*.css")):
        text = path.read_text(encoding="utf-8")
        for address in re.findall(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')]+)", text):
            yield f"{path.relative_to(site)}: {address}"


if __name__ == "__main__":
    found = list(loaded_from_elsewhere(Path(sys.argv[1])))
    print("\n".join(found) or "Nothing is loaded from a network.")
    sys.exit(bool(found))
