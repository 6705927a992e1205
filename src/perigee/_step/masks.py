"""Masks of Keras tensors, read and set through public calls."""

from __future__ import annotations

import functools

import keras

from perigee._typing import Tensor


class _Masks(keras.layers.Layer):
    """Returns its input: Keras passes masks to layers, and takes them from layers.

    How Keras stores a mask is private, and differs between frameworks.
    """

    def __init__(self, given: Tensor | None = None) -> None:
        super().__init__(name="masks", autocast=False)
        self.found: Tensor | None = None
        self._given = given

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        self.found = mask
        return inputs

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None) -> Tensor | None:
        return previous_mask if self._given is None else self._given


@functools.cache
def _reader() -> _Masks:
    return _Masks()


def mask_of(tensor: Tensor) -> Tensor | None:
    """Return the mask that a tensor carries, or `None`."""
    reader = _reader()
    reader(tensor)
    found, reader.found = reader.found, None
    return found


def masked(tensor: Tensor, mask: Tensor | None) -> Tensor:
    """Return a tensor with a mask, unless it already carries one."""
    return tensor if mask is None else _Masks(mask)(tensor)
