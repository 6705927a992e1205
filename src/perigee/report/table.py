"""A table of runs, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from perigee.report.reading import KeptRun
from perigee.writers.terminal import format_duration, format_value

_FIRST_CHOICES = ("val_loss", "loss")


def table(runs: Sequence[KeptRun], values: Sequence[str] = ()) -> str:
    """Return a line for each run: state, epochs, steps, time, last and best values.

    Args:
        runs: The runs, at least one.
        values: Names of logged values; if empty, the validation or training loss, and another
            validation value if there is one.
    """
    names = list(values) or usual_values(runs)
    rows = [["run", "state", "epochs", "steps", "time"]]
    for name in names:
        rows[0] += [name, f"best {name}"]
    rows += [[cell or "-" for cell in row_of(run, names)] for run in runs]
    kept = [
        column
        for column in range(len(rows[0]))
        if column < 5 or any(row[column] != "-" for row in rows[1:])
    ]
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = {column: max(len(row[column]) for row in rows) for column in kept}
    return "\n".join(
        "  ".join(
            row[column].ljust(widths[column]) if column < 2 else row[column].rjust(widths[column])
            for column in kept
        ).rstrip()
        for row in rows
    )


def row_of(run: KeptRun, names: Sequence[str]) -> list[str]:
    """Return the cells of a run: name, state, epochs, steps, time, and of each value last and best.

    What is not known is empty.
    """
    seconds = run.seconds
    row = [run.name, run.state, str(run.clock.get("epoch", 0)), str(run.clock.get("step", 0))]
    row.append("" if seconds is None else format_duration(seconds))
    for name in names:
        last, best = run.values(name)[-1:], run.best(name)
        row += [format_value(last[0]) if last else "", "" if best is None else format_value(best)]
    return row


def printable(text: str) -> str:
    """Return text with its control characters escaped, which a terminal would obey."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def usual_values(runs: Sequence[KeptRun]) -> list[str]:
    """Return the default values to compare runs by: one or two."""
    recorded = list(dict.fromkeys(name for run in runs for name in run.value_names()))
    shown = [name for name in recorded if not name.endswith("learning_rate")]
    chosen = [name for name in _FIRST_CHOICES if name in shown][:1] or shown[:1]
    others = [name for name in shown if name.startswith("val_") and name not in chosen]
    return chosen + others[:1]
