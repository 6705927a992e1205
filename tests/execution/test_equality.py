"""How a step runs changes nothing that it comes to: not the mode, not the size of the blocks."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import perigee as pg
from perigee import _backends
from tests.execution.trainings import (
    BATCH,
    FUSES,
    KINDS,
    Beginning,
    Everything,
    as_data,
    cut,
    exact,
    numbers,
    rows,
    train,
)

# Of three sizes of batches: compiling each is what the batches are drawn to cause.
pytestmark = pytest.mark.filterwarnings("ignore:Recompiled", "ignore:InexactResume")

MODES = _backends.current().capabilities.modes
SMALLEST = 2
"""Steps a call of the training that the others are compared with: 1 is another program."""


@functools.cache
def beginning(accumulate, is_random=True):
    """Return a Step with everything built. Its programs are kept from training to training."""
    step = Everything(is_random)
    data = rows(BATCH)
    pg.fit(step, [data], accumulate=accumulate, validation=[data], progress="off", seed=0)
    return Beginning(step)


@dataclass(frozen=True)
class Course:
    """A training to be run in several ways."""

    kind: str
    sizes: tuple[int, ...]
    accumulate: int
    arguments: dict[str, Any]

    def run(self, execution, is_random=True):
        start = beginning(self.accumulate, is_random)
        start.go_back()
        arguments = dict(self.arguments)
        if arguments.pop("validation", False):
            arguments["validation"] = cut(rows(8), (3, 3, 2))
        data = as_data(self.kind, cut(rows(sum(self.sizes)), self.sizes))
        if self.kind == "arrays":
            arguments["batch_size"] = BATCH
        return train(start.step, data, accumulate=self.accumulate, execution=execution, **arguments)


def cadence(most):
    return st.one_of(st.none(), st.builds(pg.Every, steps=st.integers(1, most)))


@st.composite
def courses(draw):
    kind = draw(st.sampled_from(KINDS))
    if kind == "arrays":
        sizes = draw(st.sampled_from([(3, 3, 3, 3, 3), (3, 3, 3, 3, 2)]))
    else:
        sizes = (3, *draw(st.lists(st.sampled_from([3, 3, 3, 1, 4]), min_size=1, max_size=7)))
    arguments = {
        "epochs": draw(st.integers(1, 3)),
        "steps": draw(st.one_of(st.none(), st.integers(1, 16))),
        "steps_per_epoch": draw(st.one_of(st.none(), st.integers(1, 9))),
        "record_every": draw(cadence(6)),
        "hook_every": draw(cadence(6)),
        "may_lag": draw(st.booleans()),
        "stop_at": draw(st.one_of(st.none(), st.integers(1, 12))),
        "last_epoch": draw(st.sampled_from([None, None, 1])),
        "validation": draw(st.booleans()),
    }
    if kind in ("arrays", "PyDataset"):
        arguments["shuffle"] = draw(st.booleans())
    if arguments["validation"]:
        arguments["validate_every"] = draw(st.one_of(cadence(5), st.just(pg.Every(epochs=2))))
        arguments["validation_steps"] = draw(st.sampled_from([None, 2]))
    return Course(kind, sizes, draw(st.sampled_from([1, 2])), arguments)


SIZES = st.one_of(st.integers(SMALLEST + 1, 9), st.sampled_from([32, 256, "auto"]))


@pytest.mark.parametrize("drawn", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_the_size_of_the_blocks_changes_no_bit(drawn):
    mode = "graph" if FUSES else "auto"

    @settings(max_examples=drawn, deadline=None, database=None)
    @given(course=courses(), steps_per_call=SIZES)
    @example(Course("arrays", (3, 3, 3, 3, 2), 1, {"epochs": 2, "shuffle": True}), 8)
    @example(Course("batches", (3, 3, 1, 3, 4, 3), 2, {"epochs": 2, "steps_per_epoch": 8}), 5)
    def compare(course, steps_per_call):
        reference = course.run(pg.Execution(mode, SMALLEST))
        outcome = course.run(pg.Execution(mode, steps_per_call))

        assert outcome.plan.is_fused == reference.plan.is_fused == FUSES
        assert exact(outcome) == exact(reference)

    compare()


COURSES = {
    "arrays": Course(
        "arrays",
        (3, 3, 3, 3, 2),
        1,
        {"epochs": 3, "validation": True, "record_every": pg.Every(steps=4), "may_lag": True},
    ),
    "accumulated": Course(
        "batches",
        (3, 3, 3, 1, 3),
        2,
        {"steps": 13, "hook_every": pg.Every(steps=3), "validation": True},
    ),
    "stopped by a hook": Course(
        "function",
        (3, 3, 4, 3, 3, 3),
        1,
        {"epochs": 4, "hook_every": pg.Every(steps=4), "stop_at": 10, "steps_per_epoch": 5},
    ),
    "stopped by a callback": Course(
        "PyDataset",
        (3, 3, 3, 3),
        1,
        {
            "epochs": 5,
            "last_epoch": 1,
            "validation": True,
            "validate_every": pg.Every(steps=3),
        },
    ),
    "seen batch by batch": Course(
        "arrays", (3, 3, 3, 3, 2), 1, {"epochs": 2, "looks_at_batches": True}
    ),
}
if "tf.data" in KINDS:
    COURSES["tf.data"] = Course("tf.data", (3, 3, 3, 1), 2, {"epochs": 3, "validation": True})

# JAX compiles with XLA whatever it is asked for.
COMPILED = [m for m in MODES if m == "graph" or (m == "xla" and "tf.data" in KINDS)]
WAYS = {
    "auto": pg.Execution(),
    "eager": pg.Execution("eager"),
    **{f"{mode}, many": pg.Execution(mode) for mode in COMPILED},
    **{f"{mode}, one": pg.Execution(mode, 1) for mode in COMPILED},
}
CLOSE = {"rtol": 2e-4, "atol": 2e-5}


@functools.cache
def single(name):
    return COURSES[name].run(pg.Execution(MODES[0], 1), is_random=False)


@pytest.mark.spread(8)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", COURSES)
def test_every_way_to_run_comes_to_the_same(name, way):
    outcome, reference = COURSES[name].run(WAYS[way], is_random=False), single(name)

    form, values = numbers(vars(outcome) | {"plan": None})
    expected_form, expected = numbers(vars(reference) | {"plan": None})
    assert form == expected_form
    assert np.allclose(values, expected, **CLOSE)


@pytest.mark.spread(1)
@pytest.mark.skipif(not FUSES, reason="one step a call")
@pytest.mark.parametrize("mode", COMPILED)
def test_random_draws_come_to_the_same_in_blocks_and_without(mode):
    """The same numbers are drawn for the same step, whatever the block it is in."""
    course = COURSES["arrays"]

    blocks, one = (course.run(pg.Execution(mode, steps)) for steps in ("auto", 1))

    assert np.allclose(numbers(blocks.state)[1], numbers(one.state)[1], **CLOSE)
    assert not np.allclose(
        numbers(one.state)[1][: 2 * BATCH], numbers(single("arrays").state)[1][: 2 * BATCH]
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [None, 4])
def test_an_evaluation_is_the_same_bit_for_bit_in_blocks_of_every_size(kind, steps):
    start = beginning(1)
    sizes = (3, 3, 3, 3, 3, 2)
    batch_size = BATCH if kind == "arrays" else None

    def measured(steps_per_call):
        start.go_back()
        return pg.evaluate(
            start.step,
            as_data(kind, cut(rows(sum(sizes)), sizes)),
            steps=steps,
            batch_size=batch_size,
            execution=pg.Execution(steps_per_call=steps_per_call),
        )

    first, *others = [measured(count) for count in (2, 3, 8, "auto")]

    assert set(first) == {"error", "size"}
    assert all(other == first for other in others)
    assert measured(1) == pytest.approx(first, rel=1e-5)


def test_values_of_all_magnitudes_are_added_up_the_same_bit_for_bit():
    draw = np.random.default_rng(0)
    values = (draw.normal(size=64) * 10.0 ** draw.integers(-12, 12, 64)).astype("float32")

    class Reading(pg.Step):
        def train_step(self, batch):
            return {"value": batch[0]}

    step = Reading()
    read = [
        pg.fit(
            step,
            values,
            batch_size=1,
            shuffle=False,
            progress="off",
            execution=pg.Execution(steps_per_call=count),
        ).history["value"]
        for count in (2, 3, 5, 8, 16, 64)
    ]

    assert all(other == read[0] for other in read)
