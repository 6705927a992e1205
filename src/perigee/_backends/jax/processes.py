# pyright: basic
"""Several processes of JAX that train together, over `jax.distributed`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_SIGNS_OF_LOSS = ("gloo", "coordination", "connection closed", "connection reset", "heartbeat")

_show = sys.excepthook


def peers() -> JaxPeers | None:
    """See `Backend.peers`."""
    if jax.process_count() == 1:
        return None
    _end_without_waiting()
    return JaxPeers(jax.process_count(), jax.process_index())


@dataclass(frozen=True, slots=True)
class JaxPeers:
    """See `Peers`."""

    processes: int
    process: int

    def gathered(self, values: Sequence[int]) -> np.ndarray:
        """See `Peers.gathered`: as bytes, since JAX would convert them to int32."""
        row = np.array([values], "int64")
        rows = multihost_utils.process_allgather(row.view("uint8"), tiled=True)
        return np.ascontiguousarray(rows).view("int64")

    def is_loss_of_process(self, error: Exception) -> bool:
        """See `Peers.is_loss_of_process`: JAX shows it only in the error's message."""
        if not isinstance(error, ValueError | RuntimeError):
            return False
        return any(sign in str(error).lower() for sign in _SIGNS_OF_LOSS)


def _end_without_waiting() -> None:
    """End this process at once on an uncaught exception.

    At the end of a process JAX waits until all others have ended. After an error they wait for this
    one in a reduction, so both would wait for minutes.
    """
    global _show
    if sys.excepthook is not _leave:
        sys.excepthook, _show = _leave, sys.excepthook


def _leave(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _show(kind, error, trace)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(130 if issubclass(kind, KeyboardInterrupt) else 1)


def local_values(variables: Sequence[Any]) -> list[Any]:
    """Return values that this process can read alone, if it holds all of them.

    Computations with them run in this process alone, including callbacks.
    """
    values = [variable.value for variable in variables]
    if all(value.sharding.is_fully_replicated for value in values):
        return [v if v.is_fully_addressable else v.addressable_data(0) for v in values]
    return values
