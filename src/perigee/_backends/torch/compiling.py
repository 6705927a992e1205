# pyright: basic
"""Functions that torch runs op by op."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import keras
import torch
from torch.utils.flop_counter import FlopCounterMode

from perigee._backends._protocol import Mode
from perigee._backends._watching import Watched, watch_keras_variables
from perigee._backends.torch.gradients import kept_for_gradients
from perigee._backends.torch.tensors import tensors
from perigee._listening import Hear
from perigee._typing import Tensor, Tree

_F = TypeVar("_F", bound=Callable[..., Any])


def plain(function: _F) -> _F:
    """See `Backend.plain`: torch rewrites no code."""
    return function


def compiler() -> str | None:
    """See `Backend.compiler`: `torch.compile` leaves out what it cannot compile."""
    return None


def user_code(function: _F) -> _F:
    """See `Backend.user_code`: torch rewrites no code."""
    return function


def is_for_xla(value: Any) -> bool:
    """See `Backend.is_for_xla`: there is no such choice."""
    del value
    return False


def inlined(value: Any) -> Any:
    """See `Backend.inlined`: torch runs op by op, and users' compiled functions stay compiled."""
    return value


@contextmanager
def watch(hear: Hear, layers: Iterable[Any] = ()) -> Generator[Watched]:
    """See `Backend.watch`: buffers of torch's modules inside the layers are restored too."""
    buffers = {id(buffer): buffer for layer in layers for buffer in layer.buffers()}
    before = {key: buffer.detach().clone() for key, buffer in buffers.items()}
    try:
        with watch_keras_variables(hear, change_in_place=True) as watched:
            yield watched
    finally:
        with torch.no_grad():
            for key, buffer in buffers.items():
                buffer.copy_(before[key])


def rehearse(function: Callable[[], Any], variables: Sequence[Any], computes: bool = True) -> bool:
    """See `Backend.rehearse`: gradients in `.grad` would be added to those of the first batch."""
    values = [variable.value for variable in variables]
    gradients = [None if value.grad is None else value.grad.clone() for value in values]
    try:
        with torch.no_grad(), kept_for_gradients(None):
            function()
    finally:
        for value, gradient in zip(values, gradients, strict=True):
            value.grad = gradient
    return True


def observe(tensors: Sequence[Tensor], look: Callable[..., None]) -> None:
    """See `Backend.observe`: the values are known."""
    look(*(keras.ops.convert_to_numpy(tensor) for tensor in tensors))


def sliced(
    function: Callable[[Tree], Tree],
    batch_size: int,
    mode: Mode,
    most: int,
    dtypes: Tree,
    goes_on: Callable[[Tree], Tensor] | None,
) -> Callable[..., Tree]:
    """See `Backend.sliced`: never used, as torch runs op by op."""
    raise NotImplementedError


def streamed(
    function: Callable[[Tree], Tensor], goes_on: Callable[[Tensor], Tensor] | None
) -> Callable[..., tuple[Tensor, Tensor]]:
    """See `Backend.streamed`: never used."""
    raise NotImplementedError


def compile(
    function: Callable[..., Tree],
    variables: Sequence[Any],
    mode: Mode,
    is_probe: bool = False,
    states: Sequence[Any] | None = (),
) -> Function:
    """See `Backend.compile`."""
    return Function(function, None if is_probe else states)


def is_compiler_error(error: Exception) -> bool:
    """See `Backend.is_compiler_error`: nothing is compiled."""
    del error
    return False


class Function:
    """A function that runs op by op; only what is differentiated is recorded."""

    def __init__(self, function: Callable[..., Tree], states: Sequence[Any] | None) -> None:
        self.traces = 0
        self._function, self._states = function, states

    def __call__(self, *arguments: Tree) -> Tree:
        """Run the function."""
        with torch.no_grad(), kept_for_gradients(self._states):
            return self._function(*tensors(arguments))

    def begin(self, *arguments: Tree) -> Any:
        """See `Compiled.begin`: never used, as torch runs op by op."""
        raise NotImplementedError

    def obstacles(self, *arguments: Tree) -> tuple[str, ...]:
        """See `Compiled.obstacles`."""
        return ()

    def draws(self) -> bool:
        """See `Compiled.draws`."""
        return False

    def hidden_state(self) -> tuple[str, ...]:
        """See `Compiled.hidden_state`."""
        return ()

    def operations(self, *arguments: Tree) -> float:
        """See `Compiled.operations`: counted while it runs."""
        with FlopCounterMode(display=False) as counter:
            self(*arguments)
        return float(counter.get_total_flops())
