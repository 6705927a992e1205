# pyright: basic
"""Functions compiled by JAX."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import jax
import keras
import numpy as np
from jax.core import Tracer

from perigee._backends._protocol import Mode
from perigee._backends._watching import Watched, watch_keras_variables
from perigee._backends.jax import placement
from perigee._backends.jax.processes import local_values
from perigee._backends.jax.profiling import constant_draws, operations_in, program_of
from perigee._backends.jax.scopes import Scope, no_leaks, refuse_leaks
from perigee._backends.jax.tensors import as_array, tensors
from perigee._errors import DataTypeError
from perigee._listening import Call, Hear, Talk, listening
from perigee._typing import Tensor, Tree

_F = TypeVar("_F", bound=Callable[..., Any])

_BRIEF = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}

_Observed: TypeAlias = list[tuple[Callable[..., None], list[np.ndarray]]]

_observed: ContextVar[_Observed | None] = ContextVar("perigee_observed", default=None)
"""Observed tensors of the current rehearsal, passed on when their values are known."""

_is_eager: ContextVar[bool] = ContextVar("perigee_is_eager", default=False)
"""Whether rehearsals and probes run op by op."""

_IN_LAYER = "In the layer"

_NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def plain(function: _F) -> _F:
    """See `Backend.plain`: JAX rewrites no code."""
    return function


def compiler() -> str | None:
    """See `Backend.compiler`: inside, even a constant is traced."""
    return "jax.jit" if isinstance(jax.numpy.zeros(()), Tracer) else None


def user_code(function: _F) -> _F:
    """See `Backend.user_code`: JAX rewrites no code."""
    return function


def is_compiled_apart(value: Any) -> bool:
    """See `Backend.is_compiled_apart`."""
    return isinstance(value, jax.stages.Wrapped) and hasattr(value, "clear_cache")


def retrace(function: Any) -> None:
    """See `Backend.retrace`."""
    function.clear_cache()


def is_leak(error: Exception) -> bool:
    """See `Backend.is_leak`."""
    return isinstance(error, jax.errors.UnexpectedTracerError)


def naming_layers(hear: Hear) -> AbstractContextManager[None]:
    """See `Backend.naming_layers`: `jax_debug_nans` and `jax_debug_infs` name an operation."""
    if not any(getattr(jax.config, f"jax_debug_{what}", False) for what in ("nans", "infs")):
        return nullcontext()
    return hear(keras.Layer, "__call__", _names_layer)


def _names_layer(original: Any, layer: keras.Layer, *args: Any, **kwargs: Any) -> Talk:
    try:
        yield
    except FloatingPointError as error:
        if not any(note.startswith(_IN_LAYER) for note in getattr(error, "__notes__", ())):
            error.add_note(f"{_IN_LAYER} {layer.name!r} ({type(layer).__name__}).")
        raise


def is_for_xla(value: Any) -> bool:
    """See `Backend.is_for_xla`: there is no such choice."""
    del value
    return False


def inlined(value: Any) -> Any:
    """See `Backend.inlined`: JAX itself inlines functions, but takes no Step as `self`."""
    function = getattr(value, "__wrapped__", None)
    if not inspect.isfunction(function) or not isinstance(value, jax.stages.Wrapped):
        return value
    return function if next(iter(inspect.signature(function).parameters), "") == "self" else value


@contextmanager
def watch(hear: Hear, layers: Iterable[Any] = ()) -> Generator[Watched]:
    """See `Backend.watch`."""
    with ExitStack() as stack:
        for layer in layers:
            if not layer.built:
                stack.enter_context(hear(layer, "build", _computed_at_once))
        watching = watch_keras_variables(hear, change_in_place=_is_eager.get())
        yield stack.enter_context(watching)


def _computed_at_once(original: Any, *args: Any, **kwargs: Any) -> Talk:
    """Build a layer without tracing: building depends on shapes alone."""
    with jax.ensure_compile_time_eval():
        yield


_DRAWING = ("bernoulli", "categorical", "choice", "dirichlet", "exponential", "gamma", "gumbel")
_DRAWING += ("laplace", "normal", "permutation", "poisson", "rademacher", "randint")
_DRAWING += ("truncated_normal", "uniform")


_Look: TypeAlias = Callable[[str, Sequence[Any]], None]

_look: ContextVar[_Look | None] = ContextVar("perigee_look_at_draws", default=None)


@contextmanager
def drawing(hear: Hear, look: _Look) -> Generator[None]:
    """See `Backend.drawing`; eagerly, keys that are split or folded are other keys."""

    def draws(name: str, original: Any, key: Any, *args: Any, **kwargs: Any) -> Talk:
        look(name, [key])
        yield

    token = _look.set(look)
    try:
        with ExitStack() as stack:
            for name in _DRAWING if _is_eager.get() else ():
                listener = functools.partial(draws, name)
                stack.enter_context(hear(jax.random, name, listener))
            yield
    finally:
        _look.reset(token)


@contextmanager
def eagerly() -> Generator[None]:
    """See `Backend.eagerly`."""
    token = _is_eager.set(True)
    try:
        yield
    finally:
        _is_eager.reset(token)


def needs_values(error: Exception) -> bool:
    """See `Backend.needs_values`; formatting a number, and slicing by it, are bare errors."""
    text = str(error)
    is_bare = "Tracer.__format__" in text or "Slice entries must be static" in text
    return is_bare or isinstance(error, _NEEDS_VALUES)


_callback = jax.debug.callback


def _is_left_out(original: Any, *args: Any, **kwargs: Any) -> Talk:
    yield Call(lambda: None, (), {})


def hold(variable: Any) -> Tensor | None:
    """See `Backend.hold`: arrays do not change; but code that runs eagerly may donate them.

    One of a weak type, made from a number of Python, is no more so after a step, which would be
    recompiled.
    """
    if _is_eager.get() or not isinstance(variable, keras.Variable) or variable.value.weak_type:
        return None
    return variable.value


@contextmanager
def _not_shown() -> Generator[None]:
    """Leave out what a step shows outside: it is only tried, and shows each step once later."""
    with ExitStack() as stack:
        for name in ("callback", "print"):
            stack.enter_context(listening(jax.debug, name, _is_left_out))
        yield


def is_rehearsing() -> bool:
    """Return whether a rehearsal is running."""
    return _observed.get() is not None


def rehearse(
    function: Callable[[], Any],
    variables: Sequence[Any],
    computes: bool = True,
    overwrites: bool = True,
) -> bool:
    """See `Backend.rehearse`: compiled as a whole, since single operations take longer.

    Variables keep their values: what the function assigns stays in the scope. Only what is observed
    is computed; the compiler drops the rest. Eagerly, it simply runs.
    """
    del overwrites
    scope = Scope(is_checked=True)

    def pure(values: Sequence[Tensor]) -> list[Tensor]:
        nonlocal scope
        scope = Scope(zip(variables, values, strict=True), is_checked=True)
        with scope, _not_shown():
            function()
        # One that belongs to a trace that has ended becomes an input that nothing gives.
        return [scope.value_of(variable) for variable in scope.inside.values()]

    observed: _Observed = []
    token = _observed.set(observed)
    try:
        if _is_eager.get():
            with no_leaks(variables), _not_shown():
                function()
            loops_well = True
        else:
            # Variables created inside get their values when the outer scope ends, outside the
            # trace.
            with keras.StatelessScope():
                values = local_values(variables)
                traced = jax.jit(pure).trace(values)
                given = jax.tree_util.tree_leaves(traced.in_avals)
                if scope.inside and len(traced.jaxpr.in_avals) != len(given):
                    try:
                        jax.jit(pure)(values)
                    except jax.errors.UnexpectedTracerError as error:
                        refuse_leaks([*scope.inside.values()], error)
                        raise
                if computes:
                    traced.lower().compile(_brief_options())(values)
            look = _look.get()
            with suppress(Exception):  # an operation of another kind: nothing is known then
                if look is not None:
                    for name, keys in constant_draws(traced.jaxpr):
                        look(name if name in _DRAWING else "a draw", keys)
            loops_well = jax.default_backend() != "cpu" or not _convolves(traced.jaxpr)
        jax.effects_barrier()
    finally:
        _observed.reset(token)
    for look, arrays in observed:
        look(*arrays)
    return loops_well


def _convolves(jaxpr: Any) -> bool:
    """Return whether there is a convolution: in loops on a CPU, XLA runs it many times slower."""
    return any(
        equation.primitive.name == "conv_general_dilated"
        or any(map(_convolves, _inside(equation.params.values())))
        for equation in jaxpr.eqns
    )


def _inside(parameters: Iterable[Any]) -> Iterator[Any]:
    """Yield the programs among the parameters of an operation."""
    for value in parameters:
        if isinstance(value, list | tuple):
            yield from _inside(value)
        elif hasattr(value, "eqns"):
            yield value


def observe(tensors: Sequence[Tensor], look: Callable[..., None]) -> None:
    """See `Backend.observe`: values are known after the rehearsal."""
    observed = _observed.get()
    if observed is None:
        return
    _callback(lambda *arrays: observed.append((look, [np.array(a) for a in arrays])), *tensors)


def compile(
    function: Callable[..., Tree],
    variables: Sequence[Any],
    mode: Mode,
    is_probe: bool = False,
    states: Sequence[Any] | None = (),
) -> Function:
    """See `Backend.compile`; JAX compiles with XLA in every mode except eager.

    States are ordinary variables: every size is known, and nothing is overwritten in place.
    """
    del states
    if is_probe and _is_eager.get():
        mode = "eager"
    return Function(function, variables, mode, is_probe)


@functools.cache
def _brief_options() -> dict[str, Any] | None:
    """Return options that make compiling for a CPU four times as fast, for code that runs rarely.

    `None` if this version of JAX does not know an option.
    """
    if jax.default_backend() != "cpu":
        return None
    options: dict[str, Any] = {}
    for name, value in _BRIEF.items():
        try:
            jax.jit(lambda: 0).lower().compile(compiler_options={name: value})
        except Exception:
            continue
        options[name] = value
    return options


def is_compiler_error(error: Exception) -> bool:
    """See `Backend.is_compiler_error`."""
    return isinstance(error, jax.errors.JaxRuntimeError)


class Function:
    """A function of trees of arrays, compiled once for each structure and size."""

    def __init__(
        self,
        function: Callable[..., Tree],
        variables: Sequence[Any],
        mode: Mode,
        is_probe: bool = False,
    ) -> None:
        self.traces = 0
        self._function, self._variables = function, list(variables)
        self._is_eager, self._is_probe = mode == "eager", is_probe
        # A probe computes only its result: its writes, and usually gradients, are not even
        # compiled.
        self._written = [] if is_probe else self._variables
        self._distribution = keras.distribution.distribution()
        self._place = getattr(function, "place", placement.placed)
        # The old values are donated: the new ones reuse their memory.
        self._compiled = jax.jit(
            self._pure,
            donate_argnums=() if is_probe else 0,
            compiler_options=_brief_options() if is_probe else None,
            **placement.held_in_place(self._written),
        )

    def __call__(self, *arguments: Tree) -> Tree:
        """Run the function, compiling it first if necessary."""
        if self._is_eager:
            with _not_shown() if self._is_probe else nullcontext():
                return self._function(*self._laid_out(tensors(arguments)))
        result, values = self._compiled(*self._given(arguments))
        for variable, value in zip(self._written, values, strict=True):
            variable.assign(value)
        return result

    def begin(self, *arguments: Tree) -> _Begun:
        """See `Compiled.begin`: JAX returns arrays before they are computed."""
        return _Begun(self(*arguments))

    def obstacles(self, *arguments: Tree) -> tuple[str, ...]:
        """See `Compiled.obstacles`: XLA compiles everything here."""
        if self._is_eager:
            return ()
        effects = self._compiled.trace(*self._given(arguments)).jaxpr.effects
        return ("a callback to Python",) if effects else ()

    def draws(self) -> bool:
        """See `Compiled.draws`."""
        return False

    def hidden_state(self) -> tuple[str, ...]:
        """See `Compiled.hidden_state`."""
        return ()

    def program(self, *arguments: Tree) -> Any:
        """See `Compiled.program`."""
        if self._is_eager:
            return None
        # JAX keeps the trace of a function: this is another one.
        again = jax.jit(lambda values, given: self._pure(values, given))
        return program_of(again.trace(*self._given(arguments)).jaxpr)

    def operations(self, *arguments: Tree) -> float:
        """See `Compiled.operations`: it is traced, but neither compiled nor run."""
        return operations_in(self._compiled.trace(*self._given(arguments)).jaxpr)

    def _given(self, arguments: Tree) -> tuple[list[Tensor], Tree]:
        """Return the inputs of the compiled function: values of variables, and arguments."""
        if keras.distribution.distribution() is not self._distribution:
            placement.check_devices(self._variables)
        arguments = keras.tree.map_structure(_own_array, arguments)
        _refuse_text(jax.tree_util.tree_leaves(arguments))
        arguments = self._laid_out(arguments)
        leaves = jax.tree_util.tree_leaves(arguments)
        return _unshared([variable.value for variable in self._variables], leaves), arguments

    def _laid_out(self, arguments: Tree) -> Tree:
        """Return arguments distributed over the devices: the first is a batch, or rows for many."""
        if not arguments or not placement.is_spread():
            return arguments
        return self._place(arguments[0]), *arguments[1:]

    def _pure(self, values: Sequence[Tensor], arguments: Tree) -> tuple[Tree, list[Tensor]]:
        self.traces += 1
        around = _not_shown() if self._is_probe else nullcontext()
        with Scope(zip(self._variables, values, strict=True)) as scope, around:
            result = self._function(*arguments)
        return result, [scope.value_of(variable) for variable in self._written]


@dataclass(frozen=True, slots=True)
class _Begun:
    """Arrays that may not be computed yet."""

    arrays: Tree

    def done(self) -> bool:
        """See `Pending.done`."""
        return all(array.is_ready() for array in jax.tree_util.tree_leaves(self.arrays))

    def result(self) -> Tree:
        """See `Pending.result`."""
        return jax.block_until_ready(self.arrays)


def _own_array(leaf: Any) -> Any:
    """Return a leaf to be passed in: JAX takes NumPy arrays faster than tensors made from them.

    They are copied, since compiled functions read them later and in place: data that reuses one
    array for each batch would be trained on later contents.
    """
    leaf = as_array(leaf)
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


def _refuse_text(leaves: Sequence[Any]) -> None:
    """Refuse values that could only be constants of the program: each batch would recompile it."""
    for leaf in leaves:
        if not isinstance(leaf, jax.Array) and np.asarray(leaf).dtype.kind in "OSU":
            raise DataTypeError(
                f"{np.asarray(leaf).dtype} in a batch, compiled by JAX,",
                'drop it from the batch, map it to numbers, or pass `execution="eager"`.',
            )


def _unshared(values: list[Tensor], arguments: Sequence[Any]) -> list[Tensor]:
    """Copy arrays that several variables share, or a variable and an argument.

    Memory can be donated only once, and not while it is read.
    """
    seen = {id(argument) for argument in arguments}
    for index, value in enumerate(values):
        if id(value) in seen:
            values[index] = value.copy()
        seen.add(id(value))
    return values
