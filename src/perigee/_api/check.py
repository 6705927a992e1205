"""`check`: what is wrong with a step, found before it costs a training run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any, Literal, TypeAlias, get_args

import keras
import numpy as np

from perigee import _backends
from perigee._api.arguments import as_step, check_codes, named
from perigee._api.unstarted import beginning
from perigee._errors import ArgumentError, BatchChangedError
from perigee._step.state import attributes_preserved, preserved, restore, snapshot, track
from perigee._step.step import Step
from perigee._step.updates import internals
from perigee._typing import Batch
from perigee.data import open_feed, signature
from perigee.diagnostics import Evidence, Finding, Length, Report, examine, rows_of, try_out
from perigee.steps.keras_step import KerasStep, check_compiled

Level: TypeAlias = Literal["default", "full"]
"""How far to look: at single steps, or at some hundred of them too."""

_BATCHES = 8
"""Batches that are looked at where data is not given as arrays."""


@named
def check(
    target: Step | Callable[..., Any] | keras.Model,
    data: Any,
    *,
    validation: Any = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    steps_per_epoch: int | None = None,
    level: Level = "default",
    ignore: Sequence[str] = (),
) -> Report:
    """Find faults that training itself never reveals.

    The step runs on one batch, a few times. Weights, slots, seeds and metrics are restored
    afterwards. What is not built yet is built, as `fit` would.

    >>> report = pg.check(step, (x, y))
    >>> print(report)
    Nothing found.

    Args:
        target: A Step, a function as in `fit`, or a compiled `keras.Model`.
        data: As in `fit`. Arrays are examined whole, other data by its first 8 batches. A
            generator that has not started keeps all of its batches; other iterators, which cannot
            restart, are refused.
        validation: Data to validate on, to see whether examples are shared.
        batch_size: Rows a batch, 32 by default; for arrays only.
        epochs: How many epochs the training will have, to see whether these are enough, and what
            its learning rates will be. `None`: not known.
        steps: How many steps it will have in total, as in `fit`. `None`: as many as the epochs.
        steps_per_epoch: Steps an epoch, as in `fit`; by default those of a pass over the data.
        level: `"default"` looks at the data and at single steps. `"full"` also trains for some
            hundred steps, on a copy: it reports training that makes no progress, and what would
            change that: another learning rate, scaled inputs, other initial weights, more updates.
        ignore: Codes to leave out, such as `["PG220"]`, besides `ignore_findings` of the
            Step.

    Returns:
        A `Report`.

    Raises:
        ArgumentError: If a code is unknown, `data` is an iterator that cannot restart, or the Step
            has replicas.
    """
    ignored = check_codes("ignore", ignore)
    if level not in get_args(Level):
        raise ArgumentError("level", repr(level), '"default" or "full".', 'pass "default".')
    step = as_step(KerasStep(target) if isinstance(target, keras.Model) else target, "train_step")
    if isinstance(step, KerasStep):
        check_compiled(step.model)
    replicas = internals(step).replicas
    if replicas is not None and replicas.splits:
        raise ArgumentError(
            "target",
            f"<{type(step).__name__}, made under {replicas.name}>",
            "a Step of one device: what is looked at is one run of it on a whole batch.",
            "check one that is made outside the scope, and train the other.",
        )
    ignored += check_codes("ignore_findings", step.ignore_findings)
    data, validation = _repeatable("data", data), _repeatable("validation", validation)
    with preserved(track(step).state), attributes_preserved(step):
        batches, others = _sorted(_batches(data, batch_size))
        columns = _columns(data, batches)
        evaluated = [] if validation is None else _batches(validation, None)
        other = None if validation is None else _columns(validation, evaluated)
        for metric in track(step).metrics.values():
            if getattr(metric, "built", True):
                metric.reset_state()
        evidence = Evidence(
            step,
            batches,
            columns,
            other,
            isinstance(step, KerasStep),
            is_of_arrays=_is_of_arrays(data),
            redraw=lambda: _sorted(_batches(data, batch_size))[0],
            redraw_validation=None
            if validation is None
            else lambda most=None: _columns(validation, _pass(validation, most)),
            evaluated=evaluated[0] if evaluated else None,
            others=others,
            length=_length(data, batch_size, epochs, steps, steps_per_epoch),
        )

        def found() -> list[Finding]:
            found = examine(evidence)
            if level == "full":
                found = try_out(evidence, found, open_feed)
            return found

        is_eager = internals(step).runs_as_python
        held = [*track(step, as_python=True).objects.values()]
        values = snapshot(held)
        try:
            with evidence.eagerly() if is_eager else nullcontext():
                findings = found()
        except Exception as error:
            if not _backends.current().needs_values(error):
                raise
            restore(held, values)  # attributes may hold values of the trace that failed
            with evidence.eagerly():
                findings = found()
    return Report(tuple(finding for finding in findings if finding.code not in ignored))


def _repeatable(name: str, data: Any) -> Any:
    """Return data that can begin again, for a generator that has not started, too."""
    if not isinstance(data, Iterator):
        return data
    begin = beginning(data)
    if begin is None:
        raise ArgumentError(
            name,
            f"<{type(data).__name__}>",
            "data that can begin again: looking at it would take its first batches away.",
            "pass the function that makes the iterator, or a list of some batches.",
        )
    return begin


def _batches(data: Any, batch_size: int | None, most: int = _BATCHES) -> list[Batch]:
    """Return the first batches, on the host."""
    feed = open_feed(data, batch_size=batch_size)
    try:
        batches = [feed.peek()]
        feed.draw()
        while len(batches) < most:
            batch = feed.draw()
            if batch is None:
                break
            batches.append(batch)
    except BatchChangedError:
        # `fit` takes batches of one structure, a loop of the user's own any.
        drawn: Any = data() if callable(data) else data
        batches = list(islice(drawn, most))
    finally:
        feed.close()
    return [_on_host(_backends.current().tensors(batch)) for batch in batches]


def _pass(data: Any, most: int | None) -> list[Batch]:
    """Return the first batches; with `most`, all of them, or none if there are more."""
    if most is None:
        return _batches(data, None)
    batches = _batches(data, None, most + 1)
    return batches if len(batches) <= most else []


def _on_host(batch: Batch) -> Batch:
    """Return a batch with its tensors as arrays; what is ragged or sparse stays as it is."""
    backend = _backends.current()
    return keras.tree.map_structure(
        lambda leaf: backend.to_host(leaf) if backend.is_tensor(leaf) else leaf, batch
    )


def _sorted(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Return the batches of the structure of the first one, and one of each other structure."""
    alike: list[list[Batch]] = []
    for batch in batches:
        same = [some for some in alike if signature(some[0]) == signature(batch)]
        if same:
            same[0].append(batch)
        else:
            alike.append([batch])
    return alike[0], [some[0] for some in alike[1:]]


def _length(
    data: Any,
    batch_size: int | None,
    epochs: int | None,
    steps: int | None,
    steps_per_epoch: int | None,
) -> Length | None:
    """Return how long a training is; `None` if that is not known."""
    if epochs is None and steps is None:
        return None
    feed = open_feed(data, batch_size=batch_size)
    try:
        a_pass = feed.length
    finally:
        feed.close()
    an_epoch = steps_per_epoch or a_pass
    if steps is None:
        if epochs is None or an_epoch is None:
            return None
        steps = epochs * an_epoch
    return Length(max(1, steps), a_pass)


def _columns(data: Any, batches: Sequence[Batch]) -> list[np.ndarray]:
    """Return all rows that are known of each leaf: of arrays all, of others those drawn."""
    if _is_of_arrays(data):
        return keras.tree.flatten(data)
    leaves = [keras.tree.flatten(batch) for batch in batches]
    return [_joined([rows_of(leaf) for leaf in some]) for some in zip(*leaves, strict=False)]


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return the rows of several arrays; of numbers, which have none, the numbers."""
    if not arrays[0].ndim:
        return np.stack(arrays)
    return np.concatenate(arrays) if _are_alike(arrays) else arrays[0]


def _is_of_arrays(data: Any) -> bool:
    if not isinstance(data, tuple | dict | np.ndarray):
        return False
    return all(isinstance(leaf, np.ndarray) for leaf in keras.tree.flatten(data))


def _are_alike(arrays: Sequence[np.ndarray]) -> bool:
    return len({array.shape[1:] for array in arrays}) == 1
