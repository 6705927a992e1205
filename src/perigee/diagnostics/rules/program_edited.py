"""PG432, ProgramEdited: a run is resumed by a program whose code was edited.

The code of the step, of the functions that it calls, and of callbacks that reach the training is
compared with that of the start before: by its bytecode and constants, without comments, docstrings
and prints. An edit may change what is trained, or be a mere cleanup; so it is said, and the
training continues. A curve that an edit may have bent shows it here.

How sure: a warning, shown by the bytecode then and now. The edit may change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from perigee.diagnostics._finding import Finding


def check(named: Sequence[str]) -> list[Finding]:
    """Report what differs from the start before, and may change the training."""
    if not named:
        return []
    return [
        Finding(
            code="PG432",
            name="ProgramEdited",
            severity="warning",
            happened="The run continues with a program that was edited since it was last started:",
            items=tuple(named),
            expected="the program that trained the run so far.",
            fix="nothing, if the edit changes no number; otherwise choose another directory.",
        )
    ]
