"""Averages that stay exact when they are combined: (total, count) pairs.

The mean of batch means is not the mean over the examples if batches differ in size, and a ratio
cannot be corrected after the division. So a step returns the pair, and the division happens once,
over everything that the value covers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from perigee import _backends
from perigee._errors import AverageError
from perigee._typing import Tensor


@dataclass(frozen=True, slots=True)
class Term:
    """One term of an average: a total and its count.

    Attributes:
        total: The sum, shape `()`; where `count` is `None`, the mean itself.
        count: The divisor of the sum, shape `()`, or `None` for a mean over the examples of the
            batch, whose number is known where the value is used.
        is_weighted: Whether the count depends on the data (weights, a mask), so that terms of
            different batches cannot be combined by the number of examples. Without a count: the
            total is a sum over the batch, so that the value of a large batch is not the mean of
            such sums.
    """

    total: Tensor
    count: Tensor | None
    is_weighted: bool


class Average:
    """A mean before its division: one or more (total, count) terms whose means are added.

    Made by `mean`. `+` with another average or a scalar keeps the terms separate, multiplication by
    a scalar scales the totals; anything else raises, because the count would be lost.

    Attributes:
        terms: Each total with its count, shapes `()`.
    """

    __slots__ = ("terms",)
    __array_priority__ = 1000  # makes NumPy scalars on the left defer to __rmul__ and __radd__

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms: tuple[Term, ...] = tuple(terms)

    def __add__(self, other: Any) -> "Average":
        if isinstance(other, Average):
            return Average(self.terms + other.terms)
        return Average((*self.terms, Term(_scalar(other, "`+` with"), None, False)))

    __radd__ = __add__

    def __mul__(self, factor: Any) -> "Average":
        factor = _scalar(factor, "multiplication by")
        return Average([Term(t.total * factor, t.count, t.is_weighted) for t in self.terms])

    __rmul__ = __mul__

    def __neg__(self) -> "Average":
        return self * -1.0

    def __sub__(self, other: Any) -> "Average":
        return self + (-other)

    def __rsub__(self, other: Any) -> "Average":
        return -self + other

    def __truediv__(self, divisor: Any) -> "Average":
        return self * (1.0 / _scalar(divisor, "division by"))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{AverageError(f'`.{name}`')}")

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise AverageError("this operation")

    __float__ = _refuse
    __int__ = _refuse
    __bool__ = _refuse
    __array__ = _refuse
    __abs__ = _refuse
    __pow__ = _refuse
    __rpow__ = _refuse
    __rtruediv__ = _refuse
    __floordiv__ = _refuse
    __mod__ = _refuse
    __matmul__ = _refuse
    __lt__ = _refuse
    __le__ = _refuse
    __gt__ = _refuse
    __ge__ = _refuse
    __eq__: Callable[..., bool] = _refuse
    __ne__: Callable[..., bool] = _refuse

    def __hash__(self) -> int:
        return object.__hash__(self)

    def pairs(self, examples: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return each term as (mean, count), shapes `()`, float32 or float64.

        Args:
            examples: Number of examples of the batch, for terms without a count of their own.
                A term with a count of 0 has mean 0.
        """
        return [_mean_and_count(term, examples) for term in self.terms]

    def tree_flatten(self) -> tuple[list[Any], Any]:
        """Split into tensors and the rest, so that frameworks can treat an average as a tree.

        Returns:
            Totals and counts, alternating, shapes `()`, and whether each count depends on the data.
        """
        tensors = [part for term in self.terms for part in (term.total, term.count)]
        return tensors, tuple(term.is_weighted for term in self.terms)

    @classmethod
    def tree_unflatten(cls, rest: Any, tensors: Sequence[Any]) -> "Average":
        """Rebuild an average from what `tree_flatten` returned.

        Args:
            rest: Whether each count depends on the data.
            tensors: Totals and counts, alternating.

        Returns:
            The average.
        """
        pairs = zip(tensors[::2], tensors[1::2], rest, strict=True)
        return cls([Term(total, count, weighted) for total, count, weighted in pairs])


@_backends.current().plain
def mean(values: Tensor, weights: Tensor | None = None) -> Average:
    """Return the exact mean of `values`, divided once over everything that it covers.

    >>> loss = pg.mean(ops.square(y - y_pred), weights=mask)

    Args:
        values: One value for each counted item, any shape, floating.
        weights: The weight of each value, of a shape that broadcasts to that of `values`; `None`
            weights each by 1. No gradient flows through the count.

    Returns:
        The pair (sum of weighted values, sum of weights), as an `Average`.
    """
    values = ops.cast(values, accumulation_dtype(values))
    if weights is None:
        # The number of values follows from their shape, so their sum and count stay proportional to
        # the number of examples.
        count = ops.cast(ops.prod(ops.shape(values)), "float32")
        return Average([Term(ops.sum(values), count, is_weighted=False)])
    weights = ops.broadcast_to(ops.cast(weights, values.dtype), ops.shape(values))
    total = ops.sum(values * weights)
    return Average([Term(total, ops.stop_gradient(ops.sum(weights)), is_weighted=True)])


def as_average(value: Tensor, examples: Tensor | None) -> Average:
    """Return a loss or log value (a scalar, one value per example, or an average) as an average."""
    if isinstance(value, Average):
        return value
    value = ops.convert_to_tensor(value)
    value = ops.cast(value, accumulation_dtype(value))
    if len(value.shape) == 0:
        return Average([Term(value, None, is_weighted=False)])
    if examples is None:
        return Average([Term(ops.mean(value), None, is_weighted=False)])
    count = ops.cast(ops.shape(value)[0], "float32")
    return Average([Term(ops.sum(value), count, is_weighted=False)])


def total_mean(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the sum of the means of `pairs`, shape `()`."""
    means = [mean_ for mean_, _ in pairs]
    return means[0] if len(means) == 1 else sum(means[1:], start=means[0])


def _mean_and_count(term: Term, examples: Tensor) -> tuple[Tensor, Tensor]:
    if term.count is None:
        return term.total, ops.cast(examples, "float32")
    count = ops.cast(term.count, accumulation_dtype(term.count))
    divisor = ops.cast(ops.where(count == 0, ops.ones_like(count), count), term.total.dtype)
    return ops.where(count == 0, ops.zeros_like(term.total), term.total / divisor), count


def accumulation_dtype(value: Any) -> str:
    """Return in which dtype to add up values, gradients or counts: float64 or float32.

    Not `keras.backend.result_type`, which on torch makes float32 of float64.
    """
    dtype = keras.backend.standardize_dtype(getattr(value, "dtype", "float32"))
    return "float64" if dtype == "float64" else "float32"


def _scalar(value: Any, operation: str) -> Any:
    if len(getattr(value, "shape", ())) > 0 or isinstance(value, (Average, str, list, tuple)):
        raise AverageError(f"{operation} {type(value).__name__} of shape {_shape(value)}")
    return value


def _shape(value: Any) -> tuple[Any, ...]:
    return tuple(getattr(value, "shape", ()))


Kind = Literal["mean", "last", "sum", "aside"]


@dataclass(frozen=True, slots=True)
class Column:
    """One term of a logged value, in the columns that a step returns.

    Attributes:
        name: The name under which it is logged; the means of columns with one name are added.
        kind: `"mean"` for an average, `"last"` for a value that already covers the pass so far,
            `"sum"` for a sum, `"aside"` for an average that is not logged: a metric has its name.
    """

    name: str
    kind: Kind


class Tally:
    """Exact means over many steps, kept in float64 on the host."""

    def __init__(self) -> None:
        self._totals: dict[int, float] = {}
        self._counts: dict[int, float] = {}
        self._columns: tuple[Column, ...] = ()

    def add(self, columns: Sequence[Column], rows: np.ndarray) -> None:
        """Add steps.

        Args:
            columns: The columns of `rows`. New columns are added; columns with one name are matched
                in their order.
            rows: Means and counts, shape `(steps, columns, 2)`.
        """
        means, counts = rows[..., 0].astype(np.float64), rows[..., 1].astype(np.float64)
        for given, (index, column) in enumerate(zip(self._places(columns), columns, strict=True)):
            mean, count = means[:, given], counts[:, given]
            if column.kind == "last":
                counted = np.flatnonzero(count)
                if len(counted):
                    self._totals[index], self._counts[index] = float(mean[counted[-1]]), 1.0
                continue
            if column.kind == "sum":
                self._totals[index] = _added(self._totals.get(index, 0.0), mean)
                self._counts[index] = 1.0
                continue
            # A term with a count of 0 contributes nothing, whatever its mean.
            products = np.where(count == 0, 0.0, mean) * count
            self._totals[index] = _added(self._totals.get(index, 0.0), products)
            self._counts[index] = _added(self._counts.get(index, 0.0), count)

    def _places(self, columns: Sequence[Column]) -> list[int]:
        """Return the index of each column, adding new columns."""
        if self._columns == tuple(columns):
            return list(range(len(columns)))
        places: list[int] = []
        for column in columns:
            free = (i for i, c in enumerate(self._columns) if c == column and i not in places)
            place = next(free, len(self._columns))
            if place == len(self._columns):
                self._columns = (*self._columns, column)
            places.append(place)
        return places

    def clear(self) -> None:
        """Reset to nothing added."""
        self._totals.clear()
        self._counts.clear()
        self._columns = ()

    def state(self) -> dict[str, Any]:
        """Return what was added so far, as plain values."""
        return {
            "columns": [[column.name, column.kind] for column in self._columns],
            "totals": [[index, total] for index, total in self._totals.items()],
            "counts": [[index, count] for index, count in self._counts.items()],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Tally":
        """Return a tally restored from `state`."""
        tally = cls()
        tally._columns = tuple(Column(name, kind) for name, kind in state["columns"])
        tally._totals = {index: total for index, total in state["totals"]}
        tally._counts = {index: count for index, count in state["counts"]}
        return tally

    def means(self, *kinds: Kind) -> Mapping[str, float]:
        """Return the mean of each name over everything added, without names whose count is 0.

        Args:
            *kinds: The kinds of columns to return; all that are logged if there is none.
        """
        means: dict[str, float] = {}
        for index, column in enumerate(self._columns):
            count = self._counts.get(index, 0.0)
            if count != 0 and column.kind in (kinds or ("mean", "last", "sum")):
                value = self._totals[index] / count
                means[column.name] = means.get(column.name, 0.0) + value
        return means


def _added(total: float, values: np.ndarray) -> float:
    """Add values one after another, so that the sum does not depend on the block size."""
    return float(np.add.accumulate(np.concatenate(([total], values)))[-1])
