"""Settings of torch's own optimizers, schedulers and modules, changed between two starts."""

import json

import keras
import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import perigee as pg
from perigee._errors import RunChangedError, StateMismatchError

pytestmark = pytest.mark.only_torch

ROWS, BATCH = 48, 8
STEPS = ROWS // BATCH


def data():
    x = np.random.default_rng(0).normal(size=(ROWS, 4)).astype("float32")
    return x, x[:, :1] * 2


class Scaled(nn.Module):
    """A module of one's own, with a setting of its own."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


class Fits(pg.Step):
    """Trains with whatever optimizer and scheduler it is given."""

    def __init__(self, opt, sched=None, p=0.25, factor=1.0, scaler=None, momentum=0.1):
        keras.utils.set_random_seed(3)
        body = (nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=momentum), nn.Dropout(p))
        self.net = nn.Sequential(*body, nn.Linear(8, 1), Scaled(factor))
        self.opt = opt(self.net)
        self.sched = None if sched is None else sched(self.opt)
        self.scaler = None if scaler is None else torch.amp.GradScaler("cpu", **scaler)

    def train_step(self, batch):
        x, y = batch
        loss = ((self.net(x) - y) ** 2).mean()
        self.opt.zero_grad()
        if self.scaler is None:
            loss.backward()
            self.opt.step()
        else:
            self.scaler.scale(loss).backward()
            self.scaler.step(self.opt)
            self.scaler.update()
        if self.sched is not None:
            self.sched.step()
        return {"loss": loss}


def sgd(lr=0.1, momentum=0.5, **more):
    return lambda net: torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum, **more)


def adam(lr=0.01, **more):
    return lambda net: torch.optim.Adam(net.parameters(), lr=lr, **more)


def groups(lr=0.1, body=0.01, split=2):
    def make(net):
        first, rest = list(net.parameters())[:split], list(net.parameters())[split:]
        return torch.optim.SGD([{"params": first, "lr": body}, {"params": rest}], lr=lr)

    return make


def step_lr(step_size=4, gamma=0.5):
    return lambda opt: lr_scheduler.StepLR(opt, step_size, gamma)


def one_cycle(max_lr=0.1, pct_start=0.3):
    return lambda opt: lr_scheduler.OneCycleLR(
        opt, max_lr, total_steps=3 * STEPS, pct_start=pct_start
    )


def chained(first=4, start=0.1):
    def make(opt):
        warm = lr_scheduler.LinearLR(opt, start, total_iters=first)
        after = lr_scheduler.CosineAnnealingLR(opt, 20)
        return lr_scheduler.SequentialLR(opt, [warm, after], [first])

    return make


def train(path, step, epochs=1, on_change="refuse", **more):
    where = pg.Run(path, on_change=on_change)
    given = {"epochs": epochs, "batch_size": BATCH, "shuffle": False, "progress": "off", **more}
    return pg.fit(step, data(), run=where, **given)


def rates(step):
    return [group["lr"] for group in step.opt.param_groups]


CHANGES = {
    "rate": (dict(opt=sgd(0.1)), dict(opt=sgd(0.2)), "step.opt.param_groups[0].lr: 0.1 -> 0.2"),
    "decay": (
        dict(opt=adam(weight_decay=0.1)),
        dict(opt=adam(weight_decay=0.01)),
        "step.opt.param_groups[0].weight_decay: 0.1 -> 0.01",
    ),
    "betas": (
        dict(opt=adam(betas=(0.9, 0.999))),
        dict(opt=adam(betas=(0.9, 0.99))),
        "step.opt.param_groups[0].betas[1]: 0.999 -> 0.99",
    ),
    "a group": (
        dict(opt=groups(body=0.01)),
        dict(opt=groups(body=0.02)),
        "step.opt.param_groups[0].lr: 0.01 -> 0.02",
    ),
    "what is in a group": (
        dict(opt=groups(split=2)),
        dict(opt=groups(split=1)),
        "step.opt.param_groups[0].params: 2 -> 1",
    ),
    "nesterov": (
        dict(opt=sgd()),
        dict(opt=sgd(nesterov=True)),
        "step.opt.param_groups[0].nesterov: False -> True",
    ),
    "a rate in a tensor": (
        dict(opt=adam(lr=torch.tensor(0.5))),
        dict(opt=adam(lr=torch.tensor(0.25))),
        "step.opt.param_groups[0].lr: 0.5 -> 0.25",
    ),
    "step size": (
        dict(opt=sgd(), sched=step_lr(4)),
        dict(opt=sgd(), sched=step_lr(5)),
        "step.sched.step_size: 4 -> 5",
    ),
    "gamma": (
        dict(opt=sgd(), sched=step_lr(gamma=0.5)),
        dict(opt=sgd(), sched=step_lr(gamma=0.1)),
        "step.sched.gamma: 0.5 -> 0.1",
    ),
    "milestones": (
        dict(opt=sgd(), sched=lambda opt: lr_scheduler.MultiStepLR(opt, [2, 5])),
        dict(opt=sgd(), sched=lambda opt: lr_scheduler.MultiStepLR(opt, [2, 6])),
        "step.sched.milestones[5]: 1 -> (none)",
    ),
    "T_max": (
        dict(opt=sgd(), sched=lambda opt: lr_scheduler.CosineAnnealingLR(opt, 10)),
        dict(opt=sgd(), sched=lambda opt: lr_scheduler.CosineAnnealingLR(opt, 20)),
        "step.sched.T_max: 10 -> 20",
    ),
    "max_lr": (
        dict(opt=sgd(), sched=one_cycle(0.1)),
        dict(opt=sgd(), sched=one_cycle(0.2)),
        "step.opt.param_groups[0].max_lr: 0.1 -> 0.2",
    ),
    "pct_start": (
        dict(opt=sgd(), sched=one_cycle(pct_start=0.3)),
        dict(opt=sgd(), sched=one_cycle(pct_start=0.5)),
        "step.sched.schedule_phases[0].end_step: 4.4 -> 8",
    ),
    "schedulers in one": (
        dict(opt=sgd(), sched=chained(4)),
        dict(opt=sgd(), sched=chained(3)),
        "step.sched._schedulers[0].total_iters: 4 -> 3",
    ),
    "scaler": (
        dict(opt=sgd(), scaler=dict(growth_interval=2000)),
        dict(opt=sgd(), scaler=dict(growth_interval=100)),
        "step.scaler.growth_interval: 2000 -> 100",
    ),
    "dropout": (
        dict(opt=sgd(), p=0.25),
        dict(opt=sgd(), p=0.5),
        "step.net[2].p: 0.25 -> 0.5",
    ),
    "batch norm": (
        dict(opt=sgd(), momentum=0.1),
        dict(opt=sgd(), momentum=0.01),
        "step.net[1].momentum: 0.1 -> 0.01",
    ),
    "a module of one's own": (
        dict(opt=sgd(), factor=1.0),
        dict(opt=sgd(), factor=2.0),
        "step.net[4].factor: 1 -> 2",
    ),
    "the class": (
        dict(opt=lambda net: torch.optim.Adam(net.parameters(), lr=0.1)),
        dict(opt=lambda net: torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0)),
        "step.opt: Adam -> AdamW",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_setting_is_refused_as_it_was_and_is_and_the_same_resumes(name, tmp_path):
    before, after, line = CHANGES[name]
    train(tmp_path, Fits(**before))

    with pytest.raises(RunChangedError) as caught:
        train(tmp_path, Fits(**after), epochs=2)

    assert line in caught.value.changes
    for epochs in (2, 3):
        history = train(tmp_path, Fits(**before), epochs)
        assert history.resumed_from.epoch == epochs - 1


def test_a_new_rate_that_is_accepted_holds(tmp_path):
    train(tmp_path, Fits(sgd(0.1)))
    step = Fits(sgd(0.2, momentum=0.25))

    train(tmp_path, step, epochs=2, on_change="accept")

    assert rates(step) == [0.2]
    assert step.opt.param_groups[0]["momentum"] == 0.25
    assert step.opt.state_dict()["state"], "the slots are those of the run"
    train(tmp_path, Fits(sgd(0.2, momentum=0.25)), epochs=3)


def test_a_new_rate_under_a_scheduler_is_what_it_would_be_had_it_been_so_from_the_start(tmp_path):
    """After six steps with a decay every four, it is half the initial rate."""
    train(tmp_path / "run", Fits(sgd(0.1), step_lr(4, 0.5)))
    step, whole = (Fits(sgd(0.2), step_lr(4, 0.5)) for _ in range(2))
    seen, all_of = Rates(step), Rates(whole)

    train(tmp_path / "run", step, 2, "accept", callbacks=[seen])
    train(tmp_path / "whole", whole, 2, callbacks=[all_of])

    assert seen.values == pytest.approx(all_of.values[STEPS:], rel=1e-12)
    assert step.sched.base_lrs == [0.2]


def test_new_settings_of_a_scheduler_hold_from_then_on(tmp_path):
    train(tmp_path, Fits(sgd(0.1), step_lr(4, 0.5)))
    step = Fits(sgd(0.1), step_lr(4, 0.1))

    train(tmp_path, step, 2, "accept")

    assert step.sched.gamma == 0.1
    assert rates(step) == pytest.approx([0.1 * 0.5 * 0.1 * 0.1])  # after steps 4, 8 and 12


def test_what_a_scheduler_has_made_of_a_rate_stays_where_another_setting_changed(tmp_path):
    train(tmp_path, Fits(sgd(0.1), step_lr(4, 0.5)))
    step = Fits(sgd(0.1, weight_decay=0.1), step_lr(100, 0.5))

    train(tmp_path, step, 2, "accept")

    assert rates(step) == [0.05]
    assert step.opt.param_groups[0]["weight_decay"] == 0.1


def test_a_new_one_cycle_ends_as_if_it_had_been_so_from_the_start(tmp_path):
    train(tmp_path / "run", Fits(sgd(), one_cycle(0.1)))
    step, whole = Fits(sgd(), one_cycle(0.02, 0.5)), Fits(sgd(), one_cycle(0.02, 0.5))

    train(tmp_path / "run", step, 2, "accept")
    train(tmp_path / "whole", whole, 2)

    assert rates(step) == pytest.approx(rates(whole), rel=1e-12)


def test_new_settings_of_schedulers_in_one_and_of_a_scaler_hold(tmp_path):
    train(tmp_path, Fits(sgd(), chained(4), scaler=dict(init_scale=8.0, growth_interval=100)))
    step = Fits(sgd(), chained(7), scaler=dict(init_scale=8.0, growth_interval=50))

    train(tmp_path, step, 2, "accept")

    assert step.sched._milestones == [7]
    assert step.sched._schedulers[0].total_iters == 7
    assert step.scaler.get_growth_interval() == 50
    assert step.scaler.get_scale() == 8.0


def test_an_accepted_setting_holds_though_nothing_was_saved_since(tmp_path):
    train(tmp_path, Fits(sgd(0.1)))

    with pytest.raises(RuntimeError, match="died"):
        train(tmp_path, Fits(sgd(0.2)), 2, "accept", callbacks=[Dies()])
    step = Fits(sgd(0.2))
    train(tmp_path, step, 2)

    assert rates(step) == [0.2]


def test_the_state_of_another_class_is_refused_also_where_changes_are_accepted(tmp_path):
    before, after, _ = CHANGES["the class"]
    train(tmp_path, Fits(**before))

    with pytest.raises(StateMismatchError, match="opt: the state of Adam is stored"):
        train(tmp_path, Fits(**after), 2, "accept")


def test_what_training_itself_changes_is_no_change_of_the_program(tmp_path):
    """A scheduler lowers the rate, a callback the dropout: in this process, and in another."""
    step = Fits(sgd(0.1), step_lr(2, 0.5))
    train(tmp_path, step, callbacks=[LessDropout(step.net)])

    train(tmp_path, step, 2, callbacks=[LessDropout(step.net)])
    again = Fits(sgd(0.1), step_lr(2, 0.5))
    history = train(tmp_path, again, 3, callbacks=[LessDropout(again.net)])

    assert history.resumed_from.epoch == 2
    assert rates(again) == [0.1 * 0.5**9]


def test_a_rate_that_the_user_lowers_between_two_trainings_is_a_change(tmp_path):
    step = Fits(sgd(0.1))
    train(tmp_path, step)
    step.opt.param_groups[0]["lr"] = 0.05

    with pytest.raises(RunChangedError, match=r"lr: 0.1 -> 0.05"):
        train(tmp_path, step, 2)
    train(tmp_path, step, 2, "accept")

    assert rates(step) == [0.05]


def test_settings_that_nothing_holds_but_a_scheduler_or_a_private_name_are_compared(tmp_path):
    def make(rate):
        step = Fits(sgd(rate), step_lr())
        del step.opt
        step._kept = step.sched.optimizer
        step.train_step = lambda batch: {"loss": step.net(batch[0]).mean()}
        return step

    train(tmp_path, make(0.1))
    with pytest.raises(RunChangedError, match=r"lr: 0.1 -> 0.2"):
        train(tmp_path, make(0.2), 2)


def test_a_run_of_before_they_were_compared_resumes(tmp_path):
    train(tmp_path, Fits(sgd(0.1), step_lr()))
    facts = json.loads((tmp_path / "run.json").read_text())
    said = facts["compared"]
    del said["versions"]["torch"]
    said["compared"] = {
        path: value
        for path, value in said["compared"].items()
        if not path.startswith(("step.opt", "step.sched", "step.net"))
    }
    (tmp_path / "run.json").write_text(json.dumps(facts))

    assert train(tmp_path, Fits(sgd(0.1), step_lr()), 2).resumed_from.epoch == 1


def test_an_edited_lambda_of_a_scheduler_is_named(tmp_path):
    train(tmp_path, Fits(sgd(), lambda opt: lr_scheduler.LambdaLR(opt, lambda e: 0.95**e)))

    with pytest.warns(pg.PerigeeWarning, match="PG432"):
        train(tmp_path, Fits(sgd(), lambda o: lr_scheduler.LambdaLR(o, lambda e: 0.9**e)), 2)


def test_a_module_within_a_layer_of_keras_is_compared(tmp_path):
    def make(p):
        step = Fits(sgd())
        step.net = keras.layers.TorchModuleWrapper(nn.Sequential(nn.Linear(4, 1), nn.Dropout(p)))
        step.opt = sgd()(step.net)
        return step

    train(tmp_path, make(0.1))
    with pytest.raises(RunChangedError, match=r"\.p: 0.1 -> 0.2"):
        train(tmp_path, make(0.2), 2)
    train(tmp_path, make(0.1), 2)


class Rates(pg.Hook):
    """Collects the rate after each step."""

    every = pg.Every(steps=1)

    def __init__(self, step):
        self.step, self.values = step, []

    def on_steps(self, event):
        self.values.append(rates(self.step)[0])


class Dies(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise RuntimeError("died")


class LessDropout(keras.callbacks.Callback):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def on_epoch_end(self, epoch, logs=None):
        self.net[2].p = 0.1


class StepsScheduler(keras.callbacks.Callback):
    def __init__(self, scheduler):
        super().__init__()
        self.scheduler = scheduler

    def on_train_batch_end(self, batch, logs=None):
        self.scheduler.step()


@pytest.mark.parametrize("is_held", [True, False])
def test_a_scheduler_that_a_callback_steps_is_saved_where_the_step_holds_it(tmp_path, is_held):
    def trained(epochs, path):
        step = Fits(sgd(0.1))
        scheduler = lr_scheduler.StepLR(step.opt, 4, 0.5)
        if is_held:
            step.scheduler = scheduler
        history = train(tmp_path / path, step, epochs, callbacks=[StepsScheduler(scheduler)])
        return step, [f for f in history.findings if f.code == "PG430"]

    _, found = trained(1, "run")
    resumed, _ = trained(2, "run")
    whole, _ = trained(2, "whole")

    assert len(found) == (0 if is_held else 1)
    assert (rates(resumed) == rates(whole)) == is_held
    if found:
        assert "StepsScheduler.scheduler: it has a state of its own" in str(found[0].items)
