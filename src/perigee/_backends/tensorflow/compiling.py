# pyright: basic
"""Functions compiled by TensorFlow."""

import functools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from perigee._backends._protocol import Mode
from perigee._backends._watching import Watched
from perigee._backends.tensorflow.profiling import operations_in
from perigee._backends.tensorflow.tensors import is_argument
from perigee._backends.tensorflow.tensors import tensors as tensors_of
from perigee._typing import Tree


@contextmanager
def watch(layers: Iterable[Any] = ()) -> Generator[Watched]:
    """See `Backend.watch`: variables of Keras hold one of TensorFlow, so one place sees both."""
    del layers
    watched = Watched()

    def creator(next_creator: Callable[..., Any], **arguments: Any) -> Any:
        variable = next_creator(**arguments)
        with tf.init_scope():
            watched.made.append((variable, variable.numpy()))
        return variable

    with tf.variable_creator_scope(creator):
        yield watched


def rehearse(function: Callable[[], Any], variables: Sequence[Any], computes: bool = True) -> bool:
    """See `Backend.rehearse`: eagerly, so that errors of user code come out as they are.

    Summaries are left out: the step will write them itself when it counts.
    """
    with _no_summaries():
        function()
    return True


@contextmanager
def _no_summaries() -> Generator[None]:
    original = tf.summary.record_if
    # The innermost condition decides, so one that the step sets itself must not be heard.
    tf.summary.record_if = lambda condition: original(False)
    try:
        with original(False):
            yield
    finally:
        tf.summary.record_if = original


def observe(tensors: Sequence[Any], look: Callable[..., None]) -> None:
    """See `Backend.observe`: the values are there."""
    look(*(tf.convert_to_tensor(tensor).numpy() for tensor in tensors))


plain = tf.autograph.experimental.do_not_convert
"""See `Backend.plain`: rewriting Perigee's own code took most of the time of a first trace."""


def _invoke(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


_invoke_converted = tf.autograph.to_graph(_invoke)


def user_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """See `Backend.user_code`: Python `if` and `for` over tensors work while tracing."""
    if tf.executing_eagerly():
        return function
    return functools.partial(_invoke_converted, function)


def compile(
    function: Callable[..., Tree],
    variables: Sequence[Any],
    mode: Mode,
    is_probe: bool = False,
    states: Sequence[Any] | None = (),
) -> "Function":
    """See `Backend.compile`; TensorFlow finds the variables by itself."""
    return Function(function, mode, knows_sizes=states is None or bool(states))


class Function:
    """A function of trees of tensors, traced once for each structure.

    The first axis of every tensor is left open, so that a ragged last batch needs no second
    trace; an axis that turns out to vary is opened when it does. XLA needs every size, so there
    each size is compiled anew. So it is where the function carries states with a row for each
    example: recurrent layers check a batch against theirs by the size that is known, and where
    none is, a last batch of one row would be spread over all of them.
    """

    def __init__(
        self, function: Callable[..., Tree], mode: Mode, knows_sizes: bool = False
    ) -> None:
        self.traces = 0
        self._function = function
        self._mode: Mode = mode
        self._knows_sizes = knows_sizes or mode == "xla"
        self._error: BaseException | None = None
        self._compiled_for: set[Any] = set()
        self._programs: dict[Any, _Program] = {}

    def __call__(self, *arguments: Tree) -> Tree:
        """Run the function, compiling it first where it must be."""
        arguments = tensors_of(arguments)
        if self._mode == "eager":
            return self._function(*arguments)
        with self._errors_as_raised():
            run, tensors = self._program(arguments)
            return run(*tensors)

    def begin(self, *arguments: Tree) -> "Future[Tree]":
        """See `Compiled.begin`: TensorFlow waits on a CPU, so it does in another thread.

        It is compiled in this one, where Keras knows what is being built.
        """
        began: Future[Tree] = Future()
        with self._errors_as_raised():
            run, tensors = self._program(tensors_of(arguments))

        def work() -> None:
            try:
                began.set_result(run(*tensors))
            except BaseException as error:
                began.set_exception(error)

        sizes = tuple(tuple(tensor.shape) for tensor in tensors)
        if self._mode == "xla" and sizes not in self._compiled_for:
            self._compiled_for.add(sizes)
            work()  # it is compiled by its first call
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

    def operations(self, *arguments: Tree) -> float:
        """See `Compiled.operations`: traced with every size known, and counted in the graph."""
        arguments = tensors_of(arguments)
        tensors, places, static = _taken_apart(arguments)
        function = tf.function(self._untraced(arguments, places, static), autograph=False)
        with self._errors_as_raised():
            traced = function.get_concrete_function(*map(tf.type_spec_from_value, tensors))
        return operations_in(traced.graph.as_graph_def(add_shapes=True))

    @contextmanager
    def _errors_as_raised(self) -> Generator[None]:
        """Let errors of user code that is traced come out as they were raised.

        Rewritten code replaces exceptions by others that quote them.
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
                    # A size looked up in a shape, as in the gradient of a mean, is always there.
                    source = node.input[0].partition(":")[0] if node.input else ""
                    if node.op != "GatherV2" or kinds.get(source) != "Shape":
                        yield node.op

    def _program(self, arguments: Tree) -> tuple[Callable[..., Tree], list[Any]]:
        """Return the program for arguments, and those of their leaves that it takes."""
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
                return self._function(*keras.tree.pack_sequence_as(skeleton, leaves))
            except Exception as error:
                self._error = error
                raise

        return run


class _Program:
    """One structure of arguments, with the signature that covers what was seen so far."""

    def __init__(self, function: Callable[..., Tree], mode: Mode, knows_sizes: bool) -> None:
        self._function = function
        self._is_xla = mode == "xla"
        self._knows_sizes = knows_sizes
        self._specs: list[Any] | None = None
        self._traced: Any = None
        self._of_sizes: dict[Any, Any] = {}
        self.run: Any = None

    def take(self, tensors: Sequence[Any]) -> None:
        """Make `run` accept these tensors, compiling anew if it did not yet."""
        if self._knows_sizes:
            self.run = self._of_these_sizes(tensors)
            return
        if self._specs is not None and all(
            _covers(spec, tensor) for spec, tensor in zip(self._specs, tensors, strict=True)
        ):
            return
        if self._specs is None:
            self._specs = [_open_spec(tensor) for tensor in tensors]
        else:
            self._specs = [
                spec.most_specific_common_supertype([_open_spec(tensor)]) or _open_spec(tensor)
                for spec, tensor in zip(self._specs, tensors, strict=True)
            ]
        self._traced = tf.function(self._function, input_signature=self._specs, autograph=False)
        # Finding the trace for the arguments again at each call would cost as much as a small step.
        self.run = self._traced.get_concrete_function()

    def _of_these_sizes(self, tensors: Sequence[Any]) -> Any:
        """Return what runs for arguments of these sizes."""
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
    return "a summary" if "Summary" in kind else _SILENT_UNDER_XLA.get(kind)


def _taken_apart(arguments: Tree) -> tuple[list[Any], tuple[bool, ...], tuple[Any, ...]]:
    """Return the tensors among leaves, which leaves they are, and the others."""
    leaves = keras.tree.flatten(arguments)
    tensors = [leaf for leaf in leaves if is_argument(leaf)]
    static = tuple(leaf for leaf in leaves if not is_argument(leaf))
    return tensors, tuple(is_argument(leaf) for leaf in leaves), static


def _structure(tree: Tree) -> Any:
    """Return something hashable that tells trees of different structure apart."""
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
    """Return the type of a tensor with its first axis open."""
    if not isinstance(tensor, tf.Tensor):
        return tf.type_spec_from_value(tensor)
    shape = tensor.shape.as_list()
    return tf.TensorSpec([None, *shape[1:]] if shape else [], tensor.dtype)


def _covers(spec: Any, tensor: Any) -> bool:
    if isinstance(tensor, tf.Tensor):
        return spec.dtype == tensor.dtype and spec.shape.is_compatible_with(tensor.shape)
    return spec.is_compatible_with(tensor)
