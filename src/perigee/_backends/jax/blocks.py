# pyright: basic
"""Many steps in one call: a compiled loop over slices of arrays."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from perigee._backends._protocol import MOST_STEPS_A_BLOCK, Mode
from perigee._backends.jax.scopes import Scope, innermost
from perigee._typing import Tensor, Tree


def sliced(
    function: Callable[[Tree], Tensor], batch_size: int, mode: Mode
) -> Callable[..., Tensor]:
    """See `Backend.sliced`.

    Slices, and no rows looked up by number: XLA merges such a look-up into the matrix product
    that follows, which made a small dense step take twice as long.

    The number of steps is dynamic, so that blocks of every size are one program and give the same
    bits.
    """

    def run(arrays: Tree, first: Tensor, count: Tensor) -> Tensor:
        outer = innermost()
        assert outer is not None  # compiled functions run in one
        variables = outer.variables

        def step(index: Tensor, values: list[Tensor]) -> tuple[list[Tensor], Tensor]:
            start = (first + index) * batch_size
            batch = jax.tree_util.tree_map(
                lambda array: jax.lax.dynamic_slice_in_dim(array, start, batch_size), arrays
            )
            with Scope(zip(variables, values, strict=True)) as scope:
                row = function(batch)
            return [scope.value_of(variable) for variable in variables], row

        def body(
            index: Tensor, carried: tuple[list[Tensor], Tensor]
        ) -> tuple[list[Tensor], Tensor]:
            values, rows = carried
            values, row = step(index, values)
            return values, jax.lax.dynamic_update_index_in_dim(rows, row, index, 0)

        values = [outer.value_of(variable) for variable in variables]
        row = jax.eval_shape(step, first, values)[1]
        rows = jnp.zeros((MOST_STEPS_A_BLOCK, *row.shape), row.dtype)
        values, rows = jax.lax.fori_loop(0, count, body, (values, rows))
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return rows

    return run


def streamed(function: Callable[[Tree], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """See `Backend.streamed`: never asked for."""
    raise NotImplementedError
