"""PG431, LargePosition: a data position that takes many megabytes in each checkpoint.

The position of a `tf.data` pipeline holds what the pipeline has buffered: all elements that a
`.shuffle(...)` keeps, and those that were prefetched. It is written with each checkpoint. The
position of arrays, of a PyDataset and of a pipeline over indices takes a few kilobytes, however
large the data.

How sure: a hint, shown by the size of the position in the checkpoint.
"""

from __future__ import annotations

from perigee.diagnostics._finding import Finding


def check(kind: str, size_bytes: int, most_bytes: int, fix: str) -> list[Finding]:
    """Report a position, in data of this kind, that takes more than `most_bytes`."""
    if size_bytes <= most_bytes:
        return []
    return [
        Finding(
            code="PG431",
            name="LargePosition",
            severity="hint",
            happened=f"The position in the data ({kind}) takes {size_bytes / 1e6:,.1f} MB of each "
            "checkpoint.",
            expected=f"at most {most_bytes / 1e6:,.1f} MB.",
            fix=fix,
        )
    ]
