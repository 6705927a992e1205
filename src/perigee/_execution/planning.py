"""Makes the plan by measuring on this machine, before the first real step."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import re
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from perigee import _backends
from perigee._backends import Mode
from perigee._execution.blocks import Blocks
from perigee._execution.plan import Plan, Trial
from perigee._execution.program import Program, describe
from perigee._execution.timing import now
from perigee._step.state import host_random, restore, set_host_random, snapshot
from perigee._typing import Batch
from perigee._version import __version__

_LEAST_GAIN = 0.05
"""A plan replaces the usual one only if it reduces the time per step by this share."""
_BEST_GAIN = 0.5
"""The largest share of the time that another plan is assumed to save, before it is tried."""
_BUDGET_SHARE, _BUDGET_SECONDS = 0.02, 3.0
"""The budget for measuring: this share of the training, or these seconds if less."""
_LEAST_STEPS = 100
"""Trainings with fewer steps use the usual plan."""
_FEW_STEPS = 8
_SLICE_SECONDS = 0.05
_SLICES = 3
_MOST_PLANS = 500
"""The most plans that are remembered, of a few hundred bytes each."""
_PLAN_FILE = re.compile(r"[0-9a-f]{32}\.(json|[0-9-]+)")


def make_plan(program: Program, blocks: Blocks, batch: Batch, steps: int) -> Plan:
    """Return the fastest plan for a program, measured or remembered.

    The usual plan is tried first. Another one is compiled only if the remaining steps could make it
    pay off, and abandoned after a few steps if those take much longer. Everything runs on a copy of
    the state, on batches that are not drawn, and leaves no trace.

    If there is a choice, it is stored in a file, so that the same training gets the same plan.

    Args:
        program: The program to run, whose plan is the usual one.
        blocks: Blocks of the data.
        batch: The first batch.
        steps: The number of steps to run; 0 if unknown.
    """
    if program.plan.holds_for(steps):  # requested, or already measured in this process
        return program.plan
    usual = Plan.usual(program.rehearsal.loops_well)
    others = [p for p in _backends.current().capabilities.plans if p != _pair(usual)]
    if not others or steps < _LEAST_STEPS or program.is_split:
        return usual
    if program.spans_processes:
        return usual  # each process would measure other times, and choose another plan
    sample = blocks.sample()
    if sample is None:  # no alternative: the data allows one way only
        return usual
    memory = _memory(program, batch, sample, steps)
    remembered = _recall(memory)
    if remembered is not None and remembered.mode != "xla":
        return remembered
    variables = program.rehearsal.tracked.state
    saved = snapshot(variables)
    trials = _Trials(program, batch, sample, steps)
    try:
        obstacles = trials.obstacles(usual)
        if remembered is not None and not obstacles:
            trials.forget()
            return remembered
        plan = trials.left_out(usual, others, obstacles) if obstacles else trials.run(usual, others)
    finally:
        program.plan = usual
        restore(variables, saved)
    _remember(memory, plan)
    return plan


class _Trials:
    """Measures execution modes of a step, within a budget.

    The usual mode has to be compiled anyway, and is always measured briefly: two steps, or a tenth
    of a second. Everything else begins only if its expected cost fits into the budget: compiling
    another mode is assumed to take as long as the usual one did, with XLA three times as long.
    """

    def __init__(self, program: Program, batch: Batch, sample: Any, steps: int) -> None:
        self._program, self._batch, self._sample = program, batch, sample
        self._steps = steps
        self._most: int = min(sample[2], program.most_steps)
        self._first = 0
        self._began = now()
        self._budget = _BUDGET_SECONDS
        self._reserve = 0.0  # for measuring the usual mode again
        self._random = host_random()
        self._random_after: dict[tuple[Mode, bool], Any] = {}
        self._tracing = 0.0

    def obstacles(self, usual: Plan) -> Sequence[str]:
        """Compile the usual mode, and return what in the step rules out any other.

        Nothing is run: a step that prints or writes files would do so for batches that do not
        exist.
        """
        self._program.plan = usual
        began = now()
        found = self._program.obstacles(self._batch, self._sample)
        self._tracing = now() - began
        self._random_after[_pair(usual)] = host_random()
        return found

    def forget(self) -> None:
        """Restore the host's generators to their state before anything was compiled."""
        set_host_random(self._random)

    def left_out(
        self, usual: Plan, others: list[tuple[Mode, bool]], obstacles: Sequence[str]
    ) -> Plan:
        """Return the usual plan, with the reason why no other is considered."""
        note = f"skipped: there is {', '.join(obstacles)}"
        trials = tuple(Trial(*pair, note=note) for pair in others)
        return replace(usual, trials=(Trial(*_pair(usual)), *trials))

    def run(self, usual: Plan, others: list[tuple[Mode, bool]]) -> Plan:
        first = self._timed(_pair(usual), limit=math.inf)
        assert first.microseconds is not None and first.compile_seconds is not None
        trials = [first, *(self._considered(pair, first) for pair in others)]
        measured = [t for t in trials if t.microseconds is not None]
        best = min(measured, key=lambda t: t.microseconds or 0.0)
        if best is not first:
            # Again, since the machine may have been busy the first time.
            self._reserve = 0.0
            again = self._timed(_pair(first), limit=math.inf)
            least = min(first.microseconds, again.microseconds or first.microseconds)
            trials[0] = first = replace(first, microseconds=least)
            if (best.microseconds or 0.0) > (1 - _LEAST_GAIN) * least:
                best = first
        set_host_random(self._random_after.get(_pair(best), self._random))
        was_measured = sum(t.microseconds is not None for t in trials) > 1
        return Plan(
            best.mode,
            best.is_fused,
            "measured" if was_measured else "usual",
            tuple(trials),
            self._steps,
        )

    def _considered(self, pair: tuple[Mode, bool], first: Trial) -> Trial:
        mode, is_fused = pair
        assert first.microseconds is not None and first.compile_seconds is not None
        one = first.microseconds / 1e6
        ahead = self._steps * one
        cost = first.compile_seconds
        if mode == "xla":
            cost *= 3
        if ahead * _BEST_GAIN < cost:
            note = "skipped: compiling would not pay off in the remaining steps"
            return Trial(mode, is_fused, note=note, is_for_longer=True)
        self._reserve = 2 * one
        if not self._affords(cost + 2 * one):
            note = "skipped: measuring it would take too long"
            return Trial(mode, is_fused, note=note, is_for_longer=True)
        draws = mode == "xla" and self._program.compiled_block(self._sample[1]).draws()
        try:
            trial = self._timed(pair, limit=3 * first.microseconds)
        except Exception as error:
            # The step has run in the usual mode: if only this compiler fails, another plan is used.
            if not _backends.current().is_compiler_error(error):
                raise
            return Trial(mode, is_fused, note=f"skipped: {type(error).__name__} while compiling")
        if draws and trial.microseconds is not None:
            trial = replace(trial, note="draws other random numbers from the same seeds")
        return trial

    def _timed(self, pair: tuple[Mode, bool], limit: float) -> Trial:
        """Measure an execution mode; abandon it if a step takes more than `limit` microseconds.

        Without a limit it is the usual mode, which is always measured, but only as well as the
        budget allows.
        """
        mode, is_fused = pair
        self._program.plan = Plan(mode, is_fused, "measured")
        run = self._block if is_fused else self._single
        # Each begins with the same host generators: a step may draw while it is traced.
        set_host_random(self._random)
        began = now()
        run(1)
        compiling = now() - began + self._tracing
        self._tracing = 0.0  # it was part of the first one
        self._random_after.setdefault(pair, host_random())
        is_usual = limit == math.inf
        if not is_usual and not self._affords(0.0):
            note = "skipped: compiling it took too long"
            return Trial(mode, is_fused, None, compiling, note, is_for_longer=True)
        one, steps = _seconds(lambda: run(1)), 1
        few = min(_FEW_STEPS, self._in_a_slice(one))
        if few > 1:  # a call has a cost of its own, so a single step per call seems to take longer
            one, steps = min(_seconds(lambda: run(few)) for _ in range(2)) / few, 2 * few
        if is_usual:
            self._budget = max(_BUDGET_SHARE * self._steps * one, _BUDGET_SECONDS)
        if one * 1e6 > limit:
            return Trial(mode, is_fused, one * 1e6, compiling, f"abandoned after {steps} steps")
        if self._steps * one * _BEST_GAIN < compiling:
            return Trial(mode, is_fused, one * 1e6, compiling)
        count, best = self._in_a_slice(one), one
        for _ in range(_SLICES):
            if self._affords(count * one):
                best = min(best, _seconds(lambda: run(count)) / count)
        return Trial(mode, is_fused, best * 1e6, compiling)

    def _affords(self, seconds: float) -> bool:
        """Return whether `seconds` more are within the budget."""
        return now() - self._began + seconds + self._reserve <= self._budget

    def _in_a_slice(self, one: float) -> int:
        """Return the number of steps in a measurement, given the seconds of one.

        A clock may be too coarse for a single step, and compiled code limits the block size.
        """
        return self._most if one <= 0 else max(1, int(min(self._most, _SLICE_SECONDS / one)))

    def _block(self, count: int) -> None:
        arrays, batch_size, full = self._sample
        self._first = (self._first + 1) % (full - count + 1)  # as varied as in training
        rows = self._program.run_block(arrays, batch_size, self._first, count)
        _backends.current().to_host(rows)

    def _single(self, count: int) -> None:
        rows = [self._program.run(self._batch) for _ in range(count)]
        _backends.current().to_host(rows)


def _seconds(run: Callable[[], None]) -> float:
    began = now()
    run()
    return now() - began


def _pair(plan: Plan | Trial) -> tuple[Mode, bool]:
    return plan.mode, plan.is_fused


# The memory: one small file per training, named by what its plan depends on.


def _memory(program: Program, batch: Batch, sample: tuple[Batch, int, int], steps: int) -> Path:
    arrays, batch_size, _ = sample
    name = _backends.current().name
    facts = {
        "perigee": __version__,
        "keras": keras.__version__,
        "backend": [name, str(sys.modules[name].__version__)],
        "machine": [platform.node(), platform.machine(), os.cpu_count()],
        "devices": _backends.current().device_names(),
        "distribution": str(keras.distribution.distribution()),
        "program": program.structure(),
        "batch": [describe(batch), batch_size],
        "sizes": [list(leaf.shape[1:]) for leaf in keras.tree.flatten(arrays) if leaf is not None],
        "steps": steps,
    }
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "perigee" / "plans" / f"{digest.hexdigest()}.json"


def _recall(memory: Path) -> Plan | None:
    try:
        facts = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    with contextlib.suppress(OSError):
        os.utime(memory)  # keeps files in use from being removed
    return Plan.remembered(facts) if isinstance(facts, dict) else None


def _remember(memory: Path, plan: Plan) -> None:
    """Store the plan; if that fails, the next training measures again."""
    beside = memory.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(plan.facts()), encoding="utf-8")
        beside.replace(memory)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
    _forget_oldest(memory.parent)


def _forget_oldest(plans: Path) -> None:
    """Remove the least recently used plans beyond the number that is kept.

    Other processes may do the same: a file that is already gone needs no removal.
    """

    def used(path: Path) -> float:
        try:
            return path.lstat().st_mtime
        except OSError:
            return -math.inf

    try:
        # Includes partial files of killed processes.
        files = [path for path in plans.iterdir() if _PLAN_FILE.fullmatch(path.name)]
    except OSError:
        return
    for path in sorted(files, key=used)[: max(0, len(files) - _MOST_PLANS)]:
        with contextlib.suppress(OSError):
            path.unlink()
