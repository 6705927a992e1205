# pyright: basic
"""Gradients and conditional updates in JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.custom_derivatives import SymbolicZero

from perigee._backends.jax import compiling
from perigee._backends.jax.scopes import Scope, innermost
from perigee._typing import Tensor, Tree


def differentiate(
    function: Callable[[], tuple[Tensor, Tree]], variables: Sequence[Any]
) -> tuple[Tree, list[Tensor | None], list[Any]]:
    """See `Backend.differentiate`; JAX has no variables of its own."""
    trace = _Trace(lambda values: function(), variables)
    values = [variable.value for variable in variables]
    rest, gradients = _derived(trace, values)
    return rest, gradients, []


def differentiate_inputs(
    function: Callable[..., Tensor], tensors: Sequence[Tensor]
) -> list[Tensor | None]:
    """See `Backend.differentiate_inputs`."""
    trace = _Trace(lambda values: (function(*values), None), ())
    return _derived(trace, [jnp.asarray(tensor) for tensor in tensors])[1]


def _derived(trace: _Trace, values: Sequence[Tensor]) -> tuple[Tree, list[Tensor | None]]:
    """Return what the code of a trace returned, and its gradients.

    In a rehearsal, the gradient is `None` for values that the scalar does not depend on: JAX
    returns zeros. The transposition rule of an identity around each value shows whether a gradient
    is a structural zero; neither zeros in the numbers (a dead unit, a factor of 0) nor dependencies
    in the traced program show it.
    """
    if not compiling.is_rehearsing():
        gradients, carried = jax.grad(trace, has_aux=True)(values)
        return trace.hand_out(carried), list(gradients)
    reached = [False] * len(values)

    def tagged(values: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return trace([_tag(index, reached)(value) for index, value in enumerate(values)])

    gradients, carried = jax.grad(tagged, has_aux=True)(values)
    found = [g if is_reached else None for g, is_reached in zip(gradients, reached, strict=True)]
    return trace.hand_out(carried), found


class _Trace:
    """A function of values that runs code which reads and assigns variables.

    Tensors leave a trace only as its results: what the code returns is split into tensors, which
    are returned, and the rest, which is stored.
    """

    def __init__(
        self, function: Callable[[Sequence[Tensor]], tuple[Tensor, Tree]], variables: Sequence[Any]
    ) -> None:
        self._function, self._variables = function, variables

    def __call__(self, values: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        mapping = zip(self._variables, values, strict=False)
        is_checked = compiling.is_rehearsing()
        with Scope(mapping, differentiates=True, is_checked=is_checked) as scope:
            scalar, rest = self._function(values)
        self._assigned, self._inside = list(scope.assigned.values()), scope.inside
        self._rest = Split(rest)
        return scalar, [*self._rest.tensors, *(scope.value_of(v) for v in self._assigned)]

    def hand_out(self, carried: Sequence[Tensor]) -> Tree:
        """Repeat the assignments outside the trace; return what the code returned."""
        count = len(self._rest.tensors)
        for variable, value in zip(self._assigned, carried[count:], strict=True):
            variable.assign(value)
        outer = innermost()
        if outer is not None:
            outer.inside |= self._inside
        return self._rest.joined(carried[:count])


class Split:
    """A tree split into tensors and the rest."""

    def __init__(self, tree: Tree) -> None:
        leaves, self._structure = jax.tree_util.tree_flatten(tree, is_leaf=_register)
        self._places = [isinstance(leaf, jax.Array) for leaf in leaves]
        self._others = [leaf for leaf in leaves if not isinstance(leaf, jax.Array)]
        self.tensors = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]

    def joined(self, tensors: Sequence[Tensor]) -> Tree:
        """Return the tree with other tensors in place of its own."""
        given, others = iter(tensors), iter(self._others)
        leaves = [next(given) if is_tensor else next(others) for is_tensor in self._places]
        return jax.tree_util.tree_unflatten(self._structure, leaves)


_registered: set[type] = set()


def _register(value: Any) -> bool:
    """Register a class with JAX that defines its flattening; returns false: never a leaf."""
    kind = type(value)
    if hasattr(kind, "tree_unflatten") and kind not in _registered:
        _registered.add(kind)
        jax.tree_util.register_pytree_node_class(kind)
    return False


def _tag(index: int, reached: list[bool]) -> Callable[[Tensor], Tensor]:
    @jax.custom_vjp
    def identity(x: Tensor) -> Tensor:
        return x

    def backward(_: None, cotangent: Any) -> tuple[Tensor]:
        if isinstance(cotangent, SymbolicZero):
            zero: Any = cotangent
            return (jnp.zeros(zero.shape, zero.dtype),)
        reached[index] = True
        return (cotangent,)

    identity.defvjp(lambda x: (x.value, None), backward, symbolic_zeros=True)
    return identity


def update_if(condition: Tensor, update: Callable[[], None], variables: Sequence[Any]) -> None:
    """See `Backend.update_if`."""
    if not isinstance(condition, Tracer):  # eagerly
        if condition:
            update()
        return

    def run(values: Sequence[Tensor]) -> list[Tensor]:
        with Scope(zip(variables, values, strict=True)) as scope:
            update()
        return [scope.value_of(variable) for variable in variables]

    before = [variable.value for variable in variables]
    after = jax.lax.cond(jnp.reshape(jnp.asarray(condition, bool), ()), run, list, before)
    for variable, value in zip(variables, after, strict=True):
        variable.assign(value)


def switch(index: Tensor, branches: Sequence[Callable[[], Sequence[Tensor]]]) -> list[Tensor]:
    """See `Backend.switch`.

    What a branch assigns leaves it as a result, and every branch must return the same variables:
    each is traced once before, to find which variables any of them assigns.
    """
    if not isinstance(index, Tracer):
        return list(branches[int(index)]())
    written: dict[int, Any] = {}

    def looked_at(branch: Callable[[], Sequence[Tensor]]) -> Sequence[Tensor]:
        with Scope() as scope:
            results = branch()
        written.update(scope.assigned)
        return results

    def run(branch: Callable[[], Sequence[Tensor]], variables: Sequence[Any]) -> Any:
        with Scope() as scope:
            results = list(branch())
        return results, [scope.value_of(variable) for variable in variables]

    for branch in branches:
        jax.eval_shape(lambda branch=branch: list(looked_at(branch)))
    variables = list(written.values())
    runs = [lambda branch=branch: run(branch, variables) for branch in branches]
    results, values = jax.lax.switch(jnp.asarray(index, "int32"), runs)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return results


def gradients_restored(variables: Sequence[Any]) -> AbstractContextManager[None]:
    """See `Backend.gradients_restored`: variables hold none."""
    del variables
    return nullcontext()
