# pyright: basic
"""Functions that torch runs op by op."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import keras
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from perigee._backends._protocol import Mode
from perigee._backends._watching import Watched, watch_keras_variables
from perigee._backends.torch.gradients import kept_for_gradients
from perigee._backends.torch.tensors import tensors
from perigee._errors import UnheldVariablesError
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


def is_compiled_apart(value: Any) -> bool:
    """See `Backend.is_compiled_apart`: compiled functions read variables when they run."""
    del value
    return False


def retrace(function: Any) -> None:
    """See `Backend.retrace`: there are no such functions."""
    del function


def is_leak(error: Exception) -> bool:
    """See `Backend.is_leak`: the framework's own error says what to do."""
    del error
    return False


def naming_layers(hear: Hear) -> AbstractContextManager[None]:
    """See `Backend.naming_layers`: Keras names the layer."""
    del hear
    return nullcontext()


def is_for_xla(value: Any) -> bool:
    """See `Backend.is_for_xla`: there is no such choice."""
    del value
    return False


def inlined(value: Any) -> Any:
    """See `Backend.inlined`: torch runs op by op, and users' compiled functions stay compiled."""
    return value


@contextmanager
def watch(hear: Hear, layers: Iterable[Any] = ()) -> Generator[Watched]:
    """See `Backend.watch`: buffers of torch's modules inside the layers are restored too.

    Created variables keep no gradient.
    """
    buffers = {id(buffer): buffer for layer in layers for buffer in layer.buffers()}
    before = {key: buffer.detach().clone() for key, buffer in buffers.items()}
    try:
        with watch_keras_variables(hear, change_in_place=True) as watched:
            try:
                yield watched
            finally:
                for variable, _ in watched.made:
                    variable.value.grad = None
    finally:
        with torch.no_grad():
            for key, buffer in buffers.items():
                buffer.copy_(before[key])


def eagerly() -> AbstractContextManager[None]:
    """See `Backend.eagerly`: everything runs op by op anyway."""
    return nullcontext()


def needs_values(error: Exception) -> bool:
    """See `Backend.needs_values`: everything runs op by op."""
    del error
    return False


def rehearse(function: Callable[[], Any], variables: Sequence[Any], computes: bool = True) -> bool:
    """See `Backend.rehearse`.

    Raises:
        UnheldVariablesError: If an optimizer of torch's keeps a state, which no variable holds.
    """
    with torch.no_grad(), kept_for_gradients(None), _optimizers_of_torch() as used:
        function()
        stateful = [type(optimizer).__name__ for optimizer in used if _has_state(optimizer)]
    if stateful:
        raise UnheldVariablesError(
            [f"the state of torch's {name}" for name in stateful],
            "take an optimizer of Keras's: after `loss.backward()`, `with torch.no_grad(): "
            "optimizer.apply([v.value.grad for v in variables], variables)`, where `variables` "
            "are `model.trainable_variables`.",
        )
    return True


@contextmanager
def _optimizers_of_torch() -> Generator[list[Any]]:
    """Collect the optimizers of torch's that update something; restores their states."""
    used: list[Any] = []
    before: list[Any] = []
    thread = threading.get_ident()

    def look(optimizer: Any, args: Any, kwargs: Any) -> None:
        if threading.get_ident() == thread and all(optimizer is not other for other in used):
            used.append(optimizer)
            before.append(copy.deepcopy(optimizer.state_dict()))

    handle = register_optimizer_step_pre_hook(look)
    try:
        yield used
    finally:
        handle.remove()
        for optimizer, state in zip(used, before, strict=True):
            optimizer.load_state_dict(state)


def _has_state(optimizer: Any) -> bool:
    return any(v is not None for s in optimizer.state_dict()["state"].values() for v in s.values())


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
    end: Callable[[], Tree],
) -> Callable[..., tuple[Tree, Tree]]:
    """See `Backend.sliced`: never used, as torch runs op by op."""
    raise NotImplementedError


def streamed(
    function: Callable[[Tree], Tensor],
    goes_on: Callable[[Tensor], Tensor] | None,
    end: Callable[[], Tree],
) -> Callable[..., tuple[Tensor, Tensor, Tree]]:
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
