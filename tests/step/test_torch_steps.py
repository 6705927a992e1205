"""Steps written as plain loops of torch: each beside its loop, whose numbers it must have."""

from __future__ import annotations

import gc
import warnings
import weakref
from types import SimpleNamespace
from typing import ClassVar

import keras
import numpy as np
import pytest
from keras import layers

import perigee as pg

if keras.backend.backend() != "torch":
    pytest.skip("they use torch itself", allow_module_level=True)

import torch
import torch.nn.functional as F

ROWS, BATCH, FEATURES, CLASSES = 40, 16, 6, 3  # the last batch is smaller
RATE = 0.1

X = np.random.default_rng(0).normal(size=(ROWS, FEATURES)).astype("float32")
Y = X[:, :CLASSES].argmax(axis=1).astype("int64")


def network(*more, seed=0):
    keras.utils.set_random_seed(seed)
    inner = [layers.Dense(8, activation="tanh", name="hidden"), *more]
    return keras.Sequential([keras.Input((FEATURES,)), *inner, layers.Dense(CLASSES, name="head")])


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=RATE)


def batches():
    for first in range(0, ROWS, BATCH):
        yield torch.as_tensor(X[first : first + BATCH]), torch.as_tensor(Y[first : first + BATCH])


def fit(step, **given):
    given = {"batch_size": BATCH, "shuffle": False, "progress": "off", **given}
    return pg.fit(step, (X, Y), **given)


def loss_of(model, batch, training=True):
    return F.cross_entropy(model(batch[0], training=training), batch[1])


# Programs: a function of what stands around the loop and a batch, which returns the loss.


def usual(s, batch):
    loss = loss_of(s.model, batch)
    s.opt.zero_grad()
    loss.backward()
    s.opt.step()
    return loss


def zeroed_at_the_end(s, batch):
    loss = loss_of(s.model, batch)
    loss.backward()
    s.opt.step()
    s.model.zero_grad()
    return loss


def clipped(s, batch):
    s.opt.zero_grad(set_to_none=False)
    loss = loss_of(s.model, batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(s.model.parameters(), 0.1)
    s.opt.step()
    return loss


def by_grad(s, batch):
    loss = loss_of(s.model, batch)
    values = [v.value for v in s.model.trainable_variables]
    for value, gradient in zip(values, torch.autograd.grad(loss, values), strict=True):
        value.grad = gradient
    s.opt.step()
    return loss


def by_hand(s, batch):
    loss = loss_of(s.model, batch)
    loss.backward()
    with torch.no_grad():
        for value in s.model.parameters():
            value -= RATE * value.grad
            value.grad = None
    return loss


def with_closure(s, batch):
    def closure():
        s.opt.zero_grad()
        loss = loss_of(s.model, batch)
        loss.backward()
        return loss

    return s.opt.step(closure)


def summed_over_two_batches(s, batch):
    loss = loss_of(s.model, batch)
    (loss / 2).backward()
    s.seen += 1
    if s.seen % 2 == 0:
        s.opt.step()
        s.opt.zero_grad()
    return loss


def adversarial(s, batch):
    x = batch[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss_of(s.model, (x, batch[1])), x)
    moved = (x + 0.1 * slope.sign()).detach()
    loss = loss_of(s.model, (moved, batch[1]))
    s.opt.zero_grad()
    loss.backward()
    s.opt.step()
    return loss


def penalized(s, batch):
    x = batch[0].clone().requires_grad_()
    y_pred = s.model(x, training=True)
    (slope,) = torch.autograd.grad(y_pred.sum(), x, create_graph=True)
    loss = F.cross_entropy(y_pred, batch[1]) + slope.square().mean()
    s.opt.zero_grad()
    loss.backward()
    s.opt.step()
    return loss


def hidden_backward(s, batch):
    loss = loss_of(s.model, batch)
    s.opt.zero_grad()
    getattr(loss, "".join(("back", "ward")))()  # as in code of others, which is not read
    s.opt.step()
    return loss


def of_keras_and_torch(s, batch):
    loss = loss_of(s.model, batch)
    s.model.zero_grad()
    loss.backward()
    hidden = s.model.get_layer("hidden").trainable_variables
    s.keras_sgd.apply([v.value.grad for v in hidden], hidden)
    s.of_head.step()
    return loss


def in_half_precision(s, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y_pred = s.model(batch[0], training=True)
    loss = F.cross_entropy(y_pred.float(), batch[1])
    s.opt.zero_grad()
    loss.backward()
    s.opt.step()
    return loss


PROGRAMS = [
    usual,
    zeroed_at_the_end,
    clipped,
    by_grad,
    by_hand,
    with_closure,
    summed_over_two_batches,
    adversarial,
    penalized,
    hidden_backward,
    of_keras_and_torch,
    in_half_precision,
]


def parts(*more):
    model = network(*more)
    head = [v.value for v in model.get_layer("head").trainable_variables]
    return {
        "model": model,
        "opt": sgd(model),
        "of_head": torch.optim.SGD(head, lr=RATE),
        "keras_sgd": keras.optimizers.SGD(RATE),
        "seen": 0,
    }


class Plain(pg.Step):
    """Runs a program as its `train_step`, and keeps its losses in a metric."""

    def __init__(self, program, **held):
        vars(self).update(held)
        self.program = program
        self.mean = keras.metrics.Mean(name="of_metric")

    def train_step(self, batch):
        loss = self.program(self, batch)
        self.mean.update_state(loss)
        return {"loss": loss}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.filterwarnings("ignore::perigee.PerigeeWarning")
def test_a_step_trains_as_the_plain_loop(program):
    plain = SimpleNamespace(**parts())
    losses = [float(program(plain, batch).detach()) for _ in range(2) for batch in batches()]
    step = Plain(program, **parts())

    history = fit(step, epochs=2).history

    rows = [len(y) for _, y in batches()]
    means = [np.average(part, weights=rows) for part in np.reshape(losses, (2, len(rows)))]
    np.testing.assert_allclose(history["loss"], means, rtol=1e-6)
    np.testing.assert_allclose(history["of_metric"][-1], np.mean(losses[3:]), rtol=1e-6)
    for ours, theirs in zip(step.model.get_weights(), plain.model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


def test_a_check_leaves_no_trace_and_finds_nothing_wrong():
    step = Plain(usual, **parts())
    before = step.model.get_weights()

    report = pg.check(step, (X[:BATCH], Y[:BATCH]))

    assert not [finding for finding in report if finding.severity != "hint"]
    assert all(np.array_equal(a, b) for a, b in zip(before, step.model.get_weights(), strict=True))
    assert [value.grad for value in step.model.parameters()] == [None] * 4


# Which methods are recorded.


class Watched(pg.Step):
    """Keeps whether torch recorded each of its methods."""

    def __init__(self):
        self.model = network()
        self.optimizer = keras.optimizers.SGD(RATE)
        self.was = set()

    def noted(self, method):
        self.was.add((method, torch.is_grad_enabled()))

    def train_step(self, batch):
        self.noted("train")
        return {"loss": self.minimize(lambda: loss_of(self.model, batch), self.optimizer)}

    def test_step(self, batch):
        self.noted("test")
        return {"loss": loss_of(self.model, batch, training=False)}


class Attacked(Watched):
    def test_step(self, batch):
        self.noted("test")
        x = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss_of(self.model, (x, batch[1]), training=False), x)
        return {"loss": loss_of(self.model, (x + 0.1 * slope.sign(), batch[1]), training=False)}

    def predict_step(self, batch):
        x = batch[0].clone().requires_grad_()
        self.model(x).sum().backward()
        return x.grad


def test_only_methods_that_take_gradients_themselves_are_recorded():
    light, attacked, by_hand = Watched(), Attacked(), Plain(usual, **parts())
    seen = []
    by_hand.program = lambda s, batch: (seen.append(torch.is_grad_enabled()), usual(s, batch))[1]

    for step in (light, attacked):
        fit(step, validation=(X, Y))
    fit(by_hand)

    assert light.was == {("train", False), ("test", False)}
    assert attacked.was == {("train", False), ("test", True)}
    assert set(seen) == {True}


def test_a_forward_pass_outside_the_objective_is_still_refused():
    class Outside(Watched):
        def train_step(self, batch):
            y_pred = self.model(batch[0], training=True)
            return {
                "loss": self.minimize(lambda: F.cross_entropy(y_pred, batch[1]), self.optimizer)
            }

    with pytest.raises(pg.PerigeeError, match="PG101"):
        fit(Outside())


def test_gradients_of_inputs_are_taken_in_evaluations_and_predictions():
    step = Attacked()
    model, losses = network(), []
    for x, y in batches():
        x.requires_grad_()
        (slope,) = torch.autograd.grad(loss_of(model, (x, y), training=False), x)
        losses.append(loss_of(model, (x + 0.1 * slope.sign(), y), training=False).item())
    inputs = torch.as_tensor(X).requires_grad_()
    model(inputs).sum().backward()

    logs = pg.evaluate(step, (X, Y), batch_size=BATCH)
    slopes = pg.predict(step, (X, Y), batch_size=BATCH)

    rows = [len(y) for _, y in batches()]
    np.testing.assert_allclose(logs["loss"], np.average(losses, weights=rows), rtol=1e-6)
    np.testing.assert_allclose(slopes, inputs.grad, rtol=1e-5, atol=1e-7)
    assert [value.grad for value in step.model.parameters()] == [None] * 4


# Memory.


class _Mark:
    pass


class _Marked(torch.autograd.Function):
    """The identity; its node in the graph keeps an object whose life can be watched."""

    alive: ClassVar = weakref.WeakSet()

    @staticmethod
    def forward(ctx, x):
        ctx.mark = _Mark()
        _Marked.alive.add(ctx.mark)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, slope):
        return slope


def test_nothing_that_is_returned_or_logged_keeps_a_graph():
    class Marking(pg.Step):
        def __init__(self):
            self.model = network()
            self.opt = sgd(self.model)
            self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
            self.most = 0

        def train_step(self, batch):
            gc.collect()
            self.most = max(self.most, len(_Marked.alive))
            y_pred = _Marked.apply(self.model(batch[0], training=True))
            losses = F.cross_entropy(y_pred, batch[1], reduction="none")
            self.opt.zero_grad()
            losses.mean().backward()
            self.opt.step()
            self.accuracy.update_state(batch[1], y_pred)
            return {"loss": losses, "mean": pg.mean(losses), "scaled": losses.mean() * 2}

    step = Marking()

    fit(step, epochs=3)
    gc.collect()

    assert step.most == 0
    assert len(_Marked.alive) == 0


def test_predictions_have_no_graph():
    class Predicting(Attacked):
        def predict_step(self, batch):
            slopes = super().predict_step(batch)
            return {"slopes": slopes, "outputs": self.model(batch[0])}

    with pg.prepare(Predicting(), progress="off") as trainer:
        predicted = trainer.predict_step((X, Y))

    assert [tensor.requires_grad for tensor in predicted.values()] == [False, False]


# Frozen parameters.


class Minimizing(pg.Step):
    def __init__(self, model):
        self.model, self.optimizer = model, keras.optimizers.SGD(RATE)

    def train_step(self, batch):
        return {
            "loss": self.minimize(lambda: loss_of(self.model, batch), self.optimizer, self.model)
        }


def frozen_layer():
    model = network()
    model.get_layer("hidden").requires_grad_(False)
    return model, model.get_layer("hidden")


def wrapped(is_frozen_before):
    module = torch.nn.Linear(8, 8)
    if is_frozen_before:
        module.requires_grad_(False)
    wrapper = layers.TorchModuleWrapper(module, output_shape=(None, 8))
    model = network(wrapper)
    if not is_frozen_before:
        module.requires_grad_(False)
    return model, wrapper


@pytest.mark.parametrize(
    "make",
    [frozen_layer, lambda: wrapped(True), lambda: wrapped(False)],
    ids=["of Keras", "before wrapping", "after wrapping"],
)
def test_parameters_that_torch_freezes_stay_as_they_are(make):
    model, frozen = make()
    before, head = frozen.get_weights(), model.get_layer("head").get_weights()
    step = Minimizing(model)

    history = fit(step)

    assert all(np.array_equal(a, b) for a, b in zip(before, frozen.get_weights(), strict=True))
    assert not np.array_equal(head[0], model.get_layer("head").get_weights()[0])
    assert not history.findings
    assert not any(value.requires_grad for value in frozen.parameters())


def test_a_layer_that_is_unfrozen_between_two_trainings_learns():
    model, frozen = frozen_layer()
    step = Minimizing(model)
    step.optimizer.build(model.trainable_variables)
    fit(step)
    before = frozen.get_weights()[0]

    frozen.requires_grad_(True)
    fit(step)

    assert not np.array_equal(before, frozen.get_weights()[0])


# Training and inference mode.


class Modes(pg.Step):
    """Holds modules of torch, bare and inside a layer of Keras; keeps their modes."""

    def __init__(self, training=None):
        self.bare = torch.nn.Sequential(torch.nn.BatchNorm1d(FEATURES), torch.nn.Dropout(0.5))
        self.bare[0].eval()  # for good
        self.inner = torch.nn.Dropout(0.5)
        self.model = network(layers.TorchModuleWrapper(self.inner, output_shape=(None, 8)))
        self.optimizer = keras.optimizers.SGD(RATE)
        self.training, self.seen = training, {}

    def run(self, method, batch, **given):
        y_pred = self.model(self.bare(batch[0]), **given)
        self.seen[method] = [m.training for m in (*self.bare, self.inner)]
        return F.cross_entropy(y_pred, batch[1])

    def train_step(self, batch):
        objective = lambda: self.run("train", batch, training=True)  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, self.model)}

    def test_step(self, batch):
        return {
            "loss": self.run(
                "test", batch, **({} if self.training is None else {"training": False})
            )
        }

    def predict_step(self, batch):
        return self.run("predict", batch) + torch.zeros(len(batch[0]))


@pytest.mark.parametrize("training", [None, False])
@pytest.mark.filterwarnings("ignore::perigee.PerigeeWarning")
def test_modules_are_in_inference_mode_in_evaluations_and_then_as_they_were(training):
    step = Modes(training)

    fit(step, validation=(X, Y), epochs=2)
    pg.predict(step, (X, Y))

    assert step.seen["train"] == [False, True, True]
    assert step.seen["test"] == step.seen["predict"] == [False, False, False]
    assert [m.training for m in (*step.bare, step.inner)] == [False, True, True]


# What is named or refused.


def findings(step, code):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = fit(step)
    return [finding for finding in history.findings if finding.code == code]


def test_an_optimizer_without_gradients_is_named():
    def forgetful(s, batch):
        loss = loss_of(s.model, batch)
        s.opt.zero_grad()
        s.opt.step()
        return loss

    (found,) = findings(Plain(forgetful, **parts()), "PG101")

    assert "`opt.step()`" in found.happened
    assert "loss.backward()" in found.fix
    quiet = Plain(forgetful, **parts())
    quiet.ignore_findings = ("PG101",)
    assert not findings(quiet, "PG101")


def test_a_backward_without_an_update_is_named():
    def forgetful(s, batch):
        loss = loss_of(s.model, batch)
        s.opt.zero_grad()
        loss.backward()
        return loss

    held = parts()
    del held["keras_sgd"]

    (found,) = findings(Plain(forgetful, **held), "PG112")

    assert "`optimizer.step()` after `loss.backward()`" in found.fix


def test_parameters_without_a_gradient_are_named():
    def partly(s, batch):
        with torch.no_grad():
            hidden = s.model.get_layer("hidden")(batch[0])
        loss = F.cross_entropy(s.model.get_layer("head")(hidden), batch[1])
        s.opt.zero_grad()
        loss.backward()
        s.opt.step()
        return loss

    (found,) = findings(Plain(partly, **parts()), "PG101")

    assert set(found.items) == {"model/hidden/kernel", "model/hidden/bias"}


class Beside(Minimizing):
    """Has parameters beside its model."""

    def __init__(self):
        super().__init__(network())
        self.net = torch.nn.Linear(FEATURES, FEATURES)
        self.extra = {"temperature": torch.nn.Parameter(torch.ones(()))}

    def objective(self, batch):
        y_pred = self.model(self.net(batch[0]), training=True) * self.extra["temperature"]
        return F.cross_entropy(y_pred, batch[1])

    def train_step(self, batch):
        objective = lambda: self.objective(batch)  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, self.model)}


class BesideByHand(Beside):
    def __init__(self):
        super().__init__()
        del self.optimizer
        self.opt = sgd(self.model)

    def train_step(self, batch):
        loss = self.objective(batch)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return {"loss": loss}


@pytest.mark.parametrize("make", [Beside, BesideByHand])
def test_parameters_that_no_optimizer_has_are_named(make):
    (found,) = findings(make(), "PG110")

    assert set(found.items) == {"extra/temperature", "net/weight", "net/bias"}


@pytest.mark.parametrize("make", [Beside, BesideByHand])
def test_parameters_are_not_named_if_they_are_frozen_or_an_optimizer_has_them(make):
    frozen, with_optimizer = make(), make()
    for parameter in [*frozen.net.parameters(), frozen.extra["temperature"]]:
        parameter.requires_grad_(False)
    others = [*with_optimizer.net.parameters(), with_optimizer.extra["temperature"]]
    with_optimizer.other = torch.optim.SGD(others, lr=RATE)

    assert not findings(frozen, "PG110")
    assert not findings(with_optimizer, "PG110")


def by_backward_and_keras(s, batch):
    loss = loss_of(s.model, batch)
    s.model.zero_grad()
    loss.backward()
    weights = s.model.trainable_variables
    s.keras_sgd.apply([v.value.grad for v in weights], weights)
    return loss


@pytest.mark.parametrize("program", [usual, by_hand, by_backward_and_keras, with_closure])
def test_a_backward_of_its_own_is_not_accumulated(program):
    with pytest.raises(pg.PerigeeError, match=r"PG209(.|\n)*self\.minimize"):
        fit(Plain(program, **parts()), accumulate=2)


def test_gradients_of_inputs_do_not_forbid_to_accumulate():
    class Robust(Minimizing):
        def train_step(self, batch):
            x = batch[0].clone().requires_grad_()
            loss_of(self.model, (x, batch[1])).backward()
            moved = (x + 0.1 * x.grad.sign()).detach()
            objective = lambda: loss_of(self.model, (moved, batch[1]))  # noqa: E731
            return {"loss": self.minimize(objective, self.optimizer, self.model)}

    assert np.isfinite(fit(Robust(network()), accumulate=2).history["loss"]).all()


def test_an_optimizer_of_torch_given_to_minimize_is_refused_with_the_lines_to_write():
    class Mixed(pg.Step):
        def __init__(self):
            self.model = network()
            self.opt = torch.optim.Adam(self.model.parameters(), lr=0.01)

        def train_step(self, batch):
            return {"loss": self.minimize(lambda: loss_of(self.model, batch), self.opt)}

    lines = r"`self\.opt\.zero_grad\(\)`, `loss\.backward\(\)` and `self\.opt\.step\(\)`"
    with pytest.raises(pg.PerigeeError, match=rf"{lines}(.|\n)*keras\.optimizers\.Adam\(0\.01\)"):
        fit(Mixed())


def test_a_module_of_torch_given_to_minimize_is_refused_with_the_line_to_write():
    step = Minimizing(network())
    step.model = torch.nn.Linear(FEATURES, CLASSES)
    step.train_step = lambda batch: {  # a module of torch knows no `training`
        "loss": step.minimize(
            lambda: F.cross_entropy(step.model(batch[0]), batch[1]), step.optimizer, step.model
        )
    }

    with pytest.raises(pg.PerigeeError, match=r"PG107(.|\n)*TorchModuleWrapper\(module\)"):
        fit(step)


def test_what_was_not_recorded_is_explained():
    def detached(s, batch):
        loss_of(s.model, batch).detach().backward()

    with pytest.raises(RuntimeError, match="does not require grad") as raised:
        fit(Plain(detached, **parts()))

    assert any("`detach()`" in note for note in raised.value.__notes__)


def every_second(s, batch):
    s.count = getattr(s, "count", 0) + 1
    loss = loss_of(s.model, batch)
    (loss / 2).backward()
    if s.count % 2 == 0:
        s.opt.step()
        s.opt.zero_grad()
    return loss


def gradients(step):
    return [None if p.grad is None else p.grad.clone() for p in step.model.parameters()]


def bits(step):
    return [value.tobytes() for value in step.model.get_weights()]


def test_gradients_that_wait_are_in_the_checkpoint(tmp_path):
    """Each epoch has three steps, so that the gradient of one waits at its end."""
    whole, first, resumed = (Plain(every_second, **parts()) for _ in range(3))
    fit(whole, epochs=2, run=pg.Run(tmp_path / "whole"))

    fit(first, epochs=1, run=pg.Run(tmp_path / "run"))
    assert all(gradient is not None for gradient in gradients(first))
    history = fit(resumed, epochs=2, run=pg.Run(tmp_path / "run"))

    assert history.resumed_from.epoch == 1
    assert not [f for f in history.findings if f.code == "PG430"]
    assert bits(whole) == bits(resumed)


def test_gradients_that_wait_survive_what_is_only_tried():
    whole, looked_at = Plain(every_second, **parts()), Plain(every_second, **parts())
    looked_at.test_step = lambda batch: {"loss": loss_of(looked_at.model, batch, training=False)}
    fit(whole, epochs=2)

    fit(looked_at, epochs=1)
    waiting = gradients(looked_at)
    pg.check(looked_at, (X, Y))
    pg.evaluate(looked_at, (X, Y))

    assert all(map(torch.equal, waiting, gradients(looked_at)))
    fit(looked_at, epochs=1)
    assert bits(whole) == bits(looked_at)
