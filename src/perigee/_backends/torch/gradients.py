# pyright: basic
"""Gradients and conditional updates in torch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import torch

# By this name it is not heard: see `tapes`.
from torch.autograd import grad as _own_grad
from torch.optim.optimizer import register_optimizer_step_post_hook

from perigee._backends._protocol import Differentiated
from perigee._backends.torch.states import array_of, tensor_of
from perigee._listening import Hear, Talk
from perigee._typing import Tensor, Tree

_depth = 0
"""The number of functions being differentiated around the running code."""

_look: ContextVar[Callable[[Differentiated], None] | None] = ContextVar(
    "perigee_look", default=None
)
"""Called with what is differentiated, during a rehearsal."""


@contextmanager
def _recording() -> Generator[bool]:
    """Record for differentiation; yields whether this is inside another such function."""
    global _depth
    _depth += 1
    try:
        with torch.enable_grad():
            yield _depth > 1
    finally:
        _depth -= 1


@contextmanager
def kept_for_gradients(states: Sequence[Any] | None) -> Generator[None]:
    """Allow states to be overwritten before gradients that need their old values.

    A recurrent layer assigns its new state in place, and torch then refuses gradients through the
    old one. Other invalid overwriting is still refused.

    Args:
        states: Variables, copied if a gradient needs them; `None` copies everything that is not
            itself differentiated, if the states are not known yet.
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
        if tensor._version != version:  # which torch does not check for tensors kept by hooks
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
    """See `Backend.differentiate`; gradients never accumulate in `.grad`, so none is stale."""
    values = [variable.value for variable in variables]
    with _recording() as is_inner, _followed(values):
        scalar, rest = function()
        look = None if is_inner else _look.get()
        if look is not None:
            look(Differentiated(scalar, (), (), _parameters_of([scalar])))
        gradients = _gradients(scalar, values, is_inner)
    return rest if is_inner else _detached(rest), gradients, []


@contextmanager
def _followed(values: Sequence[Tensor]) -> Generator[None]:
    """Allow differentiation with respect to frozen variables too."""
    frozen = [value for value in values if not value.requires_grad]
    for value in frozen:
        value.requires_grad_()
    try:
        yield
    finally:
        for value in frozen:
            value.requires_grad_(False)


@contextmanager
def tapes(hear: Hear, look: Callable[[Differentiated], None]) -> Generator[None]:
    """See `Backend.tapes`: `backward` and `grad` of torch itself.

    The parameters that Perigee's own objectives read are reported too, without sources.
    """

    def grad(original: Any, outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Talk:
        sources = [inputs] if torch.is_tensor(inputs) else list(inputs)
        is_of_weights = any(isinstance(source, torch.nn.Parameter) for source in sources)
        read = _parameters_of(outputs) if is_of_weights else []
        found = yield
        look(Differentiated(outputs, sources, list(found), read))

    def backward(original: Any, tensors: Any, *args: Any, **kwargs: Any) -> Talk:
        read = _parameters_of(tensors)
        yield
        look(Differentiated(tensors, read, [value.grad for value in read], read, is_kept=True))

    token = _look.set(look)
    try:
        # `Tensor.backward` calls it, too.
        with hear(torch.autograd, "backward", backward), hear(torch.autograd, "grad", grad):
            yield
    finally:
        _look.reset(token)


def _parameters_of(tensors: Any) -> list[Any]:
    """Return the parameters that tensors were computed from, by the graph that torch recorded."""
    tensors = [tensors] if torch.is_tensor(tensors) else list(tensors)
    found = {id(t): t for t in tensors if t.is_leaf and t.requires_grad}
    waiting = [t.grad_fn for t in tensors]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        found |= {} if leaf is None else {id(leaf): leaf}
        waiting += [after for after, _ in node.next_functions]
    return [leaf for leaf in found.values() if isinstance(leaf, torch.nn.Parameter)]


@contextmanager
def steps(look: Callable[[Any, Sequence[tuple[Any, Any]]], None]) -> Generator[None]:
    """See `Backend.steps`; seen after the update, since a closure may compute the gradients."""
    thread = threading.get_ident()

    def stepped(optimizer: Any, args: Any, kwargs: Any) -> None:
        if threading.get_ident() == thread:
            values = [value for group in optimizer.param_groups for value in group["params"]]
            look(optimizer, [(value, value.grad) for value in values if value.requires_grad])

    handle = register_optimizer_step_post_hook(stepped)
    try:
        yield
    finally:
        handle.remove()


def unfrozen(variables: Sequence[Any]) -> list[Any]:
    """See `Backend.unfrozen`: `requires_grad_(False)` freezes as `trainable = False` does."""
    return [variable for variable in variables if variable.value.requires_grad]


def differentiate_inputs(
    function: Callable[..., Tensor], tensors: Sequence[Tensor]
) -> list[Tensor | None]:
    """See `Backend.differentiate_inputs`."""
    with _recording() as is_inner:
        # Views, since a tensor passed twice would get the sum of both gradients twice.
        values = [t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in tensors]
        return _gradients(function(*values), values, is_inner)


def _gradients(scalar: Tensor, values: Sequence[Tensor], is_inner: bool) -> list[Tensor | None]:
    if not scalar.requires_grad:
        return [None for _ in values]
    return list(_own_grad(scalar, values, create_graph=is_inner, allow_unused=True))


def recorded(function: Callable[..., Tree], *arguments: Any) -> Tree:
    """See `Backend.recorded`."""
    with torch.enable_grad():
        return _detached(function(*arguments))


def _detached(tree: Tree) -> Tree:
    """Detach the tensors of a tree from their graph; those without one stay the same objects."""
    if hasattr(tree, "tree_flatten"):
        parts, rest = tree.tree_flatten()
        return type(tree).tree_unflatten(rest, _detached(parts))
    if isinstance(tree, torch.Tensor):
        return tree.detach() if tree.requires_grad else tree
    flat = keras.tree.flatten(tree)
    if len(flat) == 1 and flat[0] is tree:
        return tree
    return keras.tree.pack_sequence_as(tree, [_detached(leaf) for leaf in flat])


@contextmanager
def gradients_restored(variables: Sequence[Any]) -> Generator[None]:
    """See `Backend.gradients_restored`: the next `backward` would be added to what is in `.grad`.

    Those of variables without a value yet are not known.
    """
    # The state of an object, such as an optimizer of torch, has no gradient.
    values = [variable.value for variable in variables if variable.value is not None]
    gradients = [None if value.grad is None else value.grad.clone() for value in values]
    try:
        yield
    finally:
        for value, gradient in zip(values, gradients, strict=True):
            value.grad = gradient


def waiting_gradients(variables: Sequence[Any]) -> list[Any]:
    """See `Backend.waiting_gradients`: those in `.grad`."""
    return [_waiting(variable.value) for variable in variables]


def _waiting(value: Any) -> Any:
    gradient = None if value is None else value.grad
    if gradient is None:
        return None
    return {
        "values": array_of(gradient),
        "sparse_axes": gradient.sparse_dim() if gradient.is_sparse else 0,
    }


def set_waiting_gradients(variables: Sequence[Any], gradients: Sequence[Any]) -> None:
    """See `Backend.set_waiting_gradients`."""
    for variable, said in zip(variables, gradients, strict=True):
        value = variable.value
        if said is None:
            value.grad = None
            continue
        try:
            found, axes = tensor_of(said["values"]), int(said["sparse_axes"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"it is no gradient ({error})") from error
        if found.shape != value.shape:
            raise ValueError(f"a gradient has the shape {tuple(found.shape)}")
        found = found.to(value.device, value.dtype)
        value.grad = found.to_sparse(axes) if axes else found


def update_if(condition: Tensor, update: Callable[[], None], variables: Sequence[Any]) -> None:
    """See `Backend.update_if`: everything is updated and then selected, so that nothing waits."""
    with torch.no_grad():
        is_true = torch.as_tensor(condition, dtype=torch.bool).reshape(())
        changing = [variable for variable in variables if variable.value is not None]
        before = [variable.value.detach().clone() for variable in changing]
        others = [variable for variable in variables if variable.value is None]
        states = [variable.read() for variable in others]
        update()
        for variable, old in zip(changing, before, strict=True):
            variable.assign(torch.where(is_true, variable.value, old))
        if others and not is_true:  # waits
            for variable, state in zip(others, states, strict=True):
                variable.assign(state)


def switch(index: Tensor, branches: Sequence[Callable[[], Sequence[Tensor]]]) -> list[Tensor]:
    """See `Backend.switch`; waits for `index` if it is on an accelerator."""
    return list(branches[int(index)]())
