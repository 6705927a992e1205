# pyright: basic
"""Many steps in one call: a compiled loop over slices of arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from perigee._backends._protocol import Mode
from perigee._backends.jax import placement
from perigee._backends.jax.scopes import Scope, innermost
from perigee._typing import Tensor, Tree


def sliced(
    function: Callable[[Tree], Tree],
    batch_size: int,
    mode: Mode,
    most: int,
    dtypes: Tree,
    goes_on: Callable[[Tree], Tensor] | None,
    end: Callable[[], Tree],
) -> Callable[..., tuple[Tree, Tree]]:
    """See `Backend.sliced`.

    Slices, not rows gathered by index: XLA merges a gather into the matrix product that follows,
    which made a small dense step take twice as long.

    The number of steps is dynamic, so that blocks of every size are one program with identical
    results. A last batch with fewer rows has its own loop at the end, of one step or none: in a
    branch, XLA would copy the variables.

    Over several devices, rows are grouped in batches, each of which is split: in slices of one long
    split array, most batches would be on one device.
    """
    is_spread = placement.is_spread()

    def batch_at(arrays: Tree, index: Tensor) -> Tree:
        if is_spread:
            return jax.tree_util.tree_map(
                lambda array: jax.lax.dynamic_index_in_dim(array, index, keepdims=False), arrays
            )
        return jax.tree_util.tree_map(
            lambda array: jax.lax.dynamic_slice_in_dim(array, index * batch_size, batch_size),
            arrays,
        )

    def last_of(arrays: Tree) -> Tree | None:
        """Return the remainder for a last batch with fewer rows, or `None`."""
        start = _rows(arrays) // batch_size * batch_size
        if start == _rows(arrays):
            return None
        return jax.tree_util.tree_map(lambda array: array[start:], arrays)

    def run(arrays: Tree, first: Tensor, count: Tensor) -> tuple[Tree, Tree]:
        outer = innermost()
        assert outer is not None  # compiled functions run in one
        variables = outer.variables

        @functools.partial(jax.jit, inline=True)  # user code runs once for each size
        def step(batch: Tree, values: list[Tensor]) -> tuple[list[Tensor], Tree]:
            with Scope(zip(variables, values, strict=True)) as scope:
                result = function(batch)
            return [scope.value_of(variable) for variable in variables], result

        def loop(until: Tensor, batch: Callable[[Tensor], Tree], start: Any) -> Any:
            def is_more(carried: tuple[Any, ...]) -> Tensor:
                index, goes, *_ = carried
                return jnp.all(jnp.stack([index < until, *goes]))

            def body(carried: tuple[Any, ...]) -> tuple[Any, ...]:
                index, _, values, results = carried
                values, result = step(batch(first + index), values)
                goes = [] if goes_on is None else [goes_on(result)]
                results = jax.tree_util.tree_map(
                    lambda all, one: jax.lax.dynamic_update_index_in_dim(all, one, index, 0),
                    results,
                    result,
                )
                return index + 1, goes, values, results

            return jax.lax.while_loop(is_more, body, start)

        values = [outer.value_of(variable) for variable in variables]
        shapes = jax.eval_shape(step, batch_at(arrays, first), values)[1]
        results = jax.tree_util.tree_map(
            lambda result: jnp.zeros((most, *result.shape), result.dtype), shapes
        )
        goes = [] if goes_on is None else [jnp.array(True)]
        carried = (jnp.zeros((), jnp.int32), goes, values, results)
        rest = None if is_spread else last_of(arrays)
        if rest is None or jax.eval_shape(step, rest, values)[1] != shapes:
            carried = loop(count, lambda index: batch_at(arrays, index), carried)
        else:
            whole = jnp.minimum(count, _rows(arrays) // batch_size - first)
            carried = loop(whole, lambda index: batch_at(arrays, index), carried)
            carried = loop(count, lambda _: rest, carried)
        *_, values, results = carried
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return results, end()

    def place(arrays: Tree) -> Tree:
        rows = jax.tree_util.tree_map(
            lambda array: (
                placement.in_batches(array, batch_size) if isinstance(array, np.ndarray) else array
            ),  # already placed
            arrays,
        )
        return placement.placed(rows, axis=1)

    return _Sliced(run, place)


@jax.jit
def rows_in_order(arrays: Tree, order: Tensor) -> Tree:
    """See `Backend.rows_in_order`: in one call, since each separate operation takes 0.1 ms."""
    return jax.tree_util.tree_map(
        lambda array: array.at[order].get(mode="promise_in_bounds"), arrays
    )


def _rows(arrays: Tree) -> int:
    return jax.tree_util.tree_leaves(arrays)[0].shape[0]


@dataclass(frozen=True, slots=True)
class _Sliced:
    """A loop over batches, and the placement of the arrays that it slices."""

    run: Callable[..., tuple[Tree, Tree]]
    place: Callable[[Tree], Tree]

    def __call__(self, arrays: Tree, first: Tensor, count: Tensor) -> tuple[Tree, Tree]:
        """Run it."""
        return self.run(arrays, first, count)


def streamed(
    function: Callable[[Tree], Tensor],
    goes_on: Callable[[Tensor], Tensor] | None,
    end: Callable[[], Tree],
) -> Callable[..., tuple[Tensor, Tensor, Tree]]:
    """See `Backend.streamed`: never used."""
    raise NotImplementedError
