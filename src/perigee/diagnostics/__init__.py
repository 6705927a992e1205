"""Checks: certain errors are raised, suspected problems are returned as findings."""

from perigee.diagnostics._evidence import Evidence as Evidence
from perigee.diagnostics._evidence import Length as Length
from perigee.diagnostics._evidence import rows_of as rows_of
from perigee.diagnostics._finding import Finding as Finding
from perigee.diagnostics._guards import GUARDS as GUARDS
from perigee.diagnostics._guards import Guards as Guards
from perigee.diagnostics._report import Report as Report
from perigee.diagnostics._rows import exchanging as exchanging
from perigee.diagnostics._rules import by_cause as by_cause
from perigee.diagnostics._rules import examine as examine
from perigee.diagnostics._rules import findings_of as findings_of
from perigee.diagnostics._rules import known_codes as known_codes
from perigee.diagnostics._trying import try_out as try_out
from perigee.diagnostics.fence import Fence as Fence
from perigee.diagnostics.fence import guarded as guarded
from perigee.diagnostics.fence import telling as telling
from perigee.diagnostics.rules.labels import LossChecks as LossChecks
