# pyright: basic
"""Scopes in which Keras variables seem to change while JAX traces pure functions.

A `keras.StatelessScope` replaces the one around it instead of nesting: the values of the outer one
are invisible in the inner one. `Scope` looks them up outward, and remembers which variables were
assigned, so that their new values can be returned.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import keras
from jax.core import Tracer
from jax.errors import UnexpectedTracerError
from jax.extend.core import get_opaque_trace_state

from perigee._errors import LeakedStateError
from perigee._typing import Tensor

_trace = jax.make_user_context()
"""The number of the scope in which JAX is tracing: JAX keeps traces by it, too.

JAX keeps the trace of a function object that was transformed, such as a model under
`jax.checkpoint`, and takes it again in a later trace. Variables are no arguments of that function,
so that the kept trace would hold values of the earlier one.
"""

_numbers = itertools.count()

_is_read_inside = False
"""Whether a transformed function has read a variable in this process.

Until then no scope gets a number: JAX would retrace all that it keeps, and compiling would take
longer. Nor does an eager step get one: each would take twice as long.
"""

_innermost: ContextVar[Scope | None] = ContextVar("perigee_scope", default=None)


class Scope(keras.StatelessScope):
    """Values of variables for the code inside; others are looked up outside.

    Args:
        mapping: Variables with their values.
        differentiates: Whether the code inside is differentiated with respect to these values. As
            on the other frameworks, that means the variables as they are read, even after an
            assignment inside (as in spectral normalization), and never through the assigned value.
        is_checked: Whether to look, at the end, for assigned values that belong to a trace inside.

    Attributes:
        inside: Variables whose values were assigned inside a function that JAX transforms. They may
            belong to its trace, or to one outside.
    """

    def __init__(
        self,
        mapping: Iterable[tuple[Any, Tensor]] = (),
        differentiates: bool = False,
        is_checked: bool = False,
    ) -> None:
        # Without collecting, `add_loss` terms would silently vanish.
        pairs = list(mapping)
        super().__init__(state_mapping=pairs, collect_losses=True)
        self.variables = [variable for variable, _ in pairs]
        self.assigned: dict[int, Any] = {}
        self.inside: dict[int, Any] = {}
        self._differentiated = {id(v): value for v, value in pairs} if differentiates else {}
        self._outer, self._is_checked = innermost(), is_checked

    def __enter__(self) -> Scope:
        super().__enter__()
        self._token = _innermost.set(self)
        self._stack = ExitStack()
        is_eager = self._outer is None and bool(self._differentiated)
        if _is_read_inside and not is_eager:
            self._stack.enter_context(_trace(next(_numbers)))
        self._state = get_opaque_trace_state()
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        """Leave it.

        Raises:
            LeakedStateError: If it holds values that belong to a trace inside, as is checked, or is
                known from an error.
        """
        self._stack.close()
        _innermost.reset(self._token)
        super().__exit__(kind, error, traceback)
        if isinstance(error, UnexpectedTracerError) or (error is None and self._is_checked):
            own = super().get_current_value
            leaked = [v for v in self.inside.values() if error or _is_leaked(own(v))]
            refuse_leaks(leaked, error)

    def get_current_value(self, variable: Any) -> Tensor | None:
        """Return the value here or in the nearest scope outside that has one."""
        global _is_read_inside
        if not _is_read_inside and innermost() is self:
            _is_read_inside = get_opaque_trace_state() != self._state
        value = super().get_current_value(variable)
        if value is None and self._outer is not None:
            return self._outer.get_current_value(variable)
        return value

    def add_update(self, update: tuple[Any, Tensor]) -> None:
        """Set the value of a variable inside this scope."""
        variable, value = update
        self.assigned[id(variable)] = variable
        if isinstance(value, Tracer) and get_opaque_trace_state() != self._state:
            self.inside[id(variable)] = variable
        own = self._differentiated.get(id(variable))
        if own is not None:
            value = jax.lax.stop_gradient(value) + (own - jax.lax.stop_gradient(own))
        super().add_update((variable, value))

    def value_of(self, variable: Any) -> Tensor:
        """Return the value of a variable at the end of the scope."""
        value = self.get_current_value(variable)
        return variable.value if value is None else value


@contextmanager
def no_leaks(variables: Sequence[Any]) -> Generator[None]:
    """Refuse values of traces in variables, where code ran eagerly.

    Raises:
        LeakedStateError: If there are any.
    """
    error: Exception | None = None
    try:
        yield
    except UnexpectedTracerError as raised:
        error = raised
    refuse_leaks([variable for variable in variables if isinstance(variable.value, Tracer)], error)
    if error is not None:
        raise error


def refuse_leaks(leaked: Sequence[Any], error: Exception | None) -> None:
    """Refuse variables with values of traces that have ended."""
    if leaked:
        raise LeakedStateError([variable.path for variable in leaked]) from error


def _is_leaked(value: Any) -> bool:
    """Return whether a value belongs to a trace that has ended, if JAX says so where it is used.

    While a function is being traced, it says so only at the end.
    """
    if not isinstance(value, Tracer):
        return False
    try:
        jax.numpy.copy(value)
    except UnexpectedTracerError:
        return True
    return False


def innermost() -> Scope | None:
    """Return the current scope, or `None`."""
    return _innermost.get()
