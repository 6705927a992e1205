"""The code of two published texts about training loops, assembled to modules that run.

`seeds/*.txt` holds the blocks of code exactly as the texts print them. The first text has lost its
indentation, so the line with a block's name says where the suites of the block end: one number for
each line that opens one (`def`, `for`, `with`), in order, that of the suite's last line.
"""

import importlib.util
import itertools
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_FOLDER = Path(__file__).parent / "seeds"
_NAME = re.compile(r"\[(\w+)\](?: ends ([\d ]+))?")
_OPENS = re.compile(r"(def|for|with) .*:$")
_numbers = itertools.count()


def _read(text: str) -> dict[str, str]:
    """Return the blocks of a text by name, indented again where it says how."""
    blocks: dict[str, list[str]] = {}
    ends: dict[str, list[int]] = {}
    name = ""
    for line in (_FOLDER / f"{text}.txt").read_text().splitlines():
        if found := _NAME.fullmatch(line):
            name = found[1]
            blocks[name], ends[name] = [], [*map(int, (found[2] or "").split())]
        else:
            blocks[name].append(line)
    return {
        name: "\n".join(_indented(lines, ends[name]) if ends[name] else lines)
        for name, lines in blocks.items()
    }


def _indented(lines: list[str], ends: list[int]) -> list[str]:
    waiting, open_until, indented = [*ends], [], []
    for number, line in enumerate(lines, 1):
        open_until = [end for end in open_until if end >= number]
        indented.append(" " * 4 * len(open_until) + line)
        if _OPENS.match(line):
            open_until.append(waiting.pop(0))
    assert not waiting, "a suite has no line that opens it"
    return indented


LOOP = _read("custom-training-loop")
"""The blocks of the first text."""

MODEL = _read("fit-a-custom-model")
"""The blocks of the second text."""


def within(block: str, indent: int = 4) -> str:
    """Return a block as it stands inside another one."""
    return "\n".join(" " * indent + line for line in block.splitlines())


def replaced(block: str, lines: str, by: str) -> str:
    """Return a block in which others stand in place of some lines, which it must hold once."""
    old = within(lines, block.index(lines) - block.rindex("\n", 0, block.index(lines)) - 1)
    assert block.count(old) == 1
    return block.replace(old, within(by, len(old) - len(old.lstrip())))


def until(block: str, line: str) -> tuple[str, str]:
    """Return the parts of a block before and from a line that it holds once."""
    assert block.count(line) == 1
    return block[: block.index(line)], block[block.index(line) :]


def load(folder: Path, *blocks: str, **given: Any) -> ModuleType:
    """Import blocks of code as a module of its own, with what they take for granted."""
    name = f"template_{next(_numbers)}"
    path = folder / f"{name}.py"
    path.write_text("\n".join(["import tensorflow as tf", *blocks, ""]))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    vars(module).update(given)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def extend(module: ModuleType, block: str) -> None:
    """Run a block of code in a module, after what has run in it."""
    exec(compile(block, f"{module.__file__}+", "exec"), vars(module))
