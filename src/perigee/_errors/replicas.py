"""Errors about training on several devices or machines (PG45x)."""

from collections.abc import Sequence

from perigee._errors._tree import PerigeeError


class StrategyError(PerigeeError, NotImplementedError):
    """The Step was made under a strategy on which training would not be exact.

    `docs/distribution.md` says which strategies were tried, and what was measured.
    """

    code = "PG450"

    def __init__(self, strategy: str, reason: str) -> None:
        self.strategy, self.reason = strategy, reason
        super().__init__(
            f"The Step was made under {strategy}: {reason}.",
            expected="OneDeviceStrategy, MirroredStrategy or MultiWorkerMirroredStrategy.",
            fix="make the Step under one of these.",
        )


class ReplicasError(PerigeeError, ValueError):
    """On several replicas, the step would not do what it does on one device.

    Each replica runs the step on a share of the batch, and Perigee puts together what is a mean
    over examples, or a pair of a sum and a count. What cannot be put together is refused.
    """

    code = "PG451"

    def __init__(self, reason: str, fix: str) -> None:
        self.reason, self.fix_ = reason, fix
        super().__init__(
            f"The step cannot be exact on several replicas: {reason}.",
            expected="the update and the values of one device that has the whole batch.",
            fix=fix,
        )


class ScopeError(PerigeeError, ValueError):
    """The Step, and what it holds, were made under different strategies.

    A variable that was made outside the scope has one copy, which all replicas would change.
    """

    code = "PG452"

    def __init__(self, strategy: str, variables: Sequence[str]) -> None:
        self.strategy, self.variables = strategy, tuple(variables)
        super().__init__(
            f"The Step was made under {strategy}, and {len(self.variables)} of its variables were "
            "not:",
            items=self.variables,
            expected="the Step and everything that it holds are made in one scope.",
            fix="make models, optimizers, metrics and the Step inside `with strategy.scope():`.",
        )
