# torch ships stubs for some of its submodules and none for itself, so a type checker takes
# the public names for missing. Here they are: all of them, of unknown type.
from typing import Any

def __getattr__(name: str) -> Any: ...
