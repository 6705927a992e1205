"""Training steps as users of JAX write them, each beside its plain loop."""

import importlib
import os
import random
import re
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest

import perigee as pg
from tests.reliability.processes import run

NAMES = sorted(path.stem for path in Path(__file__).with_name("jax").glob("*.py"))

OPEN: dict[str, str] = {}
"""Programs that do not train: what came, and what is right."""

OPEN_NUMBERS: dict[str, str] = {}
"""Programs that train to other numbers."""

OPEN_KILLED: dict[str, str] = {}
"""Programs that do not resume as if they had not been killed."""

pytestmark = pytest.mark.only_jax


def program(name):
    return importlib.import_module(f"tests.idioms.jax.{name}")


def known(*tables):
    """Mark the programs in these tables as expected to fail."""
    for name in NAMES:
        reasons = [table[name] for table in tables if name in table]
        marks = [pytest.mark.xfail(reason=reasons[0], strict=True)] if reasons else []
        yield pytest.param(name, marks=marks)


@pytest.mark.spread(12)
@pytest.mark.parametrize("name", list(known(OPEN, OPEN_NUMBERS)))
def test_a_step_trains_like_the_plain_loop(name):
    module = program(name)
    refused = getattr(module, "REFUSED", None)
    if refused is not None:
        with pytest.raises(pg.PerigeeError) as caught:
            module.perigee()
        assert caught.value.code == refused
        return
    expected = module.plain()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", pg.PerigeeWarning)
        actual = module.perigee()
    assert actual.keys() == expected.keys()
    within = getattr(module, "WITHIN", 1e-6)  # of each number, and of the largest in its array
    for key, value in expected.items():
        value = np.asarray(value)
        scale = float(np.max(np.abs(value), initial=0.0))
        np.testing.assert_allclose(
            actual[key], value, rtol=within, atol=within * scale, err_msg=key
        )
    found = {
        re.findall(r"PG\d+", str(warning.message))[0]
        for warning in caught
        if issubclass(warning.category, pg.PerigeeWarning)
    }
    assert found == set(getattr(module, "FINDS", ()))


class Count(pg.Hook):
    def on_end(self, event):
        self.steps = event.clock.step


class KillAt(pg.Hook):
    def __init__(self, step):
        self.every = pg.Every(steps=step)

    def on_steps(self, event):
        os.kill(os.getpid(), signal.SIGKILL)


def train(name, path, kill_at=None):
    """Train a program with a run; return its numbers as bytes, and its steps."""
    hook = Count() if kill_at is None else KillAt(kill_at)
    saves = pg.Run(path, save_every=pg.Every(steps=1))
    result = program(name).perigee(run=saves, callbacks=[hook])
    arrays = {key: np.asarray(value) for key, value in result.items()}
    shown = {k: [str(a.dtype), a.shape, a.tobytes().hex()] for k, a in arrays.items()}
    return {"numbers": shown, "steps": hook.steps}


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("name", list(known(OPEN, OPEN_KILLED)))
def test_a_killed_training_resumes_bit_for_bit(name, tmp_path):
    if hasattr(program(name), "REFUSED"):
        pytest.skip("it is refused before the first step")
    whole = run(tmp_path, train, name, str(tmp_path / "whole")).returned()
    kill_at = random.Random(name).randrange(1, whole["steps"])
    path = str(tmp_path / "killed")
    assert run(tmp_path, train, name, path, kill_at).was_killed()
    resumed = run(tmp_path, train, name, path).returned()
    assert resumed["steps"] == whole["steps"]
    held = whole["numbers"].keys() - set(getattr(program(name), "OUTSIDE", ()))
    differing = [key for key in held if resumed["numbers"][key] != whole["numbers"][key]]
    assert differing == []
