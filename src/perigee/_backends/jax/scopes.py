# pyright: basic
"""Scopes in which Keras variables seem to change while JAX traces pure functions.

A `keras.StatelessScope` replaces the one around it instead of nesting: the values of the outer one
are invisible in the inner one. `Scope` looks them up outward, and remembers which variables were
assigned, so that their new values can be returned.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

import jax
import keras

from perigee._typing import Tensor

_innermost: ContextVar[Scope | None] = ContextVar("perigee_scope", default=None)


class Scope(keras.StatelessScope):
    """Values of variables for the code inside; others are looked up outside.

    Args:
        mapping: Variables with their values.
        differentiates: Whether the code inside is differentiated with respect to these values. As
            on the other frameworks, that means the variables as they are read, even after an
            assignment inside (as in spectral normalization), and never through the assigned value.
    """

    def __init__(
        self, mapping: Iterable[tuple[Any, Tensor]] = (), differentiates: bool = False
    ) -> None:
        # Without collecting, `add_loss` terms would silently vanish.
        pairs = list(mapping)
        super().__init__(state_mapping=pairs, collect_losses=True)
        self.variables = [variable for variable, _ in pairs]
        self.assigned: dict[int, Any] = {}
        self._differentiated = {id(v): value for v, value in pairs} if differentiates else {}
        self._outer = innermost()

    def __enter__(self) -> Scope:
        super().__enter__()
        self._token = _innermost.set(self)
        return self

    def __exit__(self, *details: Any) -> None:
        _innermost.reset(self._token)
        super().__exit__(*details)

    def get_current_value(self, variable: Any) -> Tensor | None:
        """Return the value here or in the nearest scope outside that has one."""
        value = super().get_current_value(variable)
        if value is None and self._outer is not None:
            return self._outer.get_current_value(variable)
        return value

    def add_update(self, update: tuple[Any, Tensor]) -> None:
        """Set the value of a variable inside this scope."""
        variable, value = update
        self.assigned[id(variable)] = variable
        own = self._differentiated.get(id(variable))
        if own is not None:
            value = jax.lax.stop_gradient(value) + (own - jax.lax.stop_gradient(own))
        super().add_update((variable, value))

    def value_of(self, variable: Any) -> Tensor:
        """Return the value of a variable at the end of the scope."""
        value = self.get_current_value(variable)
        return variable.value if value is None else value


def innermost() -> Scope | None:
    """Return the current scope, or `None`."""
    return _innermost.get()
