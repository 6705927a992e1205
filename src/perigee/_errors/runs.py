"""Errors about arguments and run directories (PG5xx, PG6xx)."""

from collections.abc import Sequence

from perigee._errors._tree import PerigeeError


class RunExistsError(PerigeeError, FileExistsError):
    """The run directory holds a run already."""

    code = "PG501"

    def __init__(self, path: str, found: str) -> None:
        self.path, self.found = path, found
        super().__init__(
            f"{path} holds a run already ({found}).",
            expected="an empty or new directory: a run is never overwritten.",
            fix="choose another path, or move the old run away.",
        )


class ArgumentError(PerigeeError, ValueError):
    """An argument has a value that makes no sense, alone or with another one."""

    code = "PG601"

    def __init__(self, name: str, given: str, expected: str, fix: str) -> None:
        self.name, self.given = name, given
        super().__init__(f"{name}={given} cannot be used here.", expected=expected, fix=fix)


class UnknownArgumentError(PerigeeError, TypeError):
    """A function was called with an argument that it does not have."""

    code = "PG602"

    def __init__(self, function: str, name: str, meant: str | None, known: Sequence[str]) -> None:
        self.function, self.name, self.meant, self.known = function, name, meant, tuple(known)
        super().__init__(
            f"`{function}` has no argument {name!r}.",
            expected=f"one of {', '.join(known)}.",
            fix=meant or "leave it out.",
        )
