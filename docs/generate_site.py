"""Write the pages from which `mkdocs build` makes the site.

Every link leads to a page of the site: files outside `docs` (the README, the results, sources of
examples) become pages as well. Codes such as PG101 and names such as `pg.fit` link to their
explanations.

python docs/generate_site.py
"""

import posixpath
import re
import shutil
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "build" / "pages"

HOMES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/RESULTS.md": "results.md",
}
"""Pages from outside `docs`, and their paths in the site."""

_LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")
_CODE = re.compile(r"^( *)(`{3,})[^\n]*\n.*?^\1\2`*$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`[^`]+`")
_CODE_OF_ERROR = re.compile(r"(?<![\w\[/.-])PG\d{3}(?![\w\]])")
_NAME = re.compile(r"(?<!\[)`pg\.(\w+)(\(\))?`")


def site() -> dict[str, str]:
    """Return every page by its path in the site."""
    waiting = [*HOMES, *(f"docs/{p.relative_to(ROOT / 'docs')}" for p in _below("docs", ".md"))]
    pages: dict[str, str] = {}
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        text, linked = _page(path)
        pages[place_of(path)] = text
        waiting += linked
    return pages


def place_of(path: str) -> str:
    """Return the path in the site of a file or folder of the repository."""
    if path in HOMES:
        return HOMES[path]
    if path.startswith("docs/") and path.endswith((".md", ".ipynb")):
        return path.removeprefix("docs/")
    return f"source/{path}/index.md" if (ROOT / path).is_dir() else f"source/{path}.md"


def _page(path: str) -> tuple[str, list[str]]:
    """Return the text of a file's page, and the files that it links to."""
    whole = ROOT / path
    if whole.is_dir():
        files = [f"{path}/{p.relative_to(whole).as_posix()}" for p in _below(path)]
        links = [f"- [{file}]({posixpath.relpath(file, path)})" for file in files]
        return _within("\n".join([f"# {path}", "", *links, ""]), path, path)
    text = whole.read_text(encoding="utf-8")
    if path.endswith(".ipynb"):
        return text, []
    if not path.endswith(".md"):
        language = {".py": "python", ".toml": "toml", ".yaml": "yaml"}.get(whole.suffix, "")
        return f"# {path}\n\n`````{language}\n{text}`````\n", []
    return _within(text, path, posixpath.dirname(path))


def _within(text: str, path: str, folder: str) -> tuple[str, list[str]]:
    """Rewrite the links of a page, relative to a folder, so that they lead to pages of the site."""
    here = posixpath.dirname(place_of(path))
    linked: list[str] = []

    def relink(link: re.Match[str]) -> str:
        target, anchor = link[1], link[2] or ""
        found = posixpath.normpath(posixpath.join(folder, target))
        if ":" in target or found.startswith("..") or not (ROOT / found).exists():
            return link[0]  # mkdocs reports it if it leads nowhere
        linked.append(found)
        return f"]({posixpath.relpath(place_of(found), here)}{anchor})"

    def explained(line: str) -> str:
        if line.startswith("#"):
            return line
        line = _NAME.sub(lambda name: f"[{name[0]}][perigee.{name[1]}]", line)
        to_code = posixpath.relpath("errors", here or ".")
        return _outside(
            _SPAN, line, lambda prose: _CODE_OF_ERROR.sub(rf"[\g<0>]({to_code}/\g<0>.md)", prose)
        )

    def prose(part: str) -> str:
        relinked = _LINK.sub(relink, part)
        return "\n".join(explained(line) for line in relinked.split("\n"))

    return _outside(_CODE, text, prose), linked


def _outside(code: re.Pattern[str], text: str, change: Callable[[str], str]) -> str:
    """Change what is not code."""
    parts: list[str] = []
    end = 0
    for found in code.finditer(text):
        parts += [change(text[end : found.start()]), found[0]]
        end = found.end()
    return "".join([*parts, change(text[end:])])


def _below(folder: str, suffix: str = "") -> list[Path]:
    return sorted(
        path
        for path in (ROOT / folder).rglob(f"*{suffix}")
        if path.is_file() and "__pycache__" not in path.parts
    )


def write() -> None:
    """Write all pages, replacing earlier ones."""
    shutil.rmtree(PAGES, ignore_errors=True)
    pages = site()
    for place, text in pages.items():
        target = PAGES / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    print(f"{len(pages)} pages")


if __name__ == "__main__":
    write()
