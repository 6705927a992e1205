# pyright: basic
"""Traces of what JAX runs, and what is in the programs that it compiles."""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from perigee._backends.jax.tensors import holds_keys


@contextmanager
def trace(directory: str) -> Generator[None]:
    """See `Backend.trace`: for TensorBoard, and also for Perfetto."""
    with jax.profiler.trace(directory, create_perfetto_trace=True):
        yield


def operations_in(jaxpr: Any) -> float:
    """Count the operations of matrix products and convolutions.

    XLA's own count counts every loop once, so it would be too low for a `scan`.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        kind, parameters = equation.primitive.name, equation.params
        inner = [operations_in(each) for each in _jaxprs(parameters)]
        if kind == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            sizes = equation.invars[0].aval.shape
            total += 2 * _size(equation) * math.prod(sizes[axis] for axis in contracted)
        elif kind == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            channels, *_ = parameters["dimension_numbers"].rhs_spec
            taps = math.prod(kernel) / kernel[channels]
            # Zeros are inserted between the rows of a gradient of a strided convolution.
            total += 2 * _size(equation) * taps / math.prod(parameters["lhs_dilation"])
        elif kind == "scan":
            total += parameters["length"] * sum(inner)
        elif kind == "while":
            total += math.nan if any(inner) else 0.0
        elif kind == "cond":
            total += max(inner, key=lambda count: math.inf if math.isnan(count) else count)
        elif kind == "pallas_call":
            total = math.nan
        else:
            total += sum(inner)
    return total


def _size(equation: Any) -> float:
    return float(math.prod(equation.outvars[0].aval.shape))


def _jaxprs(parameters: dict[str, Any]) -> Iterator[Any]:
    """Yield the inner programs of an operation."""
    for value in parameters.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(each, "jaxpr", each)
            if hasattr(inner, "eqns"):
                yield inner


def program_of(jaxpr: Any) -> Any:
    """Return what is equal for equal programs only: operations and constants."""
    # As text, functions among the parameters have addresses; numbers may be rounded.
    text = re.sub(r" at 0x[0-9a-f]+", "", str(jaxpr.jaxpr))
    return text, [*_constants(jaxpr)]


def _constants(jaxpr: Any) -> Iterator[bytes]:
    for constant in getattr(jaxpr, "consts", ()):
        yield _bytes(constant)
    for equation in jaxpr.eqns:
        for variable in equation.invars:
            if hasattr(variable, "val"):
                yield _bytes(variable.val)
        for value in equation.params.values():
            for each in value if isinstance(value, tuple | list) else (value,):
                if hasattr(each, "eqns"):
                    yield from _constants(each)


def _bytes(constant: Any) -> bytes:
    if isinstance(constant, jax.Array) and holds_keys(constant):
        constant = jax.random.key_data(constant)
    return np.asarray(constant).tobytes()


_Origin = frozenset[int] | None
"""The constants on which a value depends, by place; `None` if it depends on an input."""


def constant_draws(jaxpr: Any) -> Iterator[tuple[str, list[Any]]]:
    """Yield what is drawn from keys that depend on constants alone, and these constants."""
    origins: list[_Origin] = [frozenset({place}) for place, _ in enumerate(jaxpr.consts)]
    known = dict(zip(jaxpr.jaxpr.constvars, origins, strict=True))
    for name, origin in _draws(jaxpr.jaxpr, known, ""):
        yield name, [jaxpr.consts[place] for place in sorted(origin)]


def _draws(
    jaxpr: Any, known: dict[Any, _Origin], name: str
) -> Generator[tuple[str, frozenset[int]], None, list[_Origin]]:
    def origin(variable: Any) -> _Origin:
        return frozenset() if hasattr(variable, "val") else known.get(variable)

    for equation in jaxpr.eqns:
        inputs = [origin(variable) for variable in equation.invars]
        outputs = [_joined(inputs)] * len(equation.outvars)
        if equation.primitive.name == "random_bits" and inputs[0] is not None:
            yield name, inputs[0]
        inside = name or str(equation.params.get("name", "")).lstrip("_")
        for inner in _jaxprs(equation.params):
            is_alike = len(inner.invars) == len(inputs) and not inner.constvars
            given = dict(zip(inner.invars, inputs, strict=True)) if is_alike else {}
            found = yield from _draws(inner, given, inside)
            if equation.primitive.name in ("pjit", "jit"):
                outputs = found
        known.update(zip(equation.outvars, outputs, strict=True))
    return [origin(variable) for variable in jaxpr.outvars]


def _joined(origins: list[_Origin]) -> _Origin:
    found: frozenset[int] = frozenset()
    for each in origins:
        if each is None:
            return None
        found |= each
    return found
