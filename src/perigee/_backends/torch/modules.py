# pyright: basic
"""Modules of torch, which act differently in training."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import torch

from perigee._listening import Call, Hear, Talk


def modules(held: Iterable[Any]) -> list[Any]:
    """See `Backend.modules`: those that Keras layers wrap, and others."""
    wrapper = keras.layers.TorchModuleWrapper
    found = [value.module if isinstance(value, wrapper) else value for value in held]
    return [
        value
        for value in {id(value): value for value in found}.values()
        if isinstance(value, torch.nn.Module) and not isinstance(value, keras.Layer)
    ]


@contextmanager
def in_inference(hear: Hear, modules: Sequence[Any]) -> Generator[None]:
    """See `Backend.in_inference`."""

    def call(original: Any, layer: Any, *args: Any, training: Any = None, **kwargs: Any) -> Talk:
        # Without the argument, Keras puts the module into training mode.
        yield Call(original, (layer, *args), {**kwargs, "training": bool(training)})

    if not modules:
        yield
        return
    in_training = [part for module in modules for part in module.modules() if part.training]
    for module in modules:
        module.eval()
    try:
        with hear(keras.layers.TorchModuleWrapper, "call", call):
            yield
    finally:
        for part in in_training:
            part.training = True
