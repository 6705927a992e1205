# pyright: basic
"""Traces of what torch runs."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from torch import profiler


@contextmanager
def trace(directory: str) -> Generator[None]:
    """See `Backend.trace`: for Perfetto, under the name that TensorBoard looks for."""
    wanted = {profiler.ProfilerActivity.CPU, profiler.ProfilerActivity.CUDA}
    with profiler.profile(
        activities=wanted & set(profiler.supported_activities()),
        on_trace_ready=profiler.tensorboard_trace_handler(directory),
    ):
        yield
