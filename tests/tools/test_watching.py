"""Norms and histograms of updates, seen within compiled steps, against those made by hand."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import perigee as pg
from perigee.tools import Histograms, Norms
from tests.writers import reading

ROWS, WIDTH, BATCH, RATE = 24, 3, 8, 0.1
SOME = 0.5  # what the first value of some batches is above


def data():
    x = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype("float32")
    return x, x[:, :1]


def linear():
    keras.utils.set_random_seed(3)
    return keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(1)])


def make():
    return pg.Supervised(linear(), keras.optimizers.SGD(RATE), keras.losses.MeanSquaredError())


def by_hand(weights, epochs=1):
    """The gradient norm of each step, and the weights in the end."""
    kernel, bias = (w.astype("float64") for w in weights)
    norms, (x, y) = [], data()
    for _ in range(epochs):
        for at in range(0, ROWS, BATCH):
            rows, labels = x[at : at + BATCH], y[at : at + BATCH]
            errors = 2 * (rows @ kernel + bias - labels) / len(rows)
            slopes = rows.T @ errors, errors.sum(axis=0)
            norms.append(float(np.sqrt(sum((slope**2).sum() for slope in slopes))))
            kernel, bias = kernel - RATE * slopes[0], bias - RATE * slopes[1]
    return norms, (kernel, bias)


def compiled():
    model = linear()
    model.compile(keras.optimizers.SGD(RATE), "mse")
    return pg.KerasStep(model)


@pytest.mark.spread(1)
@pytest.mark.parametrize("a_call", ["auto", 1], ids=["blocks", "single steps"])
@pytest.mark.parametrize("made", [make, compiled])
def test_norms_are_those_of_each_update(made, a_call):
    step = made()
    norms, weights = by_hand(step.model.get_weights(), epochs=2)

    history = pg.fit(
        step,
        data(),
        epochs=2,
        batch_size=BATCH,
        shuffle=False,
        callbacks=[Norms()],
        execution=pg.Execution(steps_per_call=a_call),
        progress="off",
    ).history

    steps = ROWS // BATCH
    means = [np.mean(norms[:steps]), np.mean(norms[steps:])]
    np.testing.assert_allclose(history["gradient_norm"], means, rtol=1e-5)
    np.testing.assert_allclose(history["update_norm"], RATE * np.array(means), rtol=1e-4)
    for found, expected in zip(step.model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4)


class Sometimes(pg.Step):
    """Two optimizers, of which the second updates where the batch says so."""

    def __init__(self):
        self.one, self.two = linear(), linear()
        self.first, self.second = keras.optimizers.SGD(RATE), keras.optimizers.SGD(RATE)

    def train_step(self, batch):
        x, y = batch
        loss = self.minimize(lambda: ops.square(self.one(x) - y)[:, 0], self.first, self.one)
        gradients = self.gradients(lambda: ops.square(self.two(x) - y)[:, 0], self.two)
        self.apply(self.second, gradients, when=x[0, 0] > SOME)
        return {"loss": loss, "norm": gradients.global_norm(), "applies": x[0, 0] > SOME}


@pytest.mark.slow
def test_updates_that_are_left_out_do_not_count():
    heard = []

    class Heard(pg.Hook):
        every = pg.Every(steps=1)

        def on_steps(self, event):
            heard.append(dict(event.read()))

    history = pg.fit(
        Sometimes(), data(), batch_size=BATCH, shuffle=False, callbacks=[Norms(), Heard()],
        progress="off",
    ).history  # fmt: skip

    x = data()[0][::BATCH, 0]
    assert 0 < sum(x > SOME) < len(x), "the data must have both"
    first = int(np.argmax(x > SOME))
    before = 0.0 if first == 0 else heard[first - 1]["norm"] * first
    norm = heard[first]["norm"] * (first + 1) - before
    np.testing.assert_allclose(heard[first]["second/gradient_norm"], norm, rtol=1e-4)
    assert history["first/gradient_norm"][0] > 0
    np.testing.assert_allclose(
        history["second/update_norm"], RATE * np.array(history["second/gradient_norm"]), rtol=1e-4
    )


class Turns(Sometimes):
    def one_step(self, batch):
        x, y = batch
        loss = self.minimize(lambda: ops.square(self.one(x) - y)[:, 0], self.first, self.one)
        return {"one": loss}

    def two_step(self, batch):
        x, y = batch
        loss = self.minimize(lambda: ops.square(self.two(x) - y)[:, 0], self.second, self.two)
        return {"two": loss}

    train_step = pg.alternate(one_step=2, two_step=1)


def test_phases_that_take_turns_are_seen():
    history = pg.fit(
        Turns(), data(), epochs=2, batch_size=BATCH, callbacks=[Norms()], progress="off"
    ).history

    for name in ("first", "second"):
        norms = np.array(history[f"{name}/gradient_norm"])
        assert np.all(norms > 0)
        np.testing.assert_allclose(history[f"{name}/update_norm"], RATE * norms, rtol=1e-4)


def test_histograms_are_in_tensorboard_in_the_report_and_in_the_records(tmp_path):
    step, epochs = make(), 3
    heard = []

    class Heard(pg.Hook):
        def on_record(self, event):
            heard.append((event.samples, step.model.get_weights()))

    run = pg.Run(tmp_path, tensorboard=True)
    pg.fit(
        step, data(), epochs=epochs, batch_size=BATCH, shuffle=False, run=run,
        callbacks=[Histograms(), Heard()], progress="off",
    )  # fmt: skip

    samples, (kernel, bias) = heard[-1]
    assert set(samples) == {"weights", "gradients", "updates"}
    (name,) = [name for name in samples["weights"].bins if name.endswith("kernel")]
    edges, counts = samples["weights"].bins[name]
    assert counts.sum() == WIDTH
    assert (edges[0], edges[-1]) == (kernel.min(), kernel.max())
    gradient, update = (samples[part].bins[name][0] for part in ("gradients", "updates"))
    np.testing.assert_allclose(sorted(-RATE * gradient), update, rtol=1e-3)
    files = sorted((tmp_path / "samples" / "weights").iterdir())
    assert [file.name for file in files] == [f"step-{3 * n:08d}.histograms" for n in (1, 2, 3)]
    assert json.loads(files[-1].read_text())[name]["counts"] == counts.tolist()
    reader = EventAccumulator(str(tmp_path / "events" / "train"), {"histograms": 0})
    reader.Reload()
    events = reader.Histograms(f"weights/{name}")
    assert [event.step for event in events] == [*range(epochs)]
    assert events[-1].histogram_value.num == WIDTH
    np.testing.assert_allclose(events[-1].histogram_value.bucket, counts)
    page = (tmp_path / "report.html").read_text()
    assert page.count('<svg class="bars') == 3 * 2 * epochs
    assert "Histograms" in page
    assert bias.shape == (1,)


def test_norms_are_drawn_in_the_report(tmp_path):
    run = pg.Run(tmp_path, tensorboard=True)
    pg.fit(make(), data(), epochs=2, batch_size=BATCH, run=run, callbacks=[Norms()], progress="off")

    page = (tmp_path / "report.html").read_text()
    assert "Gradients and updates" in page
    assert "<h3>gradient_norm</h3>" in page and "<h3>update_norm</h3>" in page
    assert ("train", "epoch_gradient_norm") in reading.scalars(tmp_path)


def test_watching_changes_no_number():
    losses = []
    for callbacks in ([], [Norms(), Histograms()]):
        history = pg.fit(
            make(), data(), epochs=3, batch_size=BATCH, seed=0, callbacks=callbacks, progress="off"
        )
        losses.append(history.history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


@pytest.mark.slow
def test_a_training_with_norms_goes_on_where_it_was_stopped(tmp_path):
    def train(path, epochs):
        arguments = {"batch_size": BATCH, "seed": 0, "run": path, "progress": "off"}
        return pg.fit(make(), data(), epochs=epochs, callbacks=[Norms()], **arguments).history

    train(tmp_path / "a", 1)
    assert train(tmp_path / "a", 3) == train(tmp_path / "b", 3)


def test_what_cannot_be_watched_is_refused():
    model = linear()
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE)), "mse")
    scaled = pg.KerasStep(model)

    class Wants(pg.Hook):
        watches = frozenset({"beauty"})

    for step, arguments, said in [
        (scaled, {"callbacks": [Norms()]}, "through `minimize` or `apply`"),
        (make(), {"callbacks": [Norms()], "accumulate": 2}, "an update in each step"),
        (make(), {"callbacks": [Wants()]}, "norms, histograms"),
    ]:
        with pytest.raises(pg.PerigeeError, match=said):
            pg.fit(step, data(), batch_size=BATCH, progress="off", **arguments)
