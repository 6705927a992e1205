"""PG236, PairedRows: a loss in which rows of a batch meet others of the same part only.

Mixup and CutMix blend each row with another one of its batch, and losses of pairs take their
negatives from the next row; losses that rank or select rows, as by hard examples, may look alike
on a few rows. With `accumulate`, and on several replicas of TensorFlow, a row meets
only rows of its own micro-batch or share, so the loss is not quite that of one step on all rows.
For augmentation that is usually meant. Where rows belong together in pairs, as 0 and 1, 2 and 3, it
makes no difference as long as each part has whole pairs: better put a pair into one row.

How sure: a warning, shown by the loss with the contents of groups of rows exchanged.
"""

from __future__ import annotations

from perigee._errors import CoupledRowsError
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._rows import Rows


def check(rows: Rows) -> list[Finding]:
    """Report an objective whose rows meet, unless it is refused or meant to be of a part."""
    keys = [key for key in rows.meeting if key.kind == "objective"]
    if not keys or CoupledRowsError.code in rows.step.ignore_findings:
        return []
    return [
        Finding(
            code="PG236",
            name="PairedRows",
            severity="warning",
            happened=f"The loss of some rows depends on some others of the same {rows.parts}: they "
            "are blended as in mixup, paired, ranked or selected.",
            expected="a loss of its own for each row, where an update is to equal one large batch.",
            fix="ignore this if any rows of a part will do, as for augmentation. A loss that ranks "
            "or selects rows of the whole batch needs all of them in one step, on one device.",
        )
    ]
