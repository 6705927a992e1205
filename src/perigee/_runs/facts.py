"""What the facts of a checkpoint must look like."""

from __future__ import annotations

from perigee._errors import DamagedCheckpointError
from perigee._events.stored_shapes import (
    Shape,
    anything,
    boolean,
    count,
    dict_of,
    fields,
    list_of,
    number,
    one_of,
    optional,
    row,
    text,
)
from perigee.checkpoints import Content, Loaded, content

OWN_LOOP = "a loop of your own"
"""The kind of the data where a user drives the loop."""

_TALLY = fields(
    {
        "columns": list_of(row(text, one_of("mean", "last", "sum", "aside"))),
        "totals": list_of(row(count(), number)),
        "counts": list_of(row(count(), number)),
    }
)


_VALIDATED = fields({"step": count(least=-1), "values": dict_of(number)})


def _callback(value: object, path: str) -> None:
    # A pair is what was stored before the kinds of values were.
    shape = fields({"class": text}, {"arguments": text, "attributes": dict_of(anything)})
    (row(text, dict_of(anything)) if isinstance(value, list) else shape)(value, path)


_GUARDS = fields(dict.fromkeys(("divergence", "stall", "starvation", "stuck"), anything))
_HOOKS = list_of(row(text, dict_of(anything)))
_LOOP = {"epoch": _TALLY, "window": _TALLY, "hooks": _HOOKS}
_LOOP_OF_FIT = fields(
    {**_LOOP, "callbacks": optional(list_of(_callback))},
    {"validated": _VALIDATED, "guards": optional(_GUARDS)},
)
_LOOP_OF_USER = fields(
    {**_LOOP, "own": _TALLY, "ending": optional(dict_of(number))},
    {"validated": _VALIDATED, "applied": list_of(text), "built": list_of(row(text, text))},
)
_PLAN = fields(
    {"mode": one_of("eager", "graph", "xla"), "is_fused": boolean},
    {"trials": list_of(dict_of(anything)), "steps": count()},
)


def _facts(loop: Shape) -> Shape:
    return fields(
        {
            "loop": loop,
            "random": dict_of(anything),
            "began": optional(dict_of(anything)),
            "host": anything,
            "plan": optional(_PLAN),
            "backend": text,
            "finished": optional(text),
            "best": optional(number),
            "seed": optional(count(2**64)),
            "validations": count(),
        },
        {
            "devices": count(),
            "objects": optional(dict_of(anything)),
            "gradients": dict_of(anything),
            "stated_settings": dict_of(anything),
            "left_out": list_of(text),
        },
    )


_OF_FIT, _OF_USER = _facts(_LOOP_OF_FIT), _facts(_LOOP_OF_USER)


def check_facts(loaded: Loaded) -> None:
    """Refuse facts that no run has saved.

    Raises:
        DamagedCheckpointError: If they are of other types, or numbers that cannot be.
    """
    held = loaded.content
    try:
        (_OF_USER if held.data.get("kind") == OWN_LOOP else _OF_FIT)(held.facts, "facts")
        _check_counts(held)
    except ValueError as error:
        raise DamagedCheckpointError(str(loaded.path), content.MANIFEST, str(error)) from error


def _check_counts(held: Content) -> None:
    """Refuse counts that contradict each other: each step takes a batch, each pass has one."""
    loop, step = held.facts["loop"], held.clock.step
    if loop.get("validated", {"step": -1})["step"] > step:
        raise ValueError("it was validated after a later step than it has made")
    drawn = [held.data.get(name, 0) for name in ("passes", "batches")]
    if all(type(each) is int for each in drawn) and sum(drawn) > step:
        raise ValueError(f"it has drawn more batches than it has made steps, which are {step}")
    for name in ("epoch", "window", "own"):
        tally = loop.get(name, {"columns": (), "totals": (), "counts": ()})
        totals, counts = ([index for index, _ in tally[part]] for part in ("totals", "counts"))
        if totals != counts or any(index >= len(tally["columns"]) for index in totals):
            raise ValueError(f"facts/loop/{name} holds totals of columns that are not there")
