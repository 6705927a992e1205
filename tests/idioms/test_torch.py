"""Training steps in the idioms of torch, beside the loops that say what is right."""

import os
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import perigee as pg
from tests.idioms import programs
from tests.reliability.processes import run

pytestmark = pytest.mark.only_torch

OPEN: dict[str, str] = {}
"""Programs that do not train as their loop does: what came, and what is right."""

IS_TORCH = keras.backend.backend() == "torch"
PROGRAMS = programs.modules("torch") if IS_TORCH else {}
SAVE_EVERY_STEPS = 2
FEWEST_STEPS = 8  # that a program trains


def cases(still_open: dict[str, str]) -> list:
    assert not IS_TORCH or still_open.keys() <= PROGRAMS.keys()
    marks = {name: pytest.mark.xfail(strict=True, reason=why) for name, why in still_open.items()}
    return [pytest.param(name, marks=marks.get(name, ()), id=name) for name in PROGRAMS]


def minimize(step, objective, optimizer, variables):
    """What `minimize` is documented to do, for models without weight penalties."""
    import torch

    returned = objective()
    loss = returned[0] if isinstance(returned, tuple) else returned
    if isinstance(optimizer, torch.optim.Optimizer):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return returned
    models = keras.tree.flatten([variables])
    updated = [variable for model in models for variable in model.trainable_variables]
    for variable in updated:
        variable.value.grad = None
    loss.backward()
    with torch.no_grad():
        optimizer.apply([variable.value.grad for variable in updated], updated)
    return returned


def by_hand(step, data, *, epochs=1, batch_size=32, validation=None, callbacks=(), **_):
    """Train as `fit` is documented to, by plain calls of the methods of the Step."""
    import torch

    def batches(data):
        data = data() if callable(data) else data
        leaves = keras.tree.flatten(data)
        if not all(isinstance(leaf, np.ndarray) for leaf in leaves):
            yield from data
            return
        for start in range(0, len(leaves[0]), batch_size):
            rows = slice(start, start + batch_size)
            yield keras.tree.map_structure(lambda a, rows=rows: torch.tensor(a[rows]), data)

    def passed(method, data, callbacks=()):
        values, rows = {}, []
        for batch in batches(data):
            rows.append(len(keras.tree.flatten(batch)[0]))
            for name, value in method(batch).items():
                values.setdefault(name, []).append(
                    float(torch.as_tensor(value).detach().double().mean())
                )
            for callback in callbacks:
                callback.on_train_batch_end(len(rows) - 1)
        means = {name: programs.mean(value, rows) for name, value in values.items()}
        for metric in vars(step).values():
            if isinstance(metric, keras.metrics.Metric):
                means[metric.name] = float(metric.result())
                metric.reset_state()
        return means

    history = SimpleNamespace(history={})
    for epoch in range(epochs):
        for callback in callbacks:
            callback.on_epoch_begin(epoch)
        logs = passed(step.train_step, data, callbacks)
        if validation is not None:
            logs |= {f"val_{n}": v for n, v in passed(step.test_step, validation).items()}
        for callback in callbacks:
            callback.on_epoch_end(epoch, logs)
        for name, value in logs.items():
            history.history.setdefault(name, []).append(value)
    return history


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_step_called_by_hand_trains_as_its_loop(name, monkeypatch):
    """A program that fails below fails there alone: it is right where no one but torch runs it."""
    program = PROGRAMS[name]
    monkeypatch.setattr(pg, "fit", by_hand)
    monkeypatch.setattr(pg.Step, "minimize", minimize)
    expected, got = programs.trained(program.plain), programs.trained(program.perigee)
    different = programs.different(expected, got, getattr(program, "WITHIN", 1e-6))
    assert not different, "\n".join(different)


@pytest.mark.parametrize("name", cases(OPEN))
def test_a_step_trains_as_its_loop(name):
    program = PROGRAMS[name]
    if hasattr(program, "REFUSED"):
        with pytest.raises(pg.PerigeeError) as caught:
            programs.trained(program.perigee, progress="off")
        assert caught.value.code == program.REFUSED
        return
    expected = programs.trained(program.plain)
    got = programs.trained(program.perigee, progress="off")
    different = programs.different(expected, got, getattr(program, "WITHIN", 1e-6))
    assert not different, "\n".join(different)


class Kills(keras.callbacks.Callback):
    """Kills its process after a step, as soon as there is a checkpoint of an earlier one."""

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__()
        self.checkpoints, self.steps_left = folder / "checkpoints", step

    def on_train_batch_end(self, batch, logs=None):
        self.steps_left -= 1
        if self.steps_left == 0:
            saved = []
            until = time.monotonic() + 60
            while not saved and time.monotonic() < until:
                time.sleep(0.01)
                saved = [p for p in self.checkpoints.glob("step-*") if int(p.name[5:]) > 0]
            os.kill(os.getpid(), signal.SIGKILL)


def train(name: str, folder: str, kill_after: int | None, result: str) -> None:
    """Train a program with a run, and write what it returns to a file."""
    program = programs.modules("torch")[name]
    callbacks = [] if kill_after is None else [Kills(Path(folder), kill_after)]
    where = pg.Run(folder, save_every=pg.Every(steps=SAVE_EVERY_STEPS))
    values = programs.trained(program.perigee, run=where, callbacks=callbacks, progress="off")
    np.savez(result, **values)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("name", cases(OPEN))
def test_a_killed_training_resumes_bit_for_bit(name, tmp_path):
    program = PROGRAMS[name]
    if hasattr(program, "REFUSED"):
        pytest.skip("refused")
    if hasattr(program, "REFUSED_WITH_A_RUN"):
        with pytest.raises(pg.PerigeeError) as caught:
            train(name, str(tmp_path / "run"), None, str(tmp_path / "none.npz"))
        assert caught.value.code == program.REFUSED_WITH_A_RUN
        assert not list((tmp_path / "run").rglob("*.safetensors"))  # before the first step
        return
    whole, resumed = str(tmp_path / "whole.npz"), str(tmp_path / "resumed.npz")
    train(name, str(tmp_path / "undisturbed"), None, whole)
    folder = str(tmp_path / "killed")
    kill_after = random.Random(name).randrange(SAVE_EVERY_STEPS + 1, FEWEST_STEPS)
    assert run(tmp_path, train, name, folder, kill_after, resumed).was_killed()
    run(tmp_path, train, name, folder, None, resumed).returned()
    with np.load(whole) as expected, np.load(resumed) as got:
        assert sorted(expected) == sorted(got)
        different = [key for key in expected if expected[key].tobytes() != got[key].tobytes()]
    assert not different
