"""How far probes stand apart between correct and faulty programs: the table that rules rest on.

`python -m tests.diagnostics.faults --separations` prints it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from perigee._api.check import _batches, _columns
from perigee.diagnostics import Evidence
from perigee.diagnostics.rules.examples_mixed import _changed
from tests.diagnostics.healthy import BATCH, PROGRAMS, Parts
from tests.diagnostics.mutants import MUTANTS
from tests.diagnostics.split import digest, is_held_out

MOST = 8
"""Programs of one kind that are measured."""

FAULTS: Mapping[str, str] = {
    "column against row": "broadcast",
    "absolute column against row": "broadcast",
    "sum over the batch by hand": "sum",
    "mean of the batch taken away": "mixing",
    "softmax over the batch": "mixing",
}
"""Faults by the operators that plant them."""

_UNLIKE = {"norm", "dropout", "weighted", "masked", "outputs", "unlabeled", "half", "in-batch"}
"""Traits of programs whose loss is no plain mean of what each example gives by itself."""


def evidence_of(parts: Parts) -> Evidence:
    """Return what rules would look at, after `train_step` has run."""
    step, data = parts.build()
    batches = _batches(data, BATCH)
    evidence = Evidence(step, batches, _columns(data, batches), None, False)
    evidence.rehearse()
    return evidence


def roll(evidence: Evidence) -> float:
    """Return the relative change of the loss when labels move on by one row."""
    x, y = evidence.batches[0]
    return _relative(evidence, (x, np.roll(y, 1, axis=0)))


def additivity(evidence: Evidence) -> float:
    """Return the loss of a batch over the mean of the losses of its examples."""
    batch = evidence.batches[0]
    singles = [_rows(batch, slice(i, i + 1)) for i in range(BATCH)]
    return _loss(evidence, batch) / float(np.mean([_loss(evidence, one) for one in singles]))


def duplicate(evidence: Evidence) -> float:
    """Return the loss of the batch held twice over that of the batch."""
    batch = evidence.batches[0]
    twice = keras.tree.map_structure(lambda a: np.concatenate([a, a]), batch)
    return _loss(evidence, twice) / _loss(evidence, batch)


def mixing(evidence: Evidence) -> float:
    """Return the relative change of other outputs when the first example changes."""
    call = evidence.trained[0]
    before = evidence.outputs(call, call.inputs)[0]
    after = evidence.outputs(call, keras.tree.map_structure(_changed, call.inputs))[0]
    return float(np.abs(after - before)[1:].max() / np.abs(before).max())


PROBES = {"label roll": roll, "additivity": additivity, "duplicate": duplicate, "mixing": mixing}


def shifts() -> dict[str, list[float]]:
    """Return the relative change of crossentropies when 1 is added to all scores."""
    random = np.random.default_rng(0)
    found: dict[str, list[float]] = defaultdict(list)
    for classes in (2, 3, 10):
        scores = random.normal(scale=2.0, size=(BATCH, classes)).astype("float32")
        ids = random.integers(classes, size=BATCH)
        for from_logits in (True, False):
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
            given = scores if from_logits else np.asarray(keras.ops.softmax(scores))
            if from_logits:
                one, two = (float(loss(ids, given + c)) for c in (0.0, 1.0))
            else:  # as it is, not divided by its sum
                one, two = (
                    float(np.mean(-np.log(np.clip(given + c, 1e-7, None)[np.arange(BATCH), ids])))
                    for c in (0.0, 1.0)
                )
            kind = "wants logits" if from_logits else "wants probabilities"
            found[kind].append(abs(two - one) / abs(one))
    return found


def measured(most: int = MOST) -> Mapping[str, Mapping[str, list[float]]]:
    """Return the values of each probe, by the kind of program."""
    table: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for kind, parts in _chosen(most):
        evidence = evidence_of(parts)
        if not evidence.is_repeatable or not evidence.trained:
            continue
        for name, probe in PROBES.items():
            table[name][kind].append(probe(evidence))
    table["score shift"] |= shifts()
    return table


def table(most: int = MOST) -> str:
    """Return the table as text."""
    lines = []
    for probe, kinds in measured(most).items():
        for kind, values in kinds.items():
            scope = f"{min(values):.3g} .. {max(values):.3g}"
            lines.append(f"  {probe:12} {kind:20} {scope:24} ({len(values)} programs)")
    return "\n".join(lines)


def _chosen(most: int) -> Iterator[tuple[str, Parts]]:
    wanted = {"regression", "sparse", "one-hot", "binary"}
    healthy = [
        p
        for p in PROGRAMS.values()
        if not is_held_out(p.name) and p.traits & wanted and not p.traits & _UNLIKE
    ]
    healthy = [p for p in healthy if "calls-twice" not in p.traits and "class" not in p.name]
    for program in sorted(healthy, key=lambda p: digest(p.name))[:most]:
        yield "correct", program.parts
    for operator, kind in FAULTS.items():
        faulty = [
            m
            for m in MUTANTS.values()
            if m.operator.name == operator
            and not is_held_out(m.name)
            and not m.program.traits & (_UNLIKE | {"calls-twice"})
            and isinstance(m.parts.data(), tuple)
        ]
        for mutant in faulty[: max(1, most // 3)]:
            yield kind, mutant.parts


def _loss(evidence: Evidence, batch: Any) -> float:
    loss = evidence.loss(batch)
    assert loss is not None
    return loss - evidence.penalty


def _relative(evidence: Evidence, batch: Any) -> float:
    base = _loss(evidence, evidence.batches[0])
    return abs(_loss(evidence, batch) - base) / abs(base)


def _rows(batch: Any, rows: slice) -> Any:
    return keras.tree.map_structure(lambda leaf: leaf[rows], batch)
