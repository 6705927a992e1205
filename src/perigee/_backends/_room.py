"""One framework's room, put together from its modules."""

from __future__ import annotations

from types import ModuleType

from perigee._backends._protocol import Backend, Capabilities

_VERBS = [name for name, value in vars(Backend).items() if callable(value) and name[0] != "_"]


class Room:
    """The functions of some modules, as the contract `Backend` names them.

    Args:
        name: Of the framework.
        capabilities: What it can do.
        modules: Hold one function for each verb of the contract.

    Raises:
        AttributeError: If none of them has one of the verbs.
    """

    def __init__(self, name: str, capabilities: Capabilities, *modules: ModuleType) -> None:
        self.name, self.capabilities = name, capabilities
        for verb in _VERBS:
            homes = [module for module in modules if hasattr(module, verb)]
            if not homes:
                raise AttributeError(f"The {name} room has no `{verb}`.")
            setattr(self, verb, getattr(homes[0], verb))
