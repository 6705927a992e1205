"""Count the lines of loop code in the gallery, and write the table into `docs/gallery.md`.

    python docs/count_loop_lines.py

Counted are the lines that hold code, as ruff formats it: Steps with their optimizers, losses and
metrics, `make_step`, and the calls of `pg.fit` on one side; the loop on the other. Not counted are

- blank lines, comments, docstrings and imports;
- models and data: functions named `make_...`, classes of layers;
- what the hand-written loops do not have: `predict_step`, functions named `measure_...` and
  `draw_...`, and the rest of `main`;
- the lines that start a script.
"""

import ast
import io
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "examples" / "gallery"
PAGE = ROOT / "docs" / "gallery.md"
BEGIN, END = "<!-- lines: begin -->\n", "<!-- lines: end -->\n"


def count(source):
    """Return how many lines of a module are loop code."""
    tree = ast.parse(source)
    left_out = set()
    for node in tree.body:
        if _is_left_out(node):
            left_out |= _lines(node)
        elif isinstance(node, ast.FunctionDef) and node.name == "main":
            left_out |= _lines(node)
            for statement in node.body:
                if "pg.fit(" in ast.unparse(statement):
                    left_out -= _lines(statement)
    for node in ast.walk(tree):
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_docstring or getattr(node, "name", None) == "predict_step":
            left_out |= _lines(node)
    no_code = {
        *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER),
        *(tokenize.INDENT, tokenize.DEDENT),
    }
    coded = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in no_code:
            coded |= set(range(token.start[0], token.end[0] + 1))
    return len(coded - left_out)


def render(page):
    """Return a page with the table as it must be."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{_table()}\n{END}{after}"


def _table():
    rows = ["| example | with Perigee | hand-written, for TensorFlow |", "|---|---|---|"]
    sums = [0, 0]
    for path in sorted((GALLERY / "by_hand").glob("*.py")):
        pair = [count(p.read_text(encoding="utf-8")) for p in (GALLERY / path.name, path)]
        sums = [total + lines for total, lines in zip(sums, pair, strict=True)]
        rows.append(f"| {path.stem} | {pair[0]} | {pair[1]} |")
    rows.append(f"| total | {sums[0]} | {sums[1]} |")
    return "\n".join(rows) + "\n"


def _is_left_out(node):
    match node:
        case ast.Import() | ast.ImportFrom():
            return True
        case ast.FunctionDef(name=name):
            return name.startswith(("make_", "measure_", "draw_")) and name != "make_step"
        case ast.ClassDef(bases=bases):
            return any("layers.Layer" in ast.unparse(base) for base in bases)
        case ast.If(test=test):
            return ast.unparse(test) == "__name__ == '__main__'"
    return False


def _lines(node):
    return set(range(node.lineno, node.end_lineno + 1))


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
