"""Machines of any speed: a timer that moves only when something runs on it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from perigee import _backends
from perigee._backends import MOST_STEPS_A_BLOCK
from perigee._events.protocols import Position, Resident
from perigee._execution import Plan

USUAL, *OTHERS = _backends.current().capabilities.plans


def ticking(seconds):
    """Return a timer on which every reading is so many seconds after the one before."""
    ticks = itertools.count()
    return lambda: next(ticks) * seconds


@dataclass
class Cost:
    """Seconds that a way to run a step takes: to compile, for a call, and for each step."""

    compile: float
    step: float
    call: float = 0.0


@dataclass
class Call:
    """What was run: in which way, how many steps, from when to when, whether it compiled."""

    pair: Any
    count: int
    begin: float
    end: float
    compiled: bool


@dataclass
class Machine:
    """Runs steps that do nothing but take time, in ways that cost what they are told to.

    It stands for a program and for the timer.
    """

    costs: dict[Any, Cost]
    most_steps: int = MOST_STEPS_A_BLOCK
    found: tuple[str, ...] = ()
    tracing: float = 0.0
    error: Exception | None = None
    is_random: bool = False
    seconds: float = 0.0
    calls: list[Call] = field(default_factory=list)

    is_split = spans_processes = stops = False

    def __post_init__(self):
        self.plan = Plan(*USUAL, "usual")
        self.traces = 0
        self.rehearsal = SimpleNamespace(
            loops_well=True, tracked=SimpleNamespace(variables=[], state=[])
        )
        self._compiled = set()

    @property
    def block_mode(self):
        return self.plan.mode

    def timer(self):
        return self.seconds

    def run(self, batch):
        return self._ran(1, ("single", self.plan.mode))[0]

    def run_block(self, arrays, batch_size, first, count):
        assert 1 <= count <= self.most_steps, "compiled code has no room for it"
        return self._ran(count, ("block", self.plan.mode))

    def _ran(self, count, key):
        pair, begin = (self.plan.mode, self.plan.is_fused), self.seconds
        is_new = key not in self._compiled
        if is_new:
            self.compile_again(key)
        if self.error is not None and pair != USUAL:
            raise self.error
        self.seconds += self.costs[pair].call + count * self.costs[pair].step
        self.calls.append(Call(pair, count, begin, self.seconds, is_new))
        return np.zeros((count, 1, 2), "float32")

    def compile_again(self, key):
        self._compiled.add(key)
        self.traces += 1
        self.seconds += self.costs[self.plan.mode, self.plan.is_fused].compile

    def forget(self):
        """Let the next call compile."""
        self._compiled.clear()

    def obstacles(self, batch, sample):
        self.seconds += self.tracing
        return self.found

    def compiled_block(self, batch_size):
        return SimpleNamespace(draws=lambda: self.is_random)

    def structure(self):
        return ["a machine"]


class Endless:
    """A feed of arrays that are in memory, passed over again and again; it holds `batches`."""

    is_stream, stacks = False, None

    def __init__(self, batches):
        self.position = Position()
        self._batches = batches
        self._arrays = np.zeros((1, 1), "float32")

    def resident(self):
        return Resident(self._arrays, None, self._batches, 1)

    def prepare_pass(self):
        pass

    def skip(self, count):
        self.position = Position(0, (self.position.batches + count) % self._batches)


class Sampled:
    """Blocks that a plan can be measured with: of so many batches."""

    def __init__(self, batches):
        self._batches = batches

    def sample(self):
        return np.zeros((1, 1), "float32"), 1, self._batches
