"""What stateful recurrent layers compute, in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def lstm(x: Any, states: list[Any], kernel: Any, recurrent: Any, bias: Any) -> list[Any]:
    h, c = states
    i, f, new, o = np.split(x @ kernel + h @ recurrent + bias, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(new)
    return [sigmoid(o) * np.tanh(c), c]


def gru(x: Any, states: list[Any], kernel: Any, recurrent: Any, bias: Any) -> list[Any]:
    (h,) = states
    xz, xr, xh = np.split(x @ kernel + bias[0], 3, axis=-1)
    hz, hr, hh = np.split(h @ recurrent + bias[1], 3, axis=-1)
    z = sigmoid(xz + hz)
    return [z * h + (1 - z) * np.tanh(xh + sigmoid(xr + hr) * hh)]


def simple(x: Any, states: list[Any], kernel: Any, recurrent: Any, bias: Any) -> list[Any]:
    return [np.tanh(x @ kernel + states[0] @ recurrent + bias)]


CELLS: dict[str, tuple[Callable[..., list[Any]], int]] = {
    "LSTM": (lstm, 2),
    "GRU": (gru, 1),
    "SimpleRNN": (simple, 1),
}


class Recurrent:
    """The recurrent layers of a model, with the states that they carry."""

    def __init__(self, layers: Sequence[Any], rows: int) -> None:
        self._layers = [layer for layer in layers if type(layer).__name__ in CELLS]
        self._states = [
            [np.zeros((rows, layer.units)) for _ in range(CELLS[type(layer).__name__][1])]
            for layer in self._layers
        ]

    def __call__(self, x: Any) -> Any:
        """Return the outputs of the last layer after the last place, for one batch."""
        for number, layer in enumerate(self._layers):
            cell, _ = CELLS[type(layer).__name__]
            weights = [keras.ops.convert_to_numpy(w) for w in layer.get_weights()[:3]]
            states, outputs = self._states[number], []
            for place in range(x.shape[1]):
                states = cell(x[:, place], states, *weights)
                outputs.append(states[0])
            self._states[number] = states
            x = np.stack(outputs, axis=1)
        return x[:, -1]
