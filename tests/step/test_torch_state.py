"""State of torch that is no variable of Keras: found, undone, restored, saved."""

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._step.state import track
from perigee.checkpoints import arrays_of, objects_of
from perigee.testing import verify_resume

if keras.backend.backend() != "torch":
    pytest.skip("they use torch itself", allow_module_level=True)

import torch

from tests.step.torch_programs import BATCH, PROGRAMS, ROWS, STEPS_A_PASS, data, made

EPOCHS = 2


def state_of(step):
    tracked = track(step)
    return flat({**arrays_of(tracked), **objects_of(tracked)})


def flat(value, path=""):
    """Return nested plain values by path, arrays as bytes: comparable."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for name, item in items for k, v in flat(item, f"{path}/{name}").items()}
    return {path: value.tobytes() if isinstance(value, np.ndarray) else repr(value)}


def by_hand(name, epochs=EPOCHS):
    step, losses = made(name), []
    keras.utils.set_random_seed(6)
    x, y = data()
    for _ in range(epochs):
        for start in range(0, ROWS, BATCH):
            batch = [torch.tensor(array[start : start + BATCH]) for array in (x, y)]
            losses.append(float(step.update(*batch).detach()))
    return step, np.reshape(losses, (epochs, STEPS_A_PASS)).mean(1)


def fit(step, **given):
    given = {"batch_size": BATCH, "shuffle": False, "progress": "off", "epochs": EPOCHS, **given}
    keras.utils.set_random_seed(6)
    return pg.fit(step, data(), **given)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_trains_as_its_own_loop(name):
    step = made(name)
    reference, losses = by_hand(name)

    history = fit(step)

    np.testing.assert_allclose(history.history["loss"], losses, rtol=1e-6)
    found, expected = state_of(step), state_of(reference)
    assert {k for k in expected if found.get(k) != expected[k]} == set()


@pytest.mark.parametrize("name", PROGRAMS)
def test_validation_and_check_change_nothing(name):
    plain, validated = made(name), made(name)
    fit(plain)

    pg.check(validated, data())
    fit(validated, validation=data())

    assert state_of(validated) == state_of(plain)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_run_resumes_bit_for_bit(name):
    given = {"batch_size": BATCH, "validation": data()}

    verify_resume(lambda: made(name), data, steps=2 * STEPS_A_PASS, at=7, arguments=given)
