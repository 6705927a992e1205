"""Averages that stay exact when they are put together: (total, count) pairs.

The mean of batch means is not the mean over the examples as soon as batches differ in size, and a
ratio of sums cannot be mended once it has been divided. So a step hands over the pair, and the
division happens once, over everything that the value covers.
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
    """One quantity of an average: its total over what it counts.

    Attributes:
        total: The sum, shape `()`; where `count` is `None`, the mean itself.
        count: What the sum is divided by, shape `()`, or `None` for a mean over the examples of
            the batch, whose number is known where the value is taken in.
        is_weighted: Whether the count depends on the data (weights, a mask), so that terms of
            different batches cannot be put together by the number of examples. Without a count:
            the total is a sum over the batch, that of a large batch not the mean of such sums.
    """

    total: Tensor
    count: Tensor | None
    is_weighted: bool


class Average:
    """A mean that is not divided yet: one or more (total, count) terms whose means add up.

    Made by `mean`. `+` with another average or a scalar keeps each term apart, multiplication by
    a scalar scales the totals; anything else raises, because the count would be lost.

    Attributes:
        terms: Each total with its count, shapes `()`.
    """

    __slots__ = ("terms",)
    __array_priority__ = 1000  # NumPy scalars on the left give way to __rmul__ and __radd__

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
        """Return each term as (mean, count), shapes `()`, float32.

        Args:
            examples: Number of examples of the batch, for terms that carry no count of their own.
                A term that counts nothing has mean 0.
        """
        return [_mean_and_count(term, examples) for term in self.terms]

    def tree_flatten(self) -> tuple[list[Any], Any]:
        """Split into tensors and the rest, so that frameworks can carry an average through.

        Returns:
            Totals and counts in turn, shapes `()`, and whether each count depends on the data.
        """
        tensors = [part for term in self.terms for part in (term.total, term.count)]
        return tensors, tuple(term.is_weighted for term in self.terms)

    @classmethod
    def tree_unflatten(cls, rest: Any, tensors: Sequence[Any]) -> "Average":
        """Put together what `tree_flatten` took apart.

        Args:
            rest: Whether each count depends on the data.
            tensors: Totals and counts in turn.

        Returns:
            The average.
        """
        pairs = zip(tensors[::2], tensors[1::2], rest, strict=True)
        return cls([Term(total, count, weighted) for total, count, weighted in pairs])


@_backends.current().plain
def mean(values: Tensor, weights: Tensor | None = None) -> Average:
    """Return the exact mean of `values`, to be divided once over all that it covers.

    >>> loss = pg.mean(ops.square(y - y_pred), weights=mask)

    Args:
        values: One value for each thing that counts, any shape, floating.
        weights: What each value counts, of a shape that broadcasts to that of `values`; `None`
            counts each as one. No gradient flows through the count.

    Returns:
        The pair (sum of weighted values, sum of weights), as an `Average`.
    """
    values = ops.cast(values, _accumulation_dtype(values))
    if weights is None:
        # The number of values is known from their shape: their sum and count stay in proportion
        # to the number of examples.
        count = ops.cast(ops.prod(ops.shape(values)), "float32")
        return Average([Term(ops.sum(values), count, is_weighted=False)])
    weights = ops.broadcast_to(ops.cast(weights, values.dtype), ops.shape(values))
    total = ops.sum(values * weights)
    return Average([Term(total, ops.stop_gradient(ops.sum(weights)), is_weighted=True)])


def as_average(value: Tensor, examples: Tensor | None) -> Average:
    """Return a loss or log value as an average: a scalar, one value an example, or itself."""
    if isinstance(value, Average):
        return value
    value = ops.convert_to_tensor(value)
    value = ops.cast(value, _accumulation_dtype(value))
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
    count = ops.cast(term.count, "float32")
    divisor = ops.cast(ops.where(count == 0, ops.ones_like(count), count), term.total.dtype)
    return ops.where(count == 0, ops.zeros_like(term.total), term.total / divisor), count


def _accumulation_dtype(value: Any) -> str:
    dtype = keras.backend.standardize_dtype(getattr(value, "dtype", "float32"))
    return "float64" if dtype == "float64" else "float32"


def _scalar(value: Any, operation: str) -> Any:
    if len(getattr(value, "shape", ())) > 0 or isinstance(value, (Average, str, list, tuple)):
        raise AverageError(f"{operation} {type(value).__name__} of shape {_shape(value)}")
    return value


def _shape(value: Any) -> tuple[Any, ...]:
    return tuple(getattr(value, "shape", ()))


@dataclass(frozen=True, slots=True)
class Column:
    """Where one term of a logged value stands among the columns that a step returns.

    Attributes:
        name: What it is logged under; the means of the columns of one name add up.
        kind: `"mean"` to be averaged, `"last"` where the value already covers the pass so far,
            `"sum"` to be added up.
    """

    name: str
    kind: Literal["mean", "last", "sum"]


class Tally:
    """Exact means over many steps, kept in float64 on the host."""

    def __init__(self) -> None:
        self._totals: dict[int, float] = {}
        self._counts: dict[int, float] = {}
        self._columns: tuple[Column, ...] = ()

    def add(self, columns: Sequence[Column], rows: np.ndarray) -> None:
        """Add steps.

        Args:
            columns: What the columns of `rows` are. Columns that are not there yet are added; of
                one name, the first goes to the first, and so on.
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
            # A term that counted nothing contributes nothing, whatever its mean.
            products = np.where(count == 0, 0.0, mean) * count
            self._totals[index] = _added(self._totals.get(index, 0.0), products)
            self._counts[index] = _added(self._counts.get(index, 0.0), count)

    def _places(self, columns: Sequence[Column]) -> list[int]:
        """Return where each column is kept, and make room for new ones."""
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
        """Begin anew."""
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
        """Return a tally that goes on where `state` was returned."""
        tally = cls()
        tally._columns = tuple(Column(name, kind) for name, kind in state["columns"])
        tally._totals = {index: total for index, total in state["totals"]}
        tally._counts = {index: count for index, count in state["counts"]}
        return tally

    def means(self) -> Mapping[str, float]:
        """Return the mean of each name over everything added; names that count nothing are out."""
        means: dict[str, float] = {}
        for index, column in enumerate(self._columns):
            count = self._counts.get(index, 0.0)
            if count != 0:
                value = self._totals[index] / count
                means[column.name] = means.get(column.name, 0.0) + value
        return means


def _added(total: float, values: np.ndarray) -> float:
    """Add values one after another, so that the sum is the same however they are cut in blocks."""
    return float(np.add.accumulate(np.concatenate(([total], values)))[-1])
