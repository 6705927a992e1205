"""Small checkpoints to save, and what is on the disk afterwards."""

from pathlib import Path
from typing import Any

import numpy as np

from perigee._events.clock import Clock
from perigee.checkpoints import Content


def content(step: int, size: int = 16, **facts: Any) -> Content:
    """Return a content with all four files, of which every part tells the step."""
    return Content(
        clock=Clock(step=step, epoch=step // 10, batch=step % 10),
        arrays={
            "model/0/kernel": np.full((size, 2), step, "float32"),
            "model/1/flag": np.array([True, False]),
            "optimizer/0/iteration": np.array(step),
        },
        facts={"step": step, "buffer": np.arange(step, step + 5), **facts},
        data={"batches": step, "pending": np.arange(step, step + 3)},
    )


def tree(path: Path) -> dict[str, bytes | None]:
    """Return the content of every file below a path; `None` for directories."""
    return {
        str(each.relative_to(path)): each.read_bytes() if each.is_file() else None
        for each in sorted(path.rglob("*"))
    }


def step_of(held: Content) -> int:
    """Return the step that all parts of a content tell alike."""
    told = {
        held.clock.step,
        held.facts["step"],
        int(held.facts["buffer"][0]),
        held.data["batches"],
        int(held.data["pending"][0]),
        int(held.arrays["optimizer/0/iteration"]),
        *(int(value) for value in held.arrays["model/0/kernel"].flat),
    }
    assert len(told) == 1
    return told.pop()
