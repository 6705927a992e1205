"""Functions of hand-written loops on torch, unchanged, train in `fit` as in their own loops."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

import perigee as pg
from perigee.testing import verify_resume

if keras.backend.backend() != "torch":
    pytest.skip("they use torch itself", allow_module_level=True)

import torch

ROWS, BATCH, EPOCHS = 171, 16, 2  # the last batch is smaller
LOSS = 1e-5


def digits():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images[:ROWS] / 16).astype("float32"), labels[:ROWS].astype("int64")


X, Y = digits()


def made(zeroed="before backward", is_built=True):
    """Return what a loop stands around, the same in each call."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            *([keras.Input((64,))] if is_built else []),
            layers.Dense(16, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Dense(10),
        ]
    )
    optimizer = keras.optimizers.Adam(0.01)
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    train_acc_metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    val_acc_metric = keras.metrics.SparseCategoricalAccuracy(name="val_accuracy")

    def train_step(data, target):
        logits = model(data, training=True)
        loss = loss_fn(target, logits)
        if zeroed == "before backward":
            model.zero_grad()
        loss.backward()
        weights = list(model.trainable_weights)
        gradients = [weight.value.grad for weight in weights]
        with torch.no_grad():
            optimizer.apply(gradients, weights)
        if zeroed == "at the end":
            model.zero_grad()
        train_acc_metric.update_state(target, logits)
        return loss

    def test_step(data, target):
        val_acc_metric.update_state(target, model(data, training=False))

    return SimpleNamespace(**locals())


def seeded():
    """Seed torch's own generator, from which Dropout draws."""
    keras.utils.set_random_seed(1)


def batches():
    for first in range(0, ROWS, BATCH):
        yield torch.tensor(X[first : first + BATCH]), torch.tensor(Y[first : first + BATCH])


def gradients_of(model):
    return [weight.value.grad for weight in model.trainable_weights]


class Observer(pg.Hook):
    """Keeps what `.grad` holds at the start, and the loss of each step."""

    def __init__(self, model):
        self.model, self.losses, self.left = model, [], None

    def on_start(self, event):
        self.left = gradients_of(self.model)

    def on_record(self, event):
        if event.scope == "steps":
            self.losses.append(event.values["loss"])


def fit(step, folder=None, **arguments):
    run = folder and pg.Run(folder, save_every=None, record_every=pg.Every(steps=1))
    given = {"epochs": EPOCHS, "batch_size": BATCH, "shuffle": False, "progress": "off", "run": run}
    return pg.fit(step, (X, Y), **{**given, **arguments})


@pytest.mark.parametrize("is_built", [True, False])
@pytest.mark.parametrize("zeroed", ["before backward", "at the end"])
def test_a_function_that_calls_backward_trains_as_in_its_own_loop(zeroed, is_built, tmp_path):
    by_hand, ours = made(zeroed, is_built), made(zeroed, is_built)
    observer = Observer(ours.model)

    losses, accuracies = [], []
    seeded()
    for _ in range(EPOCHS):
        by_hand.train_acc_metric.reset_state()
        losses += [float(by_hand.train_step(*batch).detach()) for batch in batches()]
        accuracies.append(float(by_hand.train_acc_metric.result()))
    step = pg.FunctionStep(ours.train_step, ours.test_step)
    seeded()
    history = fit(step, tmp_path / "run", callbacks=[observer], validation=(X[:50], Y[:50]))

    np.testing.assert_allclose(observer.losses, losses, rtol=LOSS)
    np.testing.assert_allclose(history.history["accuracy"], accuracies, rtol=1e-4)
    assert observer.left == [None] * len(observer.left)
    assert history.history.keys() == {"loss", "accuracy", "val_accuracy", "learning_rate"}
    for name, weight in zip(by_hand.model.get_weights(), ours.model.get_weights(), strict=True):
        np.testing.assert_allclose(weight, name, rtol=1e-4, atol=1e-6)


def test_a_plain_function_is_trained_and_the_old_loop_runs_on_from_there():
    by_hand, ours = made(), made()

    seeded()
    expected = [float(by_hand.train_step(*b).detach()) for _ in range(2) for b in batches()]
    seeded()
    history = fit(ours.train_step, epochs=1)
    losses = [float(ours.train_step(*batch).detach()) for batch in batches()]

    np.testing.assert_allclose(losses, expected[len(losses) :], rtol=LOSS)
    rows = [len(y) for _, y in batches()]
    first = np.average(expected[: len(rows)], weights=rows)
    np.testing.assert_allclose(history.history["loss"], [first], rtol=LOSS)


def test_it_resumes_exactly():
    report = verify_resume(
        lambda: pg.FunctionStep(made().train_step),
        lambda: (X, Y),
        steps=14,
        at=7,
        arguments={"batch_size": BATCH},
    )

    assert report.steps == 14


def test_a_check_finds_nothing_and_leaves_no_gradient():
    ours = made()

    found = pg.check(pg.FunctionStep(ours.train_step, ours.test_step), (X, Y))

    assert {finding.code for finding in found} == set()
    assert gradients_of(ours.model) == [None] * 6


def with_optimizer_of_torch(make):
    ours = made()
    optimizer = make(ours.model.parameters())

    def train_step(x, y):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(ours.model(x, training=True), y)
        loss.backward()
        optimizer.step()
        return loss

    return train_step, optimizer, ours.model


def test_an_optimizer_of_torch_without_a_state_trains_alike(tmp_path):
    by_hand, _, _ = with_optimizer_of_torch(lambda p: torch.optim.SGD(p, lr=0.1))
    ours, _, model = with_optimizer_of_torch(lambda p: torch.optim.SGD(p, lr=0.1))
    observer = Observer(model)

    seeded()
    losses = [float(by_hand(*batch).detach()) for batch in batches()]
    seeded()
    fit(ours, tmp_path / "run", epochs=1, callbacks=[observer])

    np.testing.assert_allclose(observer.losses, losses, rtol=LOSS)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, lr=0.01),
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    ],
)
def test_an_optimizer_of_torch_with_a_state_trains_alike(make, tmp_path):
    by_hand, other, _ = with_optimizer_of_torch(make)
    ours, optimizer, model = with_optimizer_of_torch(make)
    observer = Observer(model)

    seeded()
    losses = [float(by_hand(*batch).detach()) for batch in batches()]
    seeded()
    fit(ours, tmp_path / "run", epochs=1, callbacks=[observer])

    np.testing.assert_allclose(observer.losses, losses, rtol=LOSS)
    states = [o.state_dict()["state"] for o in (other, optimizer)]
    assert [len(state) for state in states] == [6, 6]
    for expected, found in zip(*(state.values() for state in states), strict=True):
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-6)


HELD = {}


def test_an_optimizer_of_torch_that_no_name_leads_to_is_refused():
    HELD["all"] = with_optimizer_of_torch(lambda p: torch.optim.Adam(p, lr=0.01))

    def train_step(x, y):
        _, optimizer, model = globals()["HELD"]["all"]
        loss = torch.nn.functional.cross_entropy(model(x, training=True), y)
        loss.backward()
        optimizer.step()
        return loss

    with pytest.raises(pg.PerigeeError, match=r"PG111(.|\n)*torch's Adam"):
        fit(train_step)
