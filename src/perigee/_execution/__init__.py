"""How a step runs: compiled or not, how many steps per call, chosen by measurement.

- `Execution`: what the user requests; its mode is a `Choice`.
- `Plan`: how a step runs; `Plan.usual` is the framework's default, `make_plan` measures `Trial`s.
- `Program`: one method of a Step, compiled as its plan says, for batches of one structure.
- `Blocks`: many steps of a program in one call.
"""

from perigee._execution.blocks import Blocks as Blocks
from perigee._execution.choice import Choice as Choice
from perigee._execution.choice import Execution as Execution
from perigee._execution.compiling import compile_seconds as compile_seconds
from perigee._execution.compiling import compiling as compiling
from perigee._execution.finite import STATE as STATE
from perigee._execution.finite import first_bad_value as first_bad_value
from perigee._execution.learning_rates import applied as applied
from perigee._execution.learning_rates import constant_rate as constant_rate
from perigee._execution.learning_rates import finalize as finalize
from perigee._execution.learning_rates import has_constant_rates as has_constant_rates
from perigee._execution.learning_rates import learning_rates as learning_rates
from perigee._execution.learning_rates import named_rates as named_rates
from perigee._execution.metrics import logged_metrics as logged_metrics
from perigee._execution.metrics import rows_on_host as rows_on_host
from perigee._execution.metrics import updated_metrics as updated_metrics
from perigee._execution.plan import Plan as Plan
from perigee._execution.plan import Trial as Trial
from perigee._execution.planning import make_plan as make_plan
from perigee._execution.program import Nonfinite as Nonfinite
from perigee._execution.program import Program as Program
from perigee._execution.watching import WATCHES as WATCHES
