"""Programs that are drawn: what `model.fit` trains, `keras_fit` trains to the same numbers.

`python -m tests.parity.drawn` draws many more of them.
"""

from dataclasses import replace

import keras
import numpy as np
import pytest

from tests.parity import drawn
from tests.parity.recurrent import Recurrent
from tests.parity.tasks import TASKS

SEED = 16
COUNT = 8
SAMPLE = drawn.order(SEED, COUNT)


@pytest.mark.spread(4)
@pytest.mark.parametrize(("index", "task"), list(enumerate(SAMPLE)), ids=SAMPLE)
def test_a_drawn_program_trains_as_by_fit(index, task):
    result = drawn.run(SEED, index, task)

    assert not result.outcome.kind, (
        f"{result.outcome.kind}: {result.outcome.text}\n{result.program}"
    )


@pytest.mark.once
def test_programs_are_drawn_alike_again():
    for task in TASKS:
        assert drawn.draw(SEED, 3, 0, task) == drawn.draw(SEED, 3, 0, task)
    assert len({str(drawn.draw(SEED, index, 0, "classes")) for index in range(20)}) == 20


def test_a_training_that_differs_slightly_is_seen():
    program = drawn.draw(SEED, 0, 0, "classes")
    program = replace(
        program, optimizer="Adam", validation="", metrics=(), callbacks=(), options=(), weights=""
    )
    first, again = drawn.by_keras(program), drawn.by_keras(program)
    other = drawn.by_keras(replace(program, optimizer="clipnorm"))

    assert not drawn.difference(again, first).kind
    assert drawn.difference(other, first).kind in drawn.OF_NUMBERS


@pytest.mark.parametrize("body", TASKS["streams"].bodies)
def test_numpy_carries_states_as_layers_do(body):
    task = TASKS["streams"]
    rows, batches = task.rows, 3
    x, _ = task.data(np.random.default_rng(1), rows * batches)
    model = keras.Sequential([keras.Input(batch_shape=(rows, *x.shape[1:])), *task.bodies[body]()])
    by_numpy = Recurrent(model.layers, rows)

    for batch in np.split(x, batches):
        expected = keras.ops.convert_to_numpy(model(batch))
        np.testing.assert_allclose(by_numpy(batch), expected, atol=1e-6)
