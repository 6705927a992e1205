# pyright: basic
"""Functions compiled by TensorFlow."""

import functools
import inspect
import logging
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MethodType
from typing import Any

import keras
import tensorflow as tf

from perigee._backends._protocol import Mode
from perigee._backends._watching import Watched
from perigee._backends.tensorflow.one_device import are_of_a_strategy, as_one_device
from perigee._backends.tensorflow.profiling import operations_in, program_of
from perigee._backends.tensorflow.tensors import is_argument
from perigee._backends.tensorflow.tensors import tensors as tensors_of
from perigee._errors import ArgumentError, PerigeeError
from perigee._listening import Call, Hear, Talk
from perigee._typing import Tree


@contextmanager
def watch(hear: Hear, layers: Iterable[Any] = ()) -> Generator[Watched]:
    """See `Backend.watch`: Keras variables hold one of TensorFlow, so one hook sees both.

    Summaries are turned off meanwhile: the real step will write them itself.
    """
    del layers
    watched = Watched()

    def creator(next_creator: Callable[..., Any], **arguments: Any) -> Any:
        variable = next_creator(**arguments)
        with tf.init_scope():
            watched.made.append((variable, tf.convert_to_tensor(variable)))
        return variable

    # The innermost condition decides, so one that the step itself sets must be overridden. There is
    # no other way: this is the only patched function of TensorFlow besides its tapes and its
    # strategy.
    no_summaries = hear(tf.summary, "record_if", _never)
    with tf.variable_creator_scope(creator), no_summaries, tf.summary.record_if(False):
        yield watched


def _never(original: Any, condition: Any) -> Talk:
    yield Call(original, (False,), {})


def drawing(hear: Hear, look: Callable[[Any], None]) -> AbstractContextManager[None]:
    """See `Backend.drawing`: there are no keys."""
    del hear, look
    return nullcontext()


def eagerly() -> AbstractContextManager[None]:
    """See `Backend.eagerly`: a rehearsal runs op by op anyway."""
    return nullcontext()


def needs_values(error: Exception) -> bool:
    """See `Backend.needs_values`: a rehearsal runs op by op."""
    del error
    return False


def rehearse(
    function: Callable[[], Any],
    variables: Sequence[Any],
    computes: bool = True,
    overwrites: bool = True,
) -> bool:
    """See `Backend.rehearse`: eagerly, so that errors of user code are raised unchanged."""
    del overwrites
    with as_one_device(variables):
        _tried(function)
    return True


def _tried(function: Callable[[], Any]) -> Any:
    """Run a function whose effects will be undone, compiling as little as possible.

    Code that works only in a graph, such as `tf.gradients`, says so: then it is compiled.
    """
    try:
        with functions_as_python():
            return function()
    except Exception as error:
        if isinstance(error, PerigeeError) or not _is_of_graphs(error):
            raise
        first = error
    for again in (function, tf.function(function)):
        try:
            return again()
        except Exception:
            pass
    raise first from None


def _is_of_graphs(error: Exception) -> bool:
    """Return whether code may have failed because it works only in a graph.

    A `tf.custom_gradient` is given the variables that it reads when it runs op by op, and not if
    they are its arguments in a graph: of Keras's own, those of float8 take none.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return "eager" in str(error) or frames[-1].name == "actual_grad_fn"


_lock = threading.Lock()
_as_python = 0


@contextmanager
def functions_as_python() -> Generator[None]:
    """Run the user's `tf.function`s as plain Python code.

    So their values can be observed, their errors are raised unchanged, and no trace is kept for
    later. The switch applies to the whole process: other threads are slower meanwhile, with the
    same results.
    """
    global _as_python, _were_as_python
    with _lock:
        if _as_python == 0:
            _were_as_python = tf.config.functions_run_eagerly()
            tf.config.run_functions_eagerly(True)
            tf.get_logger().addFilter(_says_more)
        _as_python += 1
    try:
        yield
    finally:
        with _lock:
            _as_python -= 1
            if _as_python == 0:
                tf.config.run_functions_eagerly(_were_as_python)
                tf.get_logger().removeFilter(_says_more)


_were_as_python = False


def _says_more(record: logging.LogRecord) -> bool:
    """Suppress TensorFlow's warning about a switch that the user did not set."""
    return "run_functions_eagerly" not in str(record.msg)


def observe(tensors: Sequence[Any], look: Callable[..., None]) -> None:
    """See `Backend.observe`: values are known, except in a graph, as of `tf.vectorized_map`."""
    tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
    if all(hasattr(tensor, "numpy") for tensor in tensors):
        look(*(tensor.numpy() for tensor in tensors))


plain = tf.autograph.experimental.do_not_convert
"""See `Backend.plain`: rewriting Perigee's own code took most of the time of a first trace."""


def compiler() -> str | None:
    """See `Backend.compiler`."""
    return None if tf.executing_eagerly() else "tf.function"


def _invoke(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


_invoke_converted = tf.autograph.to_graph(_invoke)


def user_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """See `Backend.user_code`: Python `if` and `for` over tensors work while tracing."""
    if tf.executing_eagerly():
        return function
    return functools.partial(_invoke_converted, function)


def inlined(value: Any) -> Any:
    """See `Backend.inlined`: the Python function of a `tf.function`, called with tensors.

    As a separate function it would keep the values of its first trace: the number of examples of
    one program would be used in another.
    """
    if not isinstance(value, tf.types.experimental.PolymorphicFunction):
        return value
    function, signature = value.python_function, value.input_signature
    # The function of a method that is read from an object holds the object in a way that
    # TensorFlow does not document; without it the function is called as TensorFlow calls it.
    # Each trace puts one more wrapper around it.
    bound: Any = inspect.unwrap(function, stop=lambda inner: hasattr(inner, "__self__"))
    owner = getattr(getattr(bound, "__self__", None), "target", None)
    if owner is not None:
        function = bound.__func__
    if signature is None:
        return function if owner is None else MethodType(function, owner)
    is_method = next(iter(inspect.signature(function).parameters), "") == "self"

    @functools.wraps(function)
    def with_tensors(*args: Any, **kwargs: Any) -> Any:
        own, given = (
            (args[:1], args[1:]) if is_method and len(args) > len(signature) else ((), args)
        )
        specs = signature[: len(given)]
        given = [
            tf.nest.map_structure(_as_specified, spec, value)
            for spec, value in zip(specs, given, strict=True)
        ]
        return function(*own, *given, **kwargs)

    return with_tensors if owner is None else MethodType(with_tensors, owner)


def _as_specified(spec: Any, value: Any) -> Any:
    """Return a value as `tf.function` passes it on: cast if nothing is lost, of a shape that fits.

    Arrays are tensors here already, which `tf.function` itself would not cast.

    Raises:
        ArgumentError: If it does not fit.
    """
    if not isinstance(spec, tf.TensorSpec):
        return value
    if not tf.is_tensor(value):
        return tf.convert_to_tensor(value, spec.dtype)
    if not hasattr(value, "dtype") or not isinstance(value, tf.Tensor):
        return value  # sparse or ragged
    is_like = value.dtype.is_floating == spec.dtype.is_floating or value.dtype.is_integer
    if not spec.shape.is_compatible_with(value.shape) or not is_like:
        raise ArgumentError(
            "input_signature",
            f"a tensor {value.dtype.name} {value.shape}",
            f"{spec.dtype.name} {spec.shape}, as the `input_signature` of the function says.",
            "change the signature, or the data.",
        )
    return value if value.dtype == spec.dtype else tf.cast(value, spec.dtype)


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
    """See `Backend.is_for_xla`; TensorFlow has no public way to ask a function."""
    return bool(getattr(value, "_jit_compile", False))


def compile(
    function: Callable[..., Tree],
    variables: Sequence[Any],
    mode: Mode,
    is_probe: bool = False,
    states: Sequence[Any] | None = (),
) -> "Function":
    """See `Backend.compile`; TensorFlow finds the variables itself."""
    return Function(function, variables, mode, is_probe, states is None or bool(states))


def is_compiler_error(error: Exception) -> bool:
    """See `Backend.is_compiler_error`."""
    return isinstance(error, tf.errors.OpError)


class Function:
    """A function of trees of tensors, traced once for each structure.

    The first axis of every tensor is undefined, so that a ragged last batch needs no second trace;
    another axis becomes undefined when it first varies. XLA needs every size, so there each size is
    compiled separately. The same holds if the function carries states with a row for each example:
    recurrent layers compare a batch with their states by its static size, and without it, a last
    batch of one row would be broadcast over all of them.
    """

    def __init__(
        self,
        function: Callable[..., Tree],
        variables: Sequence[Any],
        mode: Mode,
        is_probe: bool = False,
        knows_sizes: bool = False,
    ) -> None:
        self.traces = 0
        self._function = function
        self._variables = variables
        self._mode: Mode = mode
        self._is_probe = is_probe
        self._knows_sizes = knows_sizes or mode == "xla"
        self._error: BaseException | None = None
        self._compiled_for: set[Any] = set()
        self._programs: dict[Any, _Program] = {}

    def __call__(self, *arguments: Tree) -> Tree:
        """Run the function, compiling it first if necessary."""
        arguments = tensors_of(arguments)
        if self._mode == "eager":
            with self._as_one_device():
                if self._is_probe:
                    return _tried(lambda: self._function(*arguments))
                with functions_as_python():
                    return self._function(*arguments)
        with self._errors_as_raised():
            run, tensors = self._program(arguments)
            with self._on_device():
                return run(*tensors)

    def _as_one_device(self) -> AbstractContextManager[None]:
        """Enter `as_one_device`; each step asks, so variables are looked at once."""
        is_needed = tf.distribute.has_strategy() or self._is_of_a_strategy
        return as_one_device(self._variables) if is_needed else nullcontext()

    @functools.cached_property
    def _is_of_a_strategy(self) -> bool:
        return are_of_a_strategy(self._variables)

    def _on_device(self) -> AbstractContextManager[None]:
        return nullcontext() if self._device is None else tf.device(self._device)

    @functools.cached_property
    def _device(self) -> str | None:
        """Where XLA must run: unlike graphs, it reads no variable of another device."""
        devices = {variable.value.device for variable in self._variables}
        return devices.pop() if self._mode == "xla" and len(devices) == 1 else None

    def begin(self, *arguments: Tree) -> "Future[Tree]":
        """See `Compiled.begin`: on a CPU TensorFlow blocks, so it runs in another thread.

        It is compiled in this thread, where Keras knows what is being built.
        """
        began: Future[Tree] = Future()
        with self._errors_as_raised():
            run, tensors = self._program(tensors_of(arguments))

        def work() -> None:
            try:
                with self._on_device():
                    began.set_result(run(*tensors))
            except BaseException as error:
                began.set_exception(error)

        sizes = tuple(tuple(tensor.shape) for tensor in tensors)
        if self._mode == "xla" and sizes not in self._compiled_for:
            self._compiled_for.add(sizes)
            work()  # the first call compiles it
        else:
            threading.Thread(target=work, name="perigee-block", daemon=True).start()
        return began

    def obstacles(self, *arguments: Tree) -> list[str]:
        """See `Compiled.obstacles`."""
        with self._errors_as_raised():
            self._program(tensors_of(arguments))
        return sorted({reason for op in self._operations() if (reason := _obstacle(op))})

    def draws(self) -> bool:
        """See `Compiled.draws`."""
        words = "Random", "Normal", "Multinomial"
        return any(word in kind for kind in self._operations() for word in words)

    def hidden_state(self) -> list[str]:
        """See `Compiled.hidden_state`."""
        return sorted({kind for kind in self._operations() if kind in _RANDOM_WITH_STATE})

    def program(self, *arguments: Tree) -> Any:
        """See `Compiled.program`."""
        return None if self._mode == "eager" else program_of(self._graph(tensors_of(arguments)))

    def operations(self, *arguments: Tree) -> float:
        """See `Compiled.operations`: traced with every size known, and counted in the graph."""
        return operations_in(self._graph(tensors_of(arguments)))

    def _graph(self, arguments: Tree) -> Any:
        tensors, places, static = _taken_apart(arguments)
        function = tf.function(self._untraced(arguments, places, static), autograph=False)
        with self._errors_as_raised():
            traced = function.get_concrete_function(*map(tf.type_spec_from_value, tensors))
        return traced.graph.as_graph_def(add_shapes=True)

    @contextmanager
    def _errors_as_raised(self) -> Generator[None]:
        """Raise errors of traced user code unchanged.

        AutoGraph replaces exceptions by others that quote them.
        """
        raised = None
        try:
            yield
        except Exception as error:
            raised, self._error = self._error or error, None
        if raised is not None:
            raise raised

    def _operations(self) -> Iterator[str]:
        """Yield the kind of every operation that was compiled."""
        for program in self._programs.values():
            if program.run is None:
                continue
            graph = program.run.graph.as_graph_def()
            for nodes in (graph.node, *(f.node_def for f in graph.library.function)):
                kinds = {node.name: node.op for node in nodes}
                for node in nodes:
                    # A size looked up in a shape, as in the gradient of a mean, is always in range.
                    source = node.input[0].partition(":")[0] if node.input else ""
                    if node.op != "GatherV2" or kinds.get(source) != "Shape":
                        yield node.op

    def _program(self, arguments: Tree) -> tuple[Callable[..., Tree], list[Any]]:
        """Return the program for arguments, and the leaves that it takes."""
        tensors, places, static = _taken_apart(arguments)
        key = (_structure(arguments), places, static)
        program = self._programs.get(key)
        if program is None:
            untraced = self._untraced(arguments, places, static)
            program = _Program(untraced, self._mode, self._knows_sizes)
            self._programs[key] = program
        program.take(tensors)
        return program.run, tensors

    def _untraced(
        self, arguments: Tree, places: tuple[bool, ...], static: tuple[Any, ...]
    ) -> Callable[..., Tree]:
        skeleton = keras.tree.map_structure(lambda _: None, arguments)

        def run(*tensors: Any) -> Tree:
            self.traces += 1
            given, rest = iter(tensors), iter(static)
            leaves = [next(given) if is_tensor else next(rest) for is_tensor in places]
            try:
                with as_one_device(self._variables):
                    return self._function(*keras.tree.pack_sequence_as(skeleton, leaves))
            except Exception as error:
                self._error = error
                raise

        return run


class _Program:
    """One structure of arguments, with a signature that covers all sizes seen so far."""

    def __init__(self, function: Callable[..., Tree], mode: Mode, knows_sizes: bool) -> None:
        self._function = function
        self._is_xla = mode == "xla"
        self._knows_sizes = knows_sizes
        self._specs: list[Any] | None = None
        self._traced: Any = None
        self._of_sizes: dict[Any, Any] = {}
        self.run: Any = None

    def take(self, tensors: Sequence[Any]) -> None:
        """Make `run` accept these tensors, recompiling if necessary."""
        if self._knows_sizes:
            self.run = self._of_these_sizes(tensors)
            return
        if self._specs is not None and all(
            _covers(spec, tensor) for spec, tensor in zip(self._specs, tensors, strict=True)
        ):
            return
        if self._specs is None:
            specs = [_open_spec(tensor) for tensor in tensors]
        else:
            specs = [
                spec.most_specific_common_supertype([_open_spec(tensor)]) or _open_spec(tensor)
                for spec, tensor in zip(self._specs, tensors, strict=True)
            ]
        traced = tf.function(self._function, input_signature=specs, autograph=False)
        # Looking up the trace for the arguments at each call would cost as much as a small step.
        self.run = traced.get_concrete_function()
        self._traced, self._specs = traced, specs  # what could not be traced is tried again

    def _of_these_sizes(self, tensors: Sequence[Any]) -> Any:
        """Return the concrete function for arguments of these sizes."""
        if self._traced is None:
            is_xla = self._is_xla or None
            self._traced = tf.function(self._function, jit_compile=is_xla, autograph=False)
        sizes = tuple(map(_type_of, tensors))
        if sizes not in self._of_sizes:
            self._of_sizes[sizes] = self._traced.get_concrete_function(*tensors)
        return self._of_sizes[sizes]


_SILENT_UNDER_XLA = {
    "Assert": "an assertion",
    "Print": "a print",
    "PrintV2": "a print",
    "PyFunc": "a Python function",
    "PyFuncStateless": "a Python function",
    "EagerPyFunc": "a Python function",
    "CheckNumerics": "a check of numbers",
    "CheckNumericsV2": "a check of numbers",
    **dict.fromkeys(
        (
            "GatherNd",
            "GatherV2",
            "ResourceGather",
            "ResourceGatherNd",
            "ScatterNd",
            "TensorScatterUpdate",
        ),
        "a lookup whose indices XLA does not check",
    ),
}


_RANDOM_WITH_STATE = {
    "Multinomial",
    "ParameterizedTruncatedNormal",
    "RandomGamma",
    "RandomPoissonV2",
    "RandomShuffle",
    "RandomStandardNormal",
    "RandomUniform",
    "RandomUniformInt",
    "TruncatedNormal",
}


def _obstacle(kind: str) -> str | None:
    if "String" in kind or "Regex" in kind:
        return "text, which XLA does not have"  # compiling it may abort the process
    return "a summary" if "Summary" in kind else _SILENT_UNDER_XLA.get(kind)


def _taken_apart(arguments: Tree) -> tuple[list[Any], tuple[bool, ...], tuple[Any, ...]]:
    """Return the tensors among the leaves, a mask of them, and the other leaves."""
    leaves = keras.tree.flatten(arguments)
    tensors = [leaf for leaf in leaves if is_argument(leaf)]
    static = tuple(leaf for leaf in leaves if not is_argument(leaf))
    return tensors, tuple(is_argument(leaf) for leaf in leaves), static


def _structure(tree: Tree) -> Any:
    """Return a hashable value that identifies the structure of a tree."""
    if isinstance(tree, dict):
        return (dict, *((key, _structure(tree[key])) for key in sorted(tree)))
    if isinstance(tree, list | tuple):
        return (type(tree), *(_structure(item) for item in tree))
    return None


def _type_of(tensor: Any) -> Any:
    if isinstance(tensor, tf.Tensor):
        return tensor.dtype, tuple(tensor.shape)
    return tf.type_spec_from_value(tensor)


def _open_spec(tensor: Any) -> Any:
    """Return the spec of a tensor with an undefined first axis."""
    if not isinstance(tensor, tf.Tensor):
        return tf.type_spec_from_value(tensor)
    shape = tensor.shape.as_list()
    return tf.TensorSpec([None, *shape[1:]] if shape else [], tensor.dtype)


def _covers(spec: Any, tensor: Any) -> bool:
    if isinstance(tensor, tf.Tensor):
        return spec.dtype == tensor.dtype and spec.shape.is_compatible_with(tensor.shape)
    return spec.is_compatible_with(tensor)
