"""Finds out from the graph of a `tf.data` pipeline how it can be resumed."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from perigee._events.protocols import Resumes

_HASHED_BYTES = 2**16
"""The leading bytes of an array in a pipeline on which its description depends."""

# A shuffle that changes from pass to pass counts the iterators made of it. These operations above
# it make its iterator when their own is made, even if nothing is drawn. All others are assumed to
# make it at the first draw (`shuffle`), several times (`repeat`) or never (`cache`).
_MAKE_THEIR_INPUT = (
    *("AssertCardinality", "AssertNext", "Batch", "DirectedInterleave", "Filter", "FlatMap"),
    *("GroupByReducer", "GroupByWindow", "IgnoreErrors", "Interleave", "Map", "MapAndBatch"),
    *("MaxIntraOpParallelism", "Model", "Options", "PaddedBatch", "ParallelBatch"),
    *("ParallelFilter", "ParallelInterleave", "ParallelMap", "ParseExample", "Prefetch"),
    *("PrivateThreadPool", "Rebatch", "Scan", "Shard", "Skip", "SlidingWindow", "Take"),
    *("TakeWhile", "Unbatch", "Unique", "Window", "Zip"),
)
_SHUFFLES = ("ShuffleDataset", "ShuffleDatasetV3", "ShuffleAndRepeatDatasetV2")
_RANDOM = ("RandomDataset", "RandomDatasetV2")

# Python code (including generators), and a shuffle in a function: repeatable if seeded.
_REPLAYED = ("PyFunc", "EagerPyFunc", "GeneratorDataset", "DummySeedGenerator")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Facts from the graph of a pipeline.

    Attributes:
        stages: Its operations with their settings, such as `"ShuffleDatasetV3(1, 100, 7, 3)"`.
            They are the same in every process.
        resumes: Whether a resumed pass, and later ones, equal those of an uninterrupted run.
        because: The reason, as the end of a sentence.
        is_pure: Whether the state of an iterator determines the rest of its pass.
        shuffles: The number of its shuffle operations; 0 if none changes from pass to pass.
        counts_iterators: Whether the order of a pass depends on the number of iterators made.
    """

    stages: tuple[str, ...]
    resumes: Resumes
    because: str
    is_pure: bool
    shuffles: int
    counts_iterators: bool


UNREADABLE = Pipeline(
    (),
    "not exactly",
    "its pipeline cannot be inspected, as it holds 2 GB or more",
    False,
    0,
    False,
)


def read_pipeline(
    graph: Any, to_array: Callable[[Any], Any], impurity: str | None, is_ordered: bool
) -> Pipeline:
    """Return the facts from a graph.

    Args:
        graph: The `GraphDef` of the pipeline.
        to_array: Converts a `TensorProto` to a NumPy array.
        impurity: The first operation whose state is not in an iterator; `None` if there is none.
        is_ordered: Whether the options of the pipeline keep the order of parallel operations.
    """
    reader = _Reader(graph, to_array)
    resumes, because = reader.judge(impurity, is_ordered)
    return Pipeline(
        stages=tuple(reader.stages()),
        resumes=resumes,
        because=because,
        is_pure=impurity is None,
        shuffles=reader.shuffles(),
        counts_iterators=reader.counts_iterators(),
    )


class _Reader:
    """The nodes of a graph, its functions, and its constants."""

    def __init__(self, graph: Any, to_array: Callable[[Any], Any]) -> None:
        self._nodes = {node.name: node for node in graph.node}
        self._functions = {f.signature.name: f for f in graph.library.function}
        self._to_array = to_array
        self._scopes = [
            self._nodes,
            *({node.name: node for node in f.node_def} for f in self._functions.values()),
        ]
        self.reshuffling = [node for node in graph.node if _is_reshuffling(node)]

    def judge(self, impurity: str | None, is_ordered: bool) -> tuple[Resumes, str]:
        """Return how exactly it resumes, and why."""
        nodes = [node for scope in self._scopes for node in scope.values()]
        if any(self._is_unseeded(node, scope) for scope in self._scopes for node in scope.values()):
            return "not exactly", "it shuffles or draws randomly without a seed"
        if not is_ordered or any(node.attr["deterministic"].s == b"false" for node in nodes):
            return "not exactly", "`deterministic=False` makes the order of its elements random"
        if impurity is None:
            return "exactly", "the state of its iterator is saved"
        if any("Variable" in node.op for scope in self._scopes[1:] for node in scope.values()):
            return "not exactly", "its functions read or write variables"
        is_random = any(_draws_at_random(node) for node in nodes)
        if is_random and any("Parallel" in node.op for node in nodes):
            return "not exactly", "its functions draw from one random generator in parallel"
        if is_random or impurity in _REPLAYED:
            return "by replay", f"its functions hold state that cannot be saved ({impurity})"
        return "not exactly", f"its functions hold unknown state ({impurity})"

    def stages(self) -> Iterator[str]:
        """Yield the operations, each with its inputs: stages by number, and constants.

        The values of variables are omitted: they change.
        """
        left_out = ("Const", "_Retval", "AssignVariableOp")
        nodes = [node for node in self._nodes.values() if node.op not in left_out]
        numbers = {node.name: index for index, node in enumerate(nodes)}
        for node in nodes:
            taken: list[str] = []
            for name in map(_source, node.input):
                source = self._nodes.get(name)
                if name in numbers:
                    taken.append(f"<{numbers[name]}>")
                elif source is not None:
                    taken.append(self._described(source))
            taken += [self._digest(name) for name in _functions_of(node)]
            yield f"{node.op}({', '.join(filter(None, taken))})"

    def shuffles(self) -> int:
        """Return the number of shuffle operations; 0 if each pass has the same order."""
        if not self.reshuffling:
            return 0
        return sum(node.op in _SHUFFLES or _is_reshuffling(node) for node in self._nodes.values())

    def counts_iterators(self) -> bool:
        """Return whether every shuffle advances once per iterator, even if nothing is drawn.

        It does unless an operation above it may make its iterator later, never or several times.
        """
        takers: dict[str, list[Any]] = {}
        for node in self._nodes.values():
            for name in map(_source, node.input):
                takers.setdefault(name, []).append(node)
        waiting = [node.name for node in self.reshuffling]
        while waiting:
            above = takers.get(waiting.pop(), [])
            if len(above) > 1 or any(not _makes_its_input(node) for node in above):
                return False
            waiting += [node.name for node in above]
        return True

    def _is_unseeded(self, node: Any, scope: dict[str, Any]) -> bool:
        """Return whether there is no seed: TensorFlow marks that by two zeros.

        Seeds that a function takes as arguments are unknown, and count as none.
        """
        if _draws_at_random(node):
            return not (node.attr["seed"].i or node.attr["seed2"].i)
        if node.op not in (*_SHUFFLES, *_RANDOM):
            return False
        first = 2 if node.op in _SHUFFLES else 0
        seeds = [scope.get(_source(name)) for name in node.input[first : first + 2]]
        return None in seeds or all(self._is_zero(seed) for seed in seeds)

    def _is_zero(self, node: Any) -> bool:
        return node.op == "Const" and not np.any(self._to_array(node.attr["value"].tensor))

    def _described(self, node: Any) -> str:
        """Return a number as is, an array by shape and digest, text by its shape alone.

        Names of files may differ from machine to machine.
        """
        if node.op != "Const":
            return node.op
        tensor = node.attr["value"].tensor
        try:
            if len(tensor.tensor_content) > _HASHED_BYTES:
                shape = [dim.size for dim in tensor.tensor_shape.dim]
                return f"{tuple(shape)} #{_hashed([tensor.tensor_content[:_HASHED_BYTES]])}"
            array = self._to_array(tensor)
        except (KeyError, TypeError, ValueError):  # a resource has no value
            return ""
        if array.dtype.kind in "OSU":
            return f"text {array.shape}"
        return (
            str(array.item()) if array.ndim == 0 else f"{array.shape} #{_hashed([array.tobytes()])}"
        )

    def _digest(self, name: str) -> str:
        """Return the digest of a function's body, whatever its name."""
        return "#" + _hashed(part.encode() for part in self._body(name, ()))

    def _body(self, name: str, outer: tuple[str, ...]) -> Iterator[str]:
        function = self._functions.get(name)
        if function is None or name in outer:
            return
        for node in function.node_def:
            yield self._described(node) if node.op == "Const" else node.op
            for inner in _functions_of(node):
                yield from self._body(inner, (*outer, name))


def _is_reshuffling(node: Any) -> bool:
    return node.attr["reshuffle_each_iteration"].b or node.attr["rerandomize_each_iteration"].b


def _makes_its_input(node: Any) -> bool:
    return node.op == "_Retval" or node.op.partition("Dataset")[0] in _MAKE_THEIR_INPUT


def _draws_at_random(node: Any) -> bool:
    return "seed" in node.attr and "seed2" in node.attr


def _functions_of(node: Any) -> list[str]:
    return [node.attr[key].func.name for key in sorted(node.attr) if node.attr[key].func.name]


def _source(name: str) -> str:
    """Return the node of an input such as `"name:output:0"` or `"^name"`."""
    return name.removeprefix("^").partition(":")[0]


def _hashed(parts: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
