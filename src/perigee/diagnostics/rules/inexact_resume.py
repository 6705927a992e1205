"""PG430, InexactResume: a run that cannot be resumed exactly, or only at a cost.

A run resumes bit for bit if everything that it depends on can be saved. Arrays, a PyDataset and
most `tf.data` pipelines have a position. Generators and other iterables have none: their batches
are drawn again and dropped, which is exact if they depend on seeds alone, and takes as long as
drawing them. A shuffle without a seed, and TensorFlow's own random operations (`tf.random.normal`),
keep a state that cannot be read: seed the shuffle, and draw with `keras.random` and a
`keras.random.SeedGenerator` that the Step holds.

A Keras callback keeps what training changed in its attributes: numbers, arrays, tensors, and lists,
tuples, sets and dicts of them. Arguments of its class are left out, and so are attributes that are
text (which might name a file) or other objects. A scheduler of torch that a callback steps is saved
where the Step holds it, too. A callback with `state()` and `load_state(state)` keeps what the first
returns, and nothing else.

A run resumes under another framework, or on another number of devices, from the same weights,
optimizer slots and data; then random numbers, such as those of dropout, are other ones.

How sure: a warning for what is known to be lost, a hint for data that is only drawn again. It rests
on the kind of the data, and on what of a callback could not be saved.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    """Report random state that no checkpoint holds."""
    return _warning(
        "The step draws random numbers by operations whose state cannot be saved:",
        program.hidden_state(),
        expected="random numbers that continue where they were when the run is resumed.",
        fix="draw with `keras.random` and a `keras.random.SeedGenerator` held by the Step.",
    )


def check_place(differences: Sequence[str]) -> list[Finding]:
    """Report a run that resumes elsewhere than where it was trained."""
    return _warning(
        "The run resumes from its weights, its optimizers' state and its position in the data, but "
        "it was trained with others of these:",
        differences,
        expected="the framework and the number of devices that the run was trained with.",
        fix="nothing, if it need not equal a training without interruption; or resume it as it was "
        "trained.",
    )


def check_callbacks(left_out: Sequence[str]) -> list[Finding]:
    """Report what training has changed in callbacks, and a resumed run does not restore."""
    return _warning(
        "Training has changed attributes of callbacks that a resumed run does not restore:",
        left_out,
        expected="numbers, arrays, tensors, and lists, tuples, sets and dicts of them, in "
        "attributes without the name of an argument of the class.",
        fix="return what must survive from a method `state(self)` of the callback, and take "
        "it back in `load_state(self, state)`.",
    )


def _warning(happened: str, items: Sequence[str], expected: str, fix: str) -> list[Finding]:
    if not items:
        return []
    return [
        Finding(
            code="PG430",
            name="InexactResume",
            severity="warning",
            happened=happened,
            items=tuple(items),
            expected=expected,
            fix=fix,
        )
    ]
