"""Several processes that train together: how they agree, and which one writes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

import keras
import numpy as np

from perigee import _backends
from perigee._errors import WorkerLostError, WorkersApartError
from perigee._step.step import Step
from perigee._step.updates import internals
from perigee._typing import Batch

_STEPS_BETWEEN_AGREEMENTS = 8
"""Steps, or batches of a validation, between two queries of the other processes.

A query takes as long as a small step.
"""
STEPS_A_BLOCK = 32
"""Steps per block with several processes: it must not depend on the speed of one of them."""


class Workers:
    """The processes in which a Step is trained, usually only one.

    Each method that communicates is called by all processes, at the same points of the program.

    Args:
        step: The Step.
    """

    def __init__(self, step: Step) -> None:
        self._peers = internals(step).replicas or _backends.current().peers()
        self._agreed: tuple[int, str | None] = (-1, None)

    @property
    def count(self) -> int:
        """The number of processes."""
        return 1 if self._peers is None else self._peers.processes

    @property
    def are_several(self) -> bool:
        """Whether there is more than one."""
        return self.count > 1

    @property
    def is_chief(self) -> bool:
        """Whether this is the chief process, which writes."""
        return self._peers is None or self._peers.process == 0

    def most_steps(self, asked: int | None) -> int | None:
        """Return the most steps per block; `None` if that is adapted."""
        return STEPS_A_BLOCK if asked is None and self.are_several else asked

    def of_chief(self, value: int) -> int:
        """Return the value that the chief process passes. It waits for all processes."""
        return int(self._gathered([value])[0, 0]) if self.are_several else value

    def agree(self, facts: Mapping[str, int]) -> None:
        """Raise if the processes differ in something. It waits for all processes.

        Raises:
            WorkersApartError: If they do.
        """
        if not self.are_several:
            return
        gathered = self._gathered(list(facts.values()))
        apart = [
            f"{name}: {', '.join(map(str, column))}"
            for name, column in zip(facts, gathered.T, strict=True)
            if len(set(column.tolist())) > 1
        ]
        if apart:
            raise WorkersApartError(apart)

    def wait(self) -> None:
        """Wait for all processes."""
        if self.are_several:
            self._gathered([1])

    def interruption(self, received: Callable[[], bool]) -> Callable[[int], str | None]:
        """Return a function of the step that says why to stop there: in all processes alike.

        Args:
            received: Whether this process has received a signal.
        """
        if not self.are_several:
            return lambda step: "signal" if received() else None

        def agreed(step: int) -> str | None:
            at, reason = self._agreed
            is_soon = at >= 0 and 0 <= step - at < _STEPS_BETWEEN_AGREEMENTS
            if reason is None and not is_soon:
                reasons = self._gathered([received()])
                self._agreed = step, "signal" if reasons.any() else None
            return self._agreed[1]

        return agreed

    @contextmanager
    def reporting_loss(self) -> Generator[None]:
        """Raise `WorkerLostError` if another process has ended."""
        try:
            yield
        except Exception as error:
            peers = self._peers
            if peers is None or not peers.is_loss_of_process(error):
                raise
            said = str(error).strip().splitlines() or [type(error).__name__]
            lost = WorkerLostError(peers.process, peers.processes, said[0])
            raise lost from error

    def _gathered(self, values: list[int]) -> np.ndarray:
        assert self._peers is not None
        with self.reporting_loss():
            return self._peers.gathered(values)


def checksum(batch: Batch) -> int:
    """Return a number that identifies a batch."""
    found = 0
    for leaf in keras.tree.flatten(_backends.current().to_host(batch)):
        if isinstance(leaf, np.ndarray) and leaf.dtype != object:
            found = zlib.crc32(leaf.tobytes(), found)
    return found
