"""PG430, InexactResume: a run that cannot be resumed exactly, or only at a cost.

A run resumes bit for bit if everything that it depends on can be saved. Arrays, a PyDataset and
most `tf.data` pipelines have a position. Generators and other iterables have none: their batches
are drawn again and dropped, which is exact if they depend on seeds alone, and takes as long as
drawing them. A shuffle without a seed, and TensorFlow's own random operations (`tf.random.normal`),
keep a state that cannot be read: seed the shuffle, and draw with `keras.random` and a
`keras.random.SeedGenerator` that the Step holds.
"""

from __future__ import annotations

from perigee._events.protocols import Feed
from perigee._execution import Program
from perigee.diagnostics._finding import Finding


def check_validation_feed(feed: Feed) -> list[Finding]:
    """Report validation data whose order differs each time, which cannot be saved."""
    return check_feed(feed, "validation data") if feed.resumes == "not exactly" else []


def check_feed(feed: Feed, what: str = "data") -> list[Finding]:
    """Report how data is resumed, unless at once and exactly."""
    if feed.resumes == "exactly":
        return []
    is_replayed = feed.resumes == "by replay"
    return [
        Finding(
            code="PG430",
            name="InexactResume",
            severity="hint" if is_replayed else "warning",
            happened=f"The {what} ({feed.kind}) resumes {feed.resumes}, as {feed.resumes_because}",
            expected="data that continues at its position when the run is resumed.",
            fix="nothing, if its batches depend on seeds alone; arrays and a PyDataset resume at "
            "once."
            if is_replayed
            else "seed every shuffle, or pass arrays, a PyDataset or a generator function.",
        )
    ]


def check_program(program: Program) -> list[Finding]:
    """Report operations whose random state no checkpoint can hold."""
    kinds = tuple(program.hidden_state())
    if not kinds:
        return []
    return [
        Finding(
            code="PG430",
            name="InexactResume",
            severity="warning",
            happened="The step draws random numbers by operations whose state cannot be saved:",
            items=kinds,
            expected="random numbers that continue where they were when the run is resumed.",
            fix="draw with `keras.random` and a `keras.random.SeedGenerator` held by the Step.",
        )
    ]
