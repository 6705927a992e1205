"""Write the table of `distribution.md`: what was tried on which strategy.

A cell shows the verdict of tests marked with `@pytest.mark.tried(feature, strategy="works")`, and
is empty if there is none.

python docs/generate_distribution.py
"""

import ast
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE / "distribution.md"
TESTS = HERE.parent / "tests" / "distribution"

BEGIN = "<!-- Written by docs/generate_distribution.py from the marks of tests/distribution. -->\n"
END = "<!-- Until here. -->"
STRATEGIES = {
    "one_device": "OneDevice",
    "mirrored": "Mirrored",
    "workers": "MultiWorkerMirrored",
    "central_storage": "CentralStorage",
    "data_parallel": "JAX DataParallel",
    "model_parallel": "JAX ModelParallel",
    "jax_processes": "JAX, processes",
}


def table() -> str:
    """Return the table, one row per feature, in the order of the tests."""
    rows: dict[str, dict[str, str]] = {}
    for file in sorted(TESTS.glob("test_*.py")):
        for feature, verdicts in _marks(ast.parse(file.read_text(encoding="utf-8"))):
            row = rows.setdefault(feature, {})
            for strategy, verdict in verdicts.items():
                if row.setdefault(strategy, verdict) != verdict:
                    raise ValueError(f"{feature} on {strategy}: {row[strategy]} and {verdict}")
    lines = ["| | " + " | ".join(STRATEGIES.values()) + " |"]
    lines.append("|---" * (1 + len(STRATEGIES)) + "|")
    for feature, verdicts in rows.items():
        cells = [verdicts.get(strategy, "") for strategy in STRATEGIES]
        lines.append(f"| {feature} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _marks(module: ast.Module) -> Iterator[tuple[str, dict[str, str]]]:
    for node in ast.walk(module):
        for mark in getattr(node, "decorator_list", ()):
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.tried":
                said = {str(word.arg): ast.literal_eval(word.value) for word in mark.keywords}
                if not said or said.keys() - STRATEGIES.keys():
                    raise ValueError(f"line {mark.lineno}: {ast.unparse(mark)}")
                yield ast.literal_eval(mark.args[0]), said


def render(page: str) -> str:
    """Return a page with the current table."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE.name)
