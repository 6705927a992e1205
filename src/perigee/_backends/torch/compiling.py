# pyright: basic
"""Functions that torch runs op by op."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import keras
import torch
from torch.nn.modules.lazy import LazyModuleMixin
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from perigee._backends._protocol import Mode
from perigee._backends._watching import Watched, watch_keras_variables
from perigee._backends.torch.gradients import kept_for_gradients
from perigee._backends.torch.states import variables_of
from perigee._backends.torch.tensors import tensors
from perigee._listening import Hear, Talk
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
    """See `Backend.watch`: optimizers of torch that no Step holds are restored, too.

    Created variables keep no gradient. Parameters of lazy modules are created at the first call.
    """
    del layers

    def initialized(original: Any, module: Any) -> Talk:
        is_lazy = yield
        if not is_lazy:  # torch asks before it draws their values, and once more after that
            new = {id(variable): variable for variable in variables_of(module)}
            watched.made[:] = [pair for pair in watched.made if id(pair[0]) not in new]
            watched.made += [(variable, variable.read()) for variable in new.values()]

    with watch_keras_variables(hear, change_in_place=True) as watched:
        try:
            with (
                hear(LazyModuleMixin, "has_uninitialized_params", initialized),
                _optimizers_of_torch() as used,
            ):
                watched.loose = partial(_loose, used)
                yield watched
        finally:
            for variable, _ in watched.made:
                variable.value.grad = None


def eagerly() -> AbstractContextManager[None]:
    """See `Backend.eagerly`: everything runs op by op anyway."""
    return nullcontext()


def needs_values(error: Exception) -> bool:
    """See `Backend.needs_values`: everything runs op by op."""
    del error
    return False


def rehearse(
    function: Callable[[], Any],
    variables: Sequence[Any],
    computes: bool = True,
    overwrites: bool = True,
) -> bool:
    """See `Backend.rehearse`."""
    with torch.no_grad(), kept_for_gradients(None if overwrites else ()):
        function()
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


def _loose(used: Sequence[Any], held: Collection[int]) -> list[str]:
    found: list[str] = []
    for optimizer in used:
        kind = f"torch's {type(optimizer).__name__}"
        states = optimizer.state_dict()["state"].values()
        if id(optimizer) not in held and any(v is not None for s in states for v in s.values()):
            found.append(f"the state of {kind}")
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        count = sum(id(parameter) not in held for parameter in parameters)
        if count:
            found.append(f"{count} of {len(parameters)} parameters of {kind}")
    return found


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

    def program(self, *arguments: Tree) -> None:
        """See `Compiled.program`."""

    def operations(self, *arguments: Tree) -> float:
        """See `Compiled.operations`: counted while it runs."""
        with FlopCounterMode(display=False) as counter:
            self(*arguments)
        return float(counter.get_total_flops())
