"""PG217: a loss in which each row of a batch meets most others, of which a part lacks some."""

from __future__ import annotations

from perigee._errors import CoupledRowsError, refuse
from perigee.diagnostics._rows import Rows


def check(rows: Rows) -> None:
    """Refuse a step with such a loss."""
    ignored = rows.step.ignore_findings
    if CoupledRowsError.code in ignored:
        return
    for key, exchange in rows.meeting.items():
        if key.kind == "objective" and rows.is_of_all(key):
            seen = exchange.before, exchange.one, exchange.other, exchange.both
            refuse(CoupledRowsError(rows.parts, *seen), ignored)
