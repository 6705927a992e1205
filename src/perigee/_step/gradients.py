"""Gradients with their variables, and operations such as clipping."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from perigee import _backends
from perigee._errors import ArgumentError, GradientCountError, VariablesArgumentError
from perigee._typing import Tensor

_plain = _backends.current().plain


@dataclass(frozen=True, slots=True)
class Gradients(Sequence[Any]):
    """Gradients with their variables; a sequence of the gradients.

    Attributes:
        values: One tensor for each variable, of its shape.
        variables: The variables.
        returned: The objective's result, its loss including the added terms.
        weight: The weight of this batch among others, shape `()`: its number of examples, or the
            count of the loss.
        is_altered: Whether the values were replaced after they were computed.
        loss: The mean of the differentiated loss over the whole batch, shape `()`, even if the
            batch is split over several replicas. It decides whether an update is skipped.
    """

    values: Sequence[Any]
    variables: Sequence[Any]
    returned: Any = None
    weight: Any = None
    is_altered: bool = False
    loss: Any = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]

    @_plain
    def replaced(self, values: Iterable[Any]) -> Gradients:
        """Return a copy with other values, in the same order.

        Raises:
            GradientCountError: If their number differs.
        """
        values = list(values)
        if len(values) != len(self.variables):
            raise GradientCountError(len(values), len(self.variables))
        return Gradients(values, self.variables, self.returned, self.weight, True, self.loss)

    @_plain
    def of(self, variables: Any) -> Gradients:
        """Return the gradients of some of the variables, unaltered.

        Args:
            variables: Some of `self.variables`, in any order: a (nested) list of them, of layers
                and of models; or one.

        Raises:
            VariablesArgumentError: If there is none, or one was not differentiated for.
        """
        values = {id(v): value for v, value in zip(self.variables, self.values, strict=True)}
        chosen = trainable_variables(variables)
        unknown = [v.path for v in chosen if id(v) not in values]
        if unknown:
            raise VariablesArgumentError(
                f"the gradients are not those of {len(unknown)} of them", unknown
            )
        part = [values[id(v)] for v in chosen]
        rest = self.returned, self.weight, self.is_altered, self.loss
        return Gradients(part, chosen, *rest)

    @_plain
    def clip_by_value(self, limit: float) -> Gradients:
        """Limit each element of each gradient to `[-limit, limit]`, `limit` greater than 0."""
        return self.replaced(ops.clip(g, -limit, limit) for g in self._dense())

    @_plain
    def clip_by_norm(self, max_norm: float) -> Gradients:
        """Scale each gradient separately so that its L2 norm is at most `max_norm`."""
        return self.replaced(
            g * _shrink(ops.sqrt(ops.sum(ops.square(g))), max_norm) for g in self._dense()
        )

    @_plain
    def clip_by_global_norm(self, max_norm: float) -> tuple[Gradients, Tensor]:
        """Scale all gradients by one factor so that their global L2 norm is at most `max_norm`.

        Directions are kept, unlike clipping each separately (Pascanu et al., 2013, algorithm 1).

        Args:
            max_norm: Upper bound, greater than 0, in the units of the gradients.

        Returns:
            The scaled gradients, and the global norm before scaling, shape `()`.
        """
        norm = self.global_norm()
        factor = _shrink(norm, max_norm)
        return self.replaced(g * ops.cast(factor, g.dtype) for g in self._dense()), norm

    @_plain
    def global_norm(self) -> Tensor:
        """Return the global L2 norm of all gradients, shape `()`, for logs or conditions."""
        return ops.sqrt(sum((ops.sum(ops.square(g)) for g in self._dense()), start=0.0))

    def _dense(self) -> list[Tensor]:
        return [_backends.current().dense(g) for g in self.values]


def _shrink(norm: Tensor, max_norm: float) -> Tensor:
    # A norm of 0 must not be divided by; an infinite one makes the factor 0 and the gradients
    # NaN, which the finite check sees.
    return max_norm / ops.maximum(norm, max_norm)


def trainable_variables(given: Any) -> list[Any]:
    """Return the variables that are named by a tree of variables, layers and models.

    A layer or a model stands for its trainable ones; each is returned once.

    Raises:
        VariablesArgumentError: If something else is given, or there is none.
    """
    backend = _backends.current()
    chosen: dict[int, Any] = {}
    for item in keras.tree.flatten(given):
        if not isinstance(item, keras.Layer | keras.Variable):
            is_module = hasattr(item, "named_parameters")
            raise VariablesArgumentError(f"{type(item).__name__} was given", is_module=is_module)
        is_layer = isinstance(item, keras.Layer)
        found = backend.unfrozen(item.trainable_variables) if is_layer else [item]
        chosen |= {id(v): v for v in found}
    if not chosen:
        raise VariablesArgumentError(
            "there is no trainable variable (the model is not built, or is frozen)"
        )
    return list(chosen.values())


def as_gradients(given: Any) -> Gradients:
    """Return `Gradients` as they are, and (gradient, variable) pairs as altered ones.

    Raises:
        ArgumentError: If it is neither.
    """
    if isinstance(given, Gradients):
        return given
    if isinstance(given, tuple) and given and isinstance(given[0], Gradients):
        raise ArgumentError(
            "gradients",
            "<the gradients and their norm>",
            "the gradients alone.",
            "unpack what was returned: `gradients, norm = gradients.clip_by_global_norm(1.0)`.",
        )
    pairs = list(given) if isinstance(given, Iterable) else []
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs) or not pairs:
        raise ArgumentError(
            "gradients",
            f"<{type(given).__name__}>",
            "what `self.gradients` returned, or (gradient, variable) pairs.",
            "put new values in: `self.apply(optimizer, gradients.replaced(values))`.",
        )
    values, variables = [g for g, _ in pairs], [v for _, v in pairs]
    return Gradients(values, variables, is_altered=True)
