"""Finds the function that trains on a batch, from a script's loop that calls an optimizer."""

from __future__ import annotations

import ast
import functools
import gc
import inspect
import itertools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from perigee import _backends
from perigee._cli.frames import changed, loops_of, module_of, node_of, stack
from perigee._step.own_code import is_own_file

_PERIGEE = Path(__file__).parents[1]
_SUSPENDED = inspect.CO_GENERATOR | inspect.CO_COROUTINE
_VARIADIC_CODE = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class UnclearError(Exception):
    """The function that trains cannot be told; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Called:
    """A call of the function that trains on a batch.

    Attributes:
        function: A Python function, bound method or `tf.function`.
        given: Its arguments, with defaults.
        line: The line of the script that led to the call.
        kept: The object of a method, of which a `tf.function` has only a weak reference.
    """

    function: Any
    given: inspect.BoundArguments
    line: int
    kept: Any

    @property
    def batch(self) -> dict[str, Any]:
        """The arguments that hold tensors with rows."""
        return {name: value for name, value in self.given.arguments.items() if _rows(value)}

    @property
    def code(self) -> types.CodeType:
        """The code that the user wrote."""
        return code_of(self.function)

    def bound(self) -> Any:
        """Return the function with its models, optimizers and other fixed arguments bound."""
        batch, kinds = self.batch, self.given.signature.parameters
        after = {*itertools.dropwhile(lambda name: name not in batch, self.given.arguments)}
        leading: list[Any] = []
        later: dict[str, Any] = {}
        for name, value in self.given.arguments.items():
            kind = kinds[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                later |= value
            elif name in batch or kind is inspect.Parameter.VAR_POSITIONAL:
                continue
            elif kind is inspect.Parameter.KEYWORD_ONLY or name in after:
                later[name] = value
            else:
                leading.append(value)
        if not leading and not later:
            return self.function
        return functools.partial(self.function, *leading, **later)

    def data(self) -> Any:
        """Return the batch as the bound function takes it."""
        parts: list[Any] = []
        is_whole = len(self.batch) == 1
        for name, value in self.batch.items():
            if self.given.signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
                parts += value
                is_whole = False
            else:
                parts.append(value)
        return parts[0] if is_whole else tuple(parts)


@dataclass(frozen=True, slots=True)
class Again:
    """A `tf.function` that takes no batch, such as one of an iterator.

    Its call is traced, without values; `call` runs its Python function with values.
    """

    call: Callable[[], Any]


def training_call(
    path: Path, updated: Sequence[Any], is_named: Callable[[types.CodeType], bool] | None
) -> Called | Again | None:
    """Return the call that the current update of an optimizer is part of.

    It is the outermost one below the script's loop of which an argument holds a tensor. If
    functions are named, it is the outermost call of one of those; `None` if there is none.

    Args:
        path: The script.
        updated: The variables that would be updated.
        is_named: Returns whether code is that of a named function; `None` if none is named.

    Raises:
        UnclearError: If there is no such call.
    """
    frames = stack()
    line = next((f.f_lineno for f in frames if f.f_code.co_filename == str(path)), 1)
    shapes = [tuple(variable.shape) for variable in updated]
    replicated = next((i for i, frame in enumerate(frames) if _is_strategy(frame)), -1)
    traced = next((i for i, frame in enumerate(frames) if _is_graph_function(frame)), len(frames))
    entries = [_Entry(frame, shapes) for frame in frames[: traced + 1]]
    if is_named is not None:
        found = [entry for entry in entries if entry.code is not None and is_named(entry.code)]
        if not found and any(is_named(code) for code in _traced(frames[traced + 1 :])):
            return _again(frames[traced])
        return _called(found[0], line, path) if found else None
    candidates = [entry for entry in entries[replicated + 1 :] if entry.is_candidate]
    chosen = _outermost(entries, [entry for entry in candidates if not entry.is_variadic])
    if chosen is not None:
        return _called(chosen, line, path)
    if traced < len(frames):
        return _again(frames[traced])
    chosen = _outermost(entries, candidates)
    if chosen is not None:
        return _called(chosen, line, path)
    raise UnclearError(_inline(path, [entry for entry in entries if _is_own(entry.frame)]))


def _outermost(entries: Sequence[_Entry], candidates: Sequence[_Entry]) -> _Entry | None:
    """Return the outermost candidate below the script's loop.

    Below one loop there may be another: in a step that updates a critic several times, or in a
    function that trains one fold of the data. The second has smaller batches than its arguments.
    """
    loops = [index for index, entry in enumerate(entries) if entry.loops]
    below = [e for e in candidates if not loops or entries.index(e) > loops[0]]
    while below:
        first, position = below[0], entries.index(below[0])
        inner = next((index for index in loops if index >= position), None)
        if inner is None and loops:
            break
        rest = [e for e in below[1:] if inner is None or entries.index(e) > inner]
        if not rest or set(rest[0].rows) & set(first.rows):
            break
        below = rest
    return below[0] if below else None


class _Entry:
    """A frame of the user's code, or of a `tf.function` that is called.

    Attributes:
        frame: The frame.
        code: The code of the function; `None` if this is none of the user's.
        rows: The first dimensions of the tensors among its arguments.
    """

    def __init__(self, frame: types.FrameType, updated: Sequence[tuple[int, ...]]) -> None:
        self.frame = frame
        self.code: types.CodeType | None = None
        self.rows: list[int] = []
        is_graph = _is_graph_function(frame)
        code = code_of(frame.f_locals["self"]) if is_graph else frame.f_code
        is_function = bool(code.co_flags & inspect.CO_NEWLOCALS)
        if not _is_of_user(code) or not is_function:
            return
        self.code = code
        values = dict(frame.f_locals)
        args, kwargs = (values["args"], values["kwds"]) if is_graph else _arguments(code, values)
        given = same = [*args, *kwargs.values()]
        if not is_graph:
            unchanged = {name: values[name] for name in values.keys() - changed(code).keys()}
            args, kwargs = _arguments(code, unchanged)
            same = [*args, *kwargs.values()]
        if not any(_is_computed(value, updated) for value in same):
            self.rows = [rows for value in given for rows in _rows(value)]

    @property
    def is_candidate(self) -> bool:
        """Whether this is a call with a batch."""
        is_plain = self.code is not None and not self.code.co_flags & _SUSPENDED
        return is_plain and bool(self.rows)

    @functools.cached_property
    def is_variadic(self) -> bool:
        """Whether arguments have no names, as in a decorator without `functools.wraps`."""
        if not self.frame.f_code.co_flags & _VARIADIC_CODE:
            return False
        function = _function(self.frame)
        python = getattr(function, "python_function", function)
        return any(p.kind in _VARIADIC for p in inspect.signature(python).parameters.values())

    @functools.cached_property
    def loops(self) -> list[int]:
        """The lines of the loops in this code around the current call."""
        return loops_of(self.frame) if _is_own(self.frame) else []


def _called(entry: _Entry, line: int, path: Path) -> Called:
    frame = entry.frame
    function = _function(frame)
    if _is_graph_function(frame):
        args, kwargs = frame.f_locals["args"], frame.f_locals["kwds"]
    else:
        args, kwargs = _given(frame)
        owner = args[0] if args else None
        if _is_method(owner, frame.f_code):
            function, args = types.MethodType(function, owner), args[1:]
    python = getattr(function, "python_function", function)
    given = inspect.signature(python).bind(*args, **kwargs)
    given.apply_defaults()
    called = Called(function, given, line, _backends.current().inlined(function))
    if not called.batch:
        raise UnclearError(
            f"{path}:{line} calls `{called.code.co_name}` without a tensor or array that has rows, "
            "so there is no batch to check it with.\nName the function that takes the batch."
        )
    return called


def _again(frame: types.FrameType) -> Again:
    function = frame.f_locals["self"].python_function
    return Again(functools.partial(function, *frame.f_locals["args"], **frame.f_locals["kwds"]))


def _inline(path: Path, entries: Sequence[_Entry]) -> str:
    """Return the message for a loop whose body is no function of the batch."""
    inner = entries[-1] if entries else None
    if inner is None:
        return f"{path} updates variables, but not in code of its own, so no function can be told."
    frame, loop = inner.frame, next((e.loops[-1] for e in reversed(entries) if e.loops), None)
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    body = f"in the body of the loop of line {loop}" if loop else "outside any loop"
    return (
        f"{where} updates the model {body}; no function takes the batch as an argument, so it "
        "cannot be told what is done for each batch.\n"
        "Put that code into a function, such as `def train_step(x, y):`, call it with the batch, "
        "and check again."
    )


# What was called.


def _function(frame: types.FrameType) -> Any:
    """Return the function that a frame runs: Python gives only its code."""
    if _is_graph_function(frame):
        return frame.f_locals["self"]
    code, values = frame.f_code, frame.f_locals
    for found in gc.get_referrers(code):
        if not isinstance(found, types.FunctionType) or found.__code__ is not code:
            continue
        cells = zip(code.co_freevars, found.__closure__ or (), strict=True)
        if all(_contents(cell) is values.get(name) for name, cell in cells):
            return found
    raise UnclearError(f"The function of {code.co_filename}:{code.co_firstlineno} is gone.")


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return None


def _is_method(owner: Any, code: types.CodeType) -> bool:
    kinds = owner.__mro__ if isinstance(owner, type) else type(owner).__mro__
    return any(
        each is code for kind in kinds for found in vars(kind).values() for each in _codes(found)
    )


def _codes(function: Any) -> Iterator[types.CodeType]:
    """Yield the code of a function, from its outermost decorator to what it decorates."""
    found: Any = function
    while found is not None:
        code = getattr(found, "__code__", None)
        if isinstance(code, types.CodeType):
            yield code
        found = _decorated(found)


def _decorated(found: Any) -> Any:
    if isinstance(found, functools.partial):
        return found.func
    known = (getattr(found, name, None) for name in ("python_function", "__wrapped__", "__func__"))
    return next((inner for inner in known if callable(inner)), None)


def code_of(function: Any) -> types.CodeType:
    """Return the code of a function without its decorators; of anything else that of nothing."""
    return [_nothing.__code__, *_codes(function)][-1]


def _nothing() -> None: ...


def _arguments(code: types.CodeType, values: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments in the local variables of a call."""
    after = code.co_argcount + code.co_kwonlyargcount
    names = code.co_varnames
    args = [values[name] for name in names[: code.co_argcount] if name in values]
    kwargs = {name: values[name] for name in names[code.co_argcount : after] if name in values}
    if code.co_flags & inspect.CO_VARARGS:
        args += values.get(names[after], ())
        after += 1
    if code.co_flags & inspect.CO_VARKEYWORDS:
        kwargs |= values.get(names[after], {})
    return args, kwargs


def _given(frame: types.FrameType) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a frame as they were given.

    A function may have given its parameters other values since (`x = x / 255`). Then what its
    caller passes for them is evaluated again, and for all other tensors, which belong to them.
    """
    code, values = frame.f_code, dict(frame.f_locals)
    changes = changed(code)
    if changes:
        passed = _passed(frame)
        parameters = inspect.signature(_function(frame), follow_wrapped=False).parameters
        for name, parameter in parameters.items():
            if name in passed and (name in changes or _rows(values.get(name))):
                values[name] = passed[name]
            elif name in changes and parameter.default is not parameter.empty:
                values[name] = parameter.default
            elif name in changes:
                raise UnclearError(
                    f"{code.co_filename}:{changes[name]} gives the argument `{name}` of "
                    f"`{code.co_name}` another value before the update, so the batch that it was "
                    "called with is not known any more.\nUse another name for the new value, and "
                    "check again."
                )
    return _arguments(code, values)


def _passed(frame: types.FrameType) -> Mapping[str, Any]:
    """Return the arguments that the caller passes, by name; empty if unknown."""
    caller = frame.f_back
    while caller is not None and not _is_own(caller) and not _is_strategy(caller):
        caller = caller.f_back
    if caller is None:
        return {}
    if _is_own(caller):
        call = node_of(caller) if caller is frame.f_back else None
        # A function that another call makes is not made again.
        if not isinstance(call, ast.Call) or any(
            isinstance(n, ast.Call) for n in ast.walk(call.func)
        ):
            return {}
        function, args, kwargs = _evaluated(caller, call)
    else:
        function, args, kwargs = _of_first_replica(caller)
    if code_of(function) is not frame.f_code:
        return {}
    given = inspect.signature(function).bind(*args, **kwargs)
    given.apply_defaults()  # also of a partial function
    return given.arguments


def _evaluated(frame: types.FrameType, call: ast.Call) -> tuple[Any, Sequence[Any], dict[str, Any]]:
    """Return the function and the arguments of a call in the source of a frame."""
    taken = ast.Name("perigee_taken", ast.Load())
    expression = ast.Expression(ast.Call(taken, [call.func, *call.args], call.keywords))
    code = compile(ast.fix_missing_locations(expression), "<arguments>", "eval")
    return eval(code, {**frame.f_globals, taken.id: _taken}, frame.f_locals)


def _taken(
    function: Any, /, *args: Any, **kwargs: Any
) -> tuple[Any, Sequence[Any], dict[str, Any]]:
    return function, args, kwargs


def _of_first_replica(frame: types.FrameType) -> tuple[Any, Sequence[Any], dict[str, Any]]:
    """Return what a strategy runs, with the arguments of its first replica."""
    strategy, args = frame.f_locals["self"], frame.f_locals["args"]
    kwargs = frame.f_locals.get("kwargs") or {}

    def first(value: Any) -> Any:
        return strategy.experimental_local_results(value)[0]

    args, kwargs = keras.tree.map_structure(first, (tuple(args), dict(kwargs)))
    return frame.f_locals["fn"], args, kwargs


# Tensors.


def _rows(value: Any) -> list[int]:
    """Return the first dimensions of the tensors or arrays in an argument."""
    found: list[int] = []
    for leaf in _leaves(value):
        if isinstance(leaf, keras.Model | keras.optimizers.Optimizer | keras.Variable):
            return []
        if _is_tensor(leaf) and len(leaf.shape):
            found.append(-1 if leaf.shape[0] is None else int(leaf.shape[0]))
    return found


def _leaves(value: Any) -> list[Any]:
    is_tree = isinstance(value, list | tuple | dict)
    return keras.tree.flatten(value) if is_tree else [value]


def _is_tensor(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return True
    return _backends.current().is_tensor(value) or (
        keras.ops.is_tensor(value) and not hasattr(value, "assign") and not _is_parameter(value)
    )


def _is_parameter(value: Any) -> bool:
    return type(value).__name__ == "Parameter"


def _is_computed(value: Any, updated: Sequence[tuple[int, ...]]) -> bool:
    """Return whether an argument was computed from the batch: gradients, a tape, a loss."""
    if type(value).__name__ == "GradientTape":
        return True
    leaves = [leaf for leaf in _leaves(value) if _is_tensor(leaf)]
    if any(getattr(leaf, "grad_fn", None) is not None for leaf in leaves):
        return True
    shapes = [tuple(leaf.shape) for leaf in leaves]
    return isinstance(value, list | tuple) and shapes == list(updated)


# Frames.


def _is_graph_function(frame: types.FrameType) -> bool:
    """Return whether a frame is the call of a `tf.function`, whose arguments have values."""
    if frame.f_code.co_name != "__call__" or not module_of(frame).startswith("tensorflow."):
        return False
    values = frame.f_locals
    return hasattr(values.get("self"), "python_function") and {"args", "kwds"} <= values.keys()


def _is_strategy(frame: types.FrameType) -> bool:
    """Return whether a frame is the `run` of a `tf.distribute.Strategy`."""
    if frame.f_code.co_name != "run" or not module_of(frame).startswith("tensorflow."):
        return False
    values = frame.f_locals
    return hasattr(values.get("self"), "num_replicas_in_sync") and "args" in values


def _traced(frames: Iterable[types.FrameType]) -> Iterator[types.CodeType]:
    """Yield the code of functions that are traced, also of those that AutoGraph rewrote."""
    for frame in frames:
        yield frame.f_code
        given = (frame.f_locals.get(name) for name in ("f", "fn"))
        yield from (code_of(function) for function in given if callable(function))


def _is_own(frame: types.FrameType) -> bool:
    """Return whether a frame runs the user's code, as the user wrote it."""
    return _is_of_user(frame.f_code)


def _is_of_user(code: types.CodeType) -> bool:
    path = Path(code.co_filename)
    is_generated = path.name.startswith(("<", "__autograph_generated_file"))
    return not is_generated and is_own_file(str(path)) and _PERIGEE not in path.parents
