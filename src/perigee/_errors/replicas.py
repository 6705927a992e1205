"""Errors about training on several devices or machines (PG45x)."""

from collections.abc import Sequence

from perigee._errors._tree import PerigeeError


class StrategyError(PerigeeError, NotImplementedError):
    """The Step was made under a strategy on which training would not be exact.

    `docs/distribution.md` lists the strategies that were tested, with measurements.
    """

    code = "PG450"
    shown_by = "the strategy"

    def __init__(self, strategy: str, reason: str) -> None:
        self.strategy, self.reason = strategy, reason
        super().__init__(
            f"The Step was made under {strategy}: {reason}.",
            expected="OneDeviceStrategy, MirroredStrategy or MultiWorkerMirroredStrategy.",
            fix="make the Step under one of these.",
        )


class ReplicasError(PerigeeError, ValueError):
    """On several replicas, the step would differ from the step on one device.

    Each replica runs the step on a share of the batch, and Perigee combines means over examples,
    and pairs of a sum and a count. A value that cannot be combined is refused.
    """

    code = "PG451"
    shown_by = "the results of the step on one batch, and on its halves"

    def __init__(self, reason: str, fix: str) -> None:
        self.reason, self.fix_ = reason, fix
        super().__init__(
            f"The step cannot be exact on several replicas: {reason}.",
            expected="the update and the values of one device with the whole batch.",
            fix=fix,
        )


class ScopeError(PerigeeError, ValueError):
    """The Step and its variables were made under different strategies.

    A variable that was made outside the scope has one copy, which all replicas would write.
    """

    code = "PG452"
    shown_by = "the strategies of the Step and of its variables"

    def __init__(self, strategy: str | None, variables: Sequence[str], used: str = "") -> None:
        self.strategy, self.variables, self.used = strategy, tuple(variables), used
        if used:
            happened = f"The Step was made outside the scope of {used}, and is trained inside it."
        elif strategy is None:
            happened = f"The Step was made under no strategy, and {len(variables)} of its "
            happened += "variables under one:"
        else:
            happened = f"The Step was made under {strategy}, and {len(variables)} of its variables "
            happened += "were not:"
        super().__init__(
            happened,
            items=self.variables,
            expected="the Step and everything that it holds are made in one scope.",
            fix="make models, optimizers, metrics and the Step inside `with strategy.scope():`.",
        )


class WorkerLostError(PerigeeError, ConnectionError):
    """Another process of the training has ended, or is no longer reachable.

    Steps need all processes, so the training ends in each of them. With a run it resumes from its
    newest checkpoint when all are started again with the same command.
    """

    code = "PG453"

    def __init__(self, process: int, processes: int, said: str) -> None:
        self.process, self.processes, self.said = process, processes, said
        super().__init__(
            f"Process {process} of {processes} has lost another one: {said}",
            expected="all processes run until the training ends in all of them.",
            fix="read the log of the process that ended first, and restart all of them.",
        )


class WorkersApartError(PerigeeError, ValueError):
    """The processes of one training were started differently.

    All of them must run the same program on the same data in the same order, and use the same run
    directory: each trains on its share of every batch.
    """

    code = "PG454"

    def __init__(self, differences: Sequence[str]) -> None:
        self.differences = tuple(differences)
        super().__init__(
            f"The processes of the training differ in {len(self.differences)} items:",
            items=self.differences,
            expected="the same values in all processes.",
            fix="seed what is random (`keras.utils.set_random_seed`, a `seed` for shuffles), and "
            "give all of them the same files.",
        )
