"""PG320, NotFinite: a NaN or an infinity in the data.

One such value makes the loss, the gradients and then all weights NaN.

How sure: an error, shown by the value.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Find values that are not finite in all known rows."""
    found: list[Finding] = []
    for index, column in enumerate(evidence.columns):
        if column.dtype.kind != "f" or np.isfinite(column).all():
            continue
        bad = np.argwhere(~np.isfinite(column))
        place = ", ".join(str(int(i)) for i in bad[0])
        value = column[tuple(bad[0])]
        found.append(
            Finding(
                code="PG320",
                name="NotFinite",
                severity="error",
                happened=f"batch[{index}] holds {len(bad)} values that are not finite, the first "
                f"one ({value}) at [{place}].",
                expected="finite values.",
                fix="fill or drop the missing values before training.",
            )
        )
    return found
