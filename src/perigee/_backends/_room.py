"""A backend assembled from the modules of a framework's folder."""

from __future__ import annotations

from types import ModuleType

from perigee._backends._protocol import Backend, Capabilities

_VERBS = [name for name, value in vars(Backend).items() if callable(value) and name[0] != "_"]


class Room:
    """A `Backend` whose functions come from some modules.

    Args:
        name: The name of the framework.
        capabilities: Its capabilities.
        modules: Modules with one function for each method of the contract.

    Raises:
        AttributeError: If a method is missing.
    """

    def __init__(self, name: str, capabilities: Capabilities, *modules: ModuleType) -> None:
        self.name, self.capabilities = name, capabilities
        for verb in _VERBS:
            homes = [module for module in modules if hasattr(module, verb)]
            if not homes:
                raise AttributeError(f"The {name} room has no `{verb}`.")
            setattr(self, verb, getattr(homes[0], verb))
