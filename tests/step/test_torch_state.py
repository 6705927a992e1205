"""State of torch that is no variable of Keras: found, undone, restored, saved."""

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._errors import StoredStateError
from perigee._step.state import track
from perigee.checkpoints import Checkpoints, arrays_of
from perigee.checkpoints.state import load_objects, objects_of
from perigee.testing import verify_resume

if keras.backend.backend() != "torch":
    pytest.skip("they use torch itself", allow_module_level=True)

import torch

from tests.reliability.processes import run as run_apart
from tests.step.torch_programs import (
    BATCH,
    FEATURES,
    PROGRAMS,
    ROWS,
    STEPS_A_PASS,
    Program,
    data,
    function,
    made,
    net,
)
from tests.step.torch_training import train

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


def test_what_a_function_rebinds_is_its_state():
    x, y = data()
    by_hand = function()
    shown = [
        by_hand(torch.tensor(x[start : start + BATCH]), torch.tensor(y[start : start + BATCH]))
        for start in range(0, ROWS, BATCH)
    ]

    history = pg.fit(function(), (x, y), batch_size=BATCH, shuffle=False, progress="off").history

    for name, values in history.items():
        if name != "learning_rate":
            expected = np.mean([float(logs[name]) for logs in shown])
            np.testing.assert_allclose(values, [expected], rtol=1e-6)


def test_a_function_resumes_bit_for_bit():
    make = lambda: pg.FunctionStep(function())  # noqa: E731

    verify_resume(make, data, steps=2 * STEPS_A_PASS, at=7, arguments={"batch_size": BATCH})


class Transition:
    """An object that no checkpoint can hold."""


class Replay(Program):
    def __init__(self):
        self.net = net()
        self.optimizer = torch.optim.SGD(self.net.parameters(), 0.1)
        self.replay = []

    def update(self, x, y):
        self.replay.append(Transition())
        return self.descend(torch.nn.functional.cross_entropy(self.net(x), y))


class SavedReplay(Replay):
    def host_state(self):
        return {"length": len(self.replay)}

    def load_host_state(self, state):
        self.replay = [Transition() for _ in range(state["length"])]


def test_a_state_that_cannot_be_saved_is_refused_before_the_first_step(tmp_path):
    step = Replay()
    before = [p.clone() for p in step.net.parameters()]

    with pytest.raises(pg.PerigeeError, match=r"PG525(.|\n)*replay/0 is a Transition"):
        fit(step, run=tmp_path / "run")

    assert step.replay == []
    assert all(map(torch.equal, before, step.net.parameters()))
    assert len(fit(Replay()).history["loss"]) == EPOCHS  # without a run nothing is saved


class LateReplay(Replay):
    """What cannot be saved comes in the second epoch."""

    def __init__(self, is_mended=False):
        keras.utils.set_random_seed(0)
        super().__init__()
        self.calls, self._is_mended = 0, is_mended

    def update(self, x, y):
        self.calls += 1
        if self.calls > STEPS_A_PASS and not self._is_mended:
            return super().update(x, y)
        return self.descend(torch.nn.functional.cross_entropy(self.net(x), y))


def test_what_comes_later_and_cannot_be_saved_loses_no_step(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(pg.PerigeeError, match=r"PG525(.|\n)*replay/0 is a Transition"):
        fit(LateReplay(), run=run)
    mended, whole = LateReplay(is_mended=True), LateReplay(is_mended=True)

    with pytest.warns(RuntimeWarning, match="no checkpoint could hold replay/0"):
        history = fit(mended, run=run, epochs=EPOCHS + 1)
    fit(whole, run=tmp_path / "whole", epochs=EPOCHS + 1)

    assert history.resumed_from.step == 2 * STEPS_A_PASS
    assert mended.calls == whole.calls == (EPOCHS + 1) * STEPS_A_PASS
    assert all(map(torch.equal, mended.net.parameters(), whole.net.parameters()))


def test_a_guard_that_runs_steps_again_changes_no_batch_of_the_users():
    class Halve(Replay):
        calls = 0

        def update(self, x, y):
            x.mul_(0.5)
            self.calls += 1
            loss = self.descend(torch.nn.functional.cross_entropy(self.net(x), y))
            return loss / (self.calls < 3)  # infinite in the third step

    batches = [(torch.ones(BATCH, FEATURES), torch.zeros(BATCH).long()) for _ in range(4)]
    with pytest.raises(pg.PerigeeError, match="PG408"):
        pg.fit(Halve(), batches, epochs=1, progress="off")

    assert [batch[0][0, 0].item() for batch in batches] == [0.5, 0.5, 0.5, 0.5]


def test_what_host_state_returns_need_not_be_savable_otherwise(tmp_path):
    fit(SavedReplay(), epochs=1, run=tmp_path / "run")
    resumed = SavedReplay()

    fit(resumed, run=tmp_path / "run")

    assert len(resumed.replay) == EPOCHS * STEPS_A_PASS


def test_a_run_of_other_objects_is_refused(tmp_path):
    fit(made("OneCycle"), epochs=1, run=tmp_path / "run")
    other = made("OneCycle")
    del other.schedule
    other.update = lambda x, y: other.descend(torch.nn.functional.cross_entropy(other.net(x), y))

    with pytest.raises(pg.PerigeeError, match="schedule"):
        fit(other, run=tmp_path / "run")


class Global(Program):
    def __init__(self):
        self.net = net()

    def update(self, x, y):
        loss = torch.nn.functional.cross_entropy(self.net(x), y)
        OPTIMIZERS[0].zero_grad()
        loss.backward()
        OPTIMIZERS[0].step()
        return loss


OPTIMIZERS = []


def test_an_optimizer_that_the_step_does_not_hold_is_refused():
    step = Global()
    OPTIMIZERS[:] = [torch.optim.SGD(step.net.parameters(), 0.1, momentum=0.9)]
    with pytest.raises(pg.PerigeeError, match=r"PG111(.|\n)*torch's SGD"):
        fit(step)
    OPTIMIZERS[:] = [torch.optim.SGD(net().parameters(), 0.1)]
    with pytest.raises(pg.PerigeeError, match=r"PG111(.|\n)*4 of 4 parameters of torch's SGD"):
        fit(step)


def test_a_batch_changed_in_place_stays_as_the_loader_gives_it():
    class Halve(pg.Step):
        def train_step(self, batch):
            return {"mean": batch[0].mul_(0.5).mean()}

        def test_step(self, batch):
            return {"mean": batch[0].mul_(0.5).mean()}

    def batches():
        return [(torch.ones(BATCH, FEATURES),) for _ in range(3)]

    rows = torch.utils.data.TensorDataset(torch.ones(3 * BATCH, FEATURES))
    for given in (batches, torch.utils.data.DataLoader(rows, BATCH)):
        assert pg.fit(Halve(), given, epochs=2, progress="off").history["mean"] == [0.5, 0.5]
        assert pg.evaluate(Halve(), given) == {"mean": 0.5}


@pytest.mark.process
@pytest.mark.parametrize("name", ["OneCycle", "PythonState", "Averaged"])
def test_a_killed_run_ends_as_one_that_was_not(name, tmp_path):
    kill_at = int(np.random.default_rng(sum(map(ord, name))).integers(3, 17))

    run_apart(tmp_path, train, name, str(tmp_path / "straight"), None).returned()
    assert run_apart(tmp_path, train, name, str(tmp_path / "killed"), kill_at).was_killed()
    run_apart(tmp_path, train, name, str(tmp_path / "killed"), None).returned()

    ends = [
        Checkpoints(tmp_path / run / "checkpoints").load("newest").content
        for run in ("straight", "killed")
    ]
    assert ends[0].clock == ends[1].clock
    states = [flat({"arrays": dict(e.arrays), "objects": e.facts["objects"]}) for e in ends]
    assert states[0] == states[1]


class Holding(keras.layers.Layer):
    """A layer that holds a module: Keras sorts its parameters by names that it generates."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(*[torch.nn.Linear(FEATURES, FEATURES) for _ in range(4)])

    def call(self, x):
        return self.net(x)


class OfHolding(pg.Step):
    def __init__(self, optimizer, variables_before):
        keras.utils.clear_session()
        for _ in range(variables_before):
            keras.Variable(0.0)  # which takes one of the names
        keras.utils.set_random_seed(0)
        self.model = keras.Sequential([keras.Input((FEATURES,)), Holding()])
        self.optimizer = optimizer(self.model.parameters())

    def train_step(self, batch):
        x, _ = batch

        def closure():
            self.optimizer.zero_grad()
            loss = ((self.model(x) - x.roll(1, 1)) ** 2).mean()
            loss.backward()
            return loss

        return {"loss": self.optimizer.step(closure)}


def places(step):
    """Return the places of a model's parameters among its variables."""
    variables = [id(v.value) for v in step.model.variables]
    return [variables.index(id(p)) for p in step.model.parameters()]


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "Adafactor"])
def test_slots_stay_at_their_parameters_whatever_their_order_is(tmp_path, optimizer):
    def step(variables_before):
        more = {"momentum": 0.9} if optimizer == "SGD" else {}
        return OfHolding(
            lambda p: getattr(torch.optim, optimizer)(p, 0.01, **more), variables_before
        )

    def trained(step, epochs, run=None):
        fit(step, epochs=epochs, run=run)
        return [np.asarray(v) for v in step.model.get_weights()]

    trained(step(1), 1, pg.Run(tmp_path))
    resumed = trained(step(6), 2, pg.Run(tmp_path))

    assert places(step(1)) != places(step(6))
    for found, expected in zip(resumed, trained(step(1), 2), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_slots_that_join_parameters_are_refused_in_another_order():
    steps = [OfHolding(torch.optim.LBFGS, before) for before in (1, 6)]
    x = torch.ones(4, FEATURES)
    said = objects_of(track(steps[0]))
    load_objects(track(steps[1]), said)  # it holds nothing yet
    steps[0].train_step((x, None))

    load_objects(track(steps[0]), objects_of(track(steps[0])))
    with pytest.raises(StoredStateError, match="in another order"):
        load_objects(track(steps[1]), objects_of(track(steps[0])))
