"""Errors about training on several devices (PG7xx)."""

from collections.abc import Sequence

from perigee._errors._tree import PerigeeError


class DistributionChangedError(PerigeeError, ValueError):
    """Variables are not on the devices of the current distribution.

    A variable is placed when it is created, by the distribution that is set at that moment. Models,
    optimizers and metrics made before `set_distribution` stay on one device; those made under
    another distribution, or inside a `scope()` that has ended, are on the devices of that one.
    """

    code = "PG751"

    def __init__(self, variables: Sequence[str], devices: int | None) -> None:
        self.variables, self.devices = tuple(variables), devices
        where = "no distribution is set" if devices is None else f"it has {devices} devices"
        super().__init__(
            f"{len(variables)} variables are not where the distribution says ({where}).",
            items=variables,
            expected="models, optimizers and metrics made after `set_distribution`, and the same "
            "distribution while they train.",
            fix="call `keras.distribution.set_distribution(...)` before the first of them is made, "
            "and leave it set.",
        )


class DistributionUnsupportedError(PerigeeError, NotImplementedError):
    """A distribution was requested that Keras does not implement on this framework.

    `keras.distribution` distributes arrays over devices on JAX alone. On the other frameworks it
    can be set, and one device silently trains on everything. On torch, Keras cannot reduce the
    gradients of a step over several processes either: each of them would train its own model.
    """

    code = "PG752"

    def __init__(self, framework: str, found: str) -> None:
        self.framework, self.found = framework, found
        super().__init__(
            f"{found}, which Keras does not implement on {framework}.",
            expected="one device and one process of torch."
            if framework == "torch"
            else "no `keras.distribution`.",
            fix="train on JAX with `keras.distribution`, or on TensorFlow under a "
            "`tf.distribute.Strategy`; to train on one device, "
            + (
                "call `keras.distribution.set_distribution(None)`."
                if "keras" in found
                else "do not initialize `torch.distributed`."
            ),
        )


class DistributionMissingError(PerigeeError, RuntimeError):
    """Several processes are connected, but no distribution is set.

    Each of them would train its own model, and overwrite the run of the others.
    """

    code = "PG753"

    def __init__(self, processes: int) -> None:
        self.processes = processes
        super().__init__(
            f"{processes} processes are connected, but no `keras.distribution` is set.",
            expected="a distribution over the devices of all of them.",
            fix="call `keras.distribution.set_distribution(keras.distribution.DataParallel())` "
            "after `keras.distribution.initialize()` and before the first model is made.",
        )


class SplitOverProcessesError(PerigeeError, NotImplementedError):
    """A variable is split over the devices of several processes.

    No single process can read it, to save or to restore it.
    """

    code = "PG754"

    def __init__(self, variables: Sequence[str]) -> None:
        self.variables = tuple(variables)
        super().__init__(
            f"{len(variables)} variables are split over several processes.",
            items=variables,
            expected="variables that every process holds as a whole.",
            fix="use `keras.distribution.DataParallel` over processes, or `ModelParallel` with the "
            "devices of one process.",
        )
