# pyright: basic
"""Traces of what TensorFlow runs, and what is in a graph."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

Shape = Sequence[int] | None
"""Sizes, -1 if one is unknown; `None` if the rank is."""


@contextmanager
def trace(directory: str) -> Generator[None]:
    """See `Backend.trace`."""
    tf.profiler.experimental.start(directory)
    try:
        yield
    finally:
        tf.profiler.experimental.stop()


def operations_in(graph: Any) -> float:
    """Count the operations of matrix products and convolutions in a graph.

    Args:
        graph: A `GraphDef` with the shapes of outputs.

    Returns:
        The number; NaN if sizes or the number of iterations of a loop are not known.
    """
    return _in_nodes(graph.node, {f.signature.name: f for f in graph.library.function})


def _in_nodes(nodes: Sequence[Any], library: Mapping[str, Any], *returned: str) -> float:
    shapes = {node.name: _shapes(node) for node in nodes}
    # Unused operations do not run, such as the gradient of a convolution for its images.
    asked = {_name(given) for given in (*(i for node in nodes for i in node.input), *returned)}

    def shape_of(given: str) -> Shape:
        """Return the shape of an input: `name`, `name:1`, or `name:output:1` within functions."""
        name, *index = given.split(":")
        known = shapes.get(name, [])
        place = int(index[-1]) if index else 0
        return known[place] if place < len(known) else None

    total = 0.0
    for node in nodes:
        inner = [
            _in_nodes(library[name].node_def, library, *library[name].ret.values())
            for name in _called(node)
            if name in library
        ]
        if "While" in node.op:
            total += math.nan if any(inner) else 0.0
        elif node.op.endswith(("If", "Case")):
            total += max(inner, key=_unknown_last, default=0.0)
        else:
            total += sum(inner)
        if node.name in asked:
            inputs = [shape_of(given) for given in node.input if not given.startswith("^")]
            total += _of_node(node, inputs, (shapes[node.name] or [None])[0])
    return total


def _name(given: str) -> str:
    """Return the node whose output an input is."""
    return given.lstrip("^").partition(":")[0]


def _unknown_last(count: float) -> float:
    return math.inf if math.isnan(count) else count


def _shapes(node: Any) -> list[Shape]:
    return [
        None if shape.unknown_rank else [dim.size for dim in shape.dim]
        for shape in node.attr["_output_shapes"].list.shape
    ]


def _called(node: Any) -> list[str]:
    """Return the names of the functions that a node calls."""
    names: list[str] = []
    for value in node.attr.values():
        names += [value.func.name] if value.HasField("func") else []
        names += [each.name for each in value.list.func]
    return names


def _of_node(node: Any, inputs: Sequence[Shape], output: Shape) -> float:
    kind = node.op
    if kind in ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
        is_turned = node.attr["transpose_a"].b or node.attr["adj_x"].b
        return 2 * _size(output) * _size(_part(inputs[0], slice(-2, -1) if is_turned else -1))
    if kind == "Einsum":
        return _of_einsum(node.attr["equation"].s.decode(), inputs)
    if kind in ("Conv2D", "Conv3D"):
        return 2 * _size(output) * _size(_part(inputs[1], slice(0, -1)))
    if kind in ("Conv2DBackpropInput", "Conv3DBackpropInputV2"):
        return 2 * _size(inputs[2]) * _size(_part(inputs[1], slice(0, -1)))
    if kind in ("Conv2DBackpropFilter", "Conv3DBackpropFilterV2"):
        return 2 * _size(inputs[2]) * _size(_part(output, slice(0, -1)))
    if kind == "DepthwiseConv2dNative":
        return 2 * _size(output) * _size(_part(inputs[1], slice(0, 2)))
    if kind == "DepthwiseConv2dNativeBackpropInput":
        return 2 * _size(inputs[2]) * _size(_part(inputs[1], slice(0, 2)))
    if kind == "DepthwiseConv2dNativeBackpropFilter":
        return 2 * _size(inputs[2]) * _size(_part(output, slice(0, 2)))
    is_opaque = kind.startswith(("Cudnn", "Xla", "_Fused")) or kind in (
        "SparseTensorDenseMatMul",
        "SparseMatMul",
    )
    return math.nan if is_opaque else 0.0


def _of_einsum(equation: str, inputs: Sequence[Shape]) -> float:
    """Count a multiplication and an addition for each combination of the indices."""
    given, _, _ = equation.partition("->")
    terms = given.split(",")
    if len(terms) < 2:
        return 0.0
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=False):
        if shape is None or len(shape) != len(term) or set(term) - set(string.ascii_letters):
            return math.nan
        sizes |= dict(zip(term, shape, strict=True))
    return 2 * _size([*sizes.values()])


def _part(shape: Shape, which: slice | int) -> Shape:
    if shape is None:
        return None
    return shape[which] if isinstance(which, slice) else [shape[which]]


def _size(shape: Shape) -> float:
    return math.nan if shape is None or -1 in shape else float(math.prod(shape))


def program_of(graph: Any) -> Any:
    """Return what is equal for equal programs only, however their parts are called."""
    functions = graph.library.function
    bodies = {f.signature.name: _content(f.node_def) for f in functions}
    return _content(graph.node), sorted(bodies.values())


def _content(nodes: Any) -> str:
    """Return operations with their constants, and their inputs by place."""
    places = {node.name: str(place) for place, node in enumerate(nodes)}
    lines: list[str] = []
    for node in nodes:
        inputs = [_NAME.sub(lambda name: places.get(name[0], name[0]), i, 1) for i in node.input]
        values = sorted((name, _value(value)) for name, value in node.attr.items())
        lines.append(f"{node.op} {inputs} {[v for v in values if v[0] not in _OF_A_TRACE]}")
    return "\n".join(lines)


def _value(value: Any) -> str:
    return _NUMBER.sub("", value.func.name) if value.HasField("func") else str(value)


_NAME = re.compile(r"[^\^:]+")
_NUMBER = re.compile(r"_\d+$")
"""A number by which TensorFlow makes the name of a function unique."""
_OF_A_TRACE = ("_gradient_op_type", "token")
"""Attributes with names that each trace makes for itself."""
