# pyright: basic
"""Gradients and conditional updates in torch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import torch

from perigee._typing import Tensor, Tree

_depth = 0
"""How many functions are being differentiated around the code that runs."""


@contextmanager
def _recording() -> Generator[bool]:
    """Record for differentiation; tells whether this happens inside another function."""
    global _depth
    _depth += 1
    try:
        with torch.enable_grad():
            yield _depth > 1
    finally:
        _depth -= 1


@contextmanager
def kept_for_gradients(states: Sequence[Any] | None) -> Generator[None]:
    """Let states be overwritten before the gradients are taken that need what they were.

    A recurrent layer assigns its new state in place, and torch refuses gradients through the old
    one then. What is overwritten against the rules elsewhere is refused as ever.

    Args:
        states: Variables, copied where a gradient needs them; `None` copies all that is not
            differentiated itself, where the states are not known yet.
    """
    if states is not None and not states:
        yield
        return

    def is_state(tensor: Tensor) -> bool:
        if states is None:
            return not tensor.requires_grad
        place = tensor.untyped_storage().data_ptr()
        return any(place == state.value.untyped_storage().data_ptr() for state in states)

    def keep(tensor: Tensor) -> tuple[Tensor, int]:
        kept = tensor.detach().clone() if is_state(tensor) else tensor
        return kept, kept._version

    def give(kept: tuple[Tensor, int]) -> Tensor:
        tensor, version = kept
        if tensor._version != version:  # which torch does not look at in what hooks keep
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an "
                f"inplace operation: {tensor.type()} {list(tensor.shape)} is at version "
                f"{tensor._version}; expected version {version} instead."
            )
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, give):
        yield


def differentiate(
    function: Callable[[], tuple[Tensor, Tree]], variables: Sequence[Any]
) -> tuple[Tree, list[Tensor | None], list[Any]]:
    """See `Backend.differentiate`; gradients never gather in `.grad`, so none can be stale."""
    values = [variable.value for variable in variables]
    with _recording() as is_inner, _followed(values):
        scalar, rest = function()
        gradients = _gradients(scalar, values, is_inner)
    return rest if is_inner else _detached(rest), gradients, []


@contextmanager
def _followed(values: Sequence[Tensor]) -> Generator[None]:
    """Let frozen variables be differentiated for, too."""
    frozen = [value for value in values if not value.requires_grad]
    for value in frozen:
        value.requires_grad_()
    try:
        yield
    finally:
        for value in frozen:
            value.requires_grad_(False)


def differentiate_inputs(
    function: Callable[..., Tensor], tensors: Sequence[Tensor]
) -> list[Tensor | None]:
    """See `Backend.differentiate_inputs`."""
    with _recording() as is_inner:
        # Views, for a tensor that is given twice would get the sum of both gradients twice.
        values = [t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in tensors]
        return _gradients(function(*values), values, is_inner)


def _gradients(scalar: Tensor, values: Sequence[Tensor], is_inner: bool) -> list[Tensor | None]:
    if not scalar.requires_grad:
        return [None for _ in values]
    return list(torch.autograd.grad(scalar, values, create_graph=is_inner, allow_unused=True))


def _detached(tree: Tree) -> Tree:
    """Let go of what made the tensors of a tree."""
    if hasattr(tree, "tree_flatten"):
        parts, rest = tree.tree_flatten()
        return type(tree).tree_unflatten(rest, _detached(parts))
    if isinstance(tree, torch.Tensor):
        return tree.detach()
    flat = keras.tree.flatten(tree)
    if len(flat) == 1 and flat[0] is tree:
        return tree
    return keras.tree.pack_sequence_as(tree, [_detached(leaf) for leaf in flat])


def update_if(condition: Tensor, update: Callable[[], None], variables: Sequence[Any]) -> None:
    """See `Backend.update_if`: all is updated and then chosen, so that nothing waits."""
    with torch.no_grad():
        is_true = torch.as_tensor(condition, dtype=torch.bool).reshape(())
        before = [variable.value.detach().clone() for variable in variables]
        update()
        for variable, old in zip(variables, before, strict=True):
            variable.assign(torch.where(is_true, variable.value, old))


def switch(index: Tensor, branches: Sequence[Callable[[], Sequence[Tensor]]]) -> list[Tensor]:
    """See `Backend.switch`; waits for `index` where it is on an accelerator."""
    return list(branches[int(index)]())
