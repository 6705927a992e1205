"""A signal at any call of the user's code: the run is saved there, and resumes bit for bit."""

import json
import signal

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._step.state import snapshot, track
from perigee.checkpoints import Checkpoints, random_state
from perigee.writers.json_lines import read_json_lines

ROWS, BATCH, EPOCHS = 14, 8, 4
VALIDATED = 3
"""Batches a validation."""

pytestmark = [
    pytest.mark.filterwarnings("ignore::perigee.PerigeeWarning"),
    pytest.mark.usefixtures("capfd"),
]


def rows(seed=0):
    x = np.random.default_rng(seed).normal(size=(ROWS, 3)).astype("float32")
    return x, x.sum(1, keepdims=True)


class Watching(keras.callbacks.Callback):
    """Counts its calls and those of the data; lets a signal come in one of them."""

    def __init__(self, at=None, number=signal.SIGINT):
        super().__init__()
        self.at, self.number = at, number
        self.calls, self.begun, self.measured, self.epochs = [], 0, 0, 0
        self.seen = None

    def called(self, what):
        self.calls.append(what)
        if self.at == len(self.calls) - 1:
            signal.raise_signal(self.number)

    def state(self):
        return {"begun": self.begun, "measured": self.measured, "epochs": self.epochs}

    def load_state(self, state):
        vars(self).update(state)

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs += 1
        self.called("epoch begins")

    def on_epoch_end(self, epoch, logs=None):
        self.called("epoch ends")

    def on_train_batch_end(self, batch, logs=None):
        self.called("step")

    def on_test_begin(self, logs=None):
        self.begun += 1
        self.called("validation begins")

    def on_test_batch_end(self, batch, logs=None):
        self.measured += 1
        self.called("validation batch")

    def on_test_end(self, logs=None):
        self.called("validation ends")


class Noise(pg.Supervised):
    """Draws in training and in validation, and measures by a metric."""

    def __init__(self):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.4, seed=5)])
        model.add(keras.layers.Dense(1))
        super().__init__(
            model,
            keras.optimizers.Adam(0.05),
            keras.losses.MeanSquaredError(),
            metrics=[keras.metrics.MeanAbsoluteError(name="mae")],
        )

    def test_step(self, batch):
        x, y = batch
        y_pred = self.model(x, training=True)
        self.metrics[0].update_state(y, y_pred)
        return {"loss": keras.ops.mean(keras.ops.square(y_pred - y))}


def train(path, watching, validation=None, hooks=(), make=Noise, **arguments):
    keras.utils.set_random_seed(7)
    x, y = rows(1)

    def drawn():
        watching.called("validation data")
        for i in range(VALIDATED):
            # The first batch is drawn before training begins, to rehearse the step on it.
            noise = np.random.normal(size=(4, 3)) if i else 0.0
            yield (x[4 * i : 4 * i + 4] + noise).astype("float32"), y[4 * i : 4 * i + 4]

    step = make()
    # The loss may fall as it likes: it stops after three epochs without a higher one.
    stops = keras.callbacks.EarlyStopping("loss", mode="max", patience=2)
    arguments = {"epochs": EPOCHS, "execution": "eager", **arguments}
    history = pg.fit(
        step,
        rows(),
        batch_size=BATCH,
        validation=drawn if validation is None else validation,
        callbacks=[watching, stops, *hooks],
        run=pg.Run(path, save_every=arguments.pop("save_every", pg.Every(epochs=2))),
        progress="off",
        seed=3,
        **arguments,
    )
    state = {
        e.key: v for e, v in zip(track(step).entries, snapshot(track(step).variables), strict=True)
    }
    records = [
        {k: repr(v) for k, v in line.items() if k != "seconds"}
        for line in read_json_lines(path / "metrics.jsonl")
        if line["kind"] != "finding"
    ]
    return {
        "state": {key: value.tobytes().hex() for key, value in state.items()},
        "history": history.history,
        "clock": history.clock,
        "reason": history.stop_reason,
        "records": records,
        "watching": watching.state(),
        "random": json.dumps(random_state()),
    }


def interrupted(path, at, **arguments):
    """Train with a signal at a call; return the calls, and those that followed the signal."""
    watching = Watching(at)
    with pytest.raises(KeyboardInterrupt):
        train(path, watching, **arguments)
    return watching.calls, watching.calls[at + 1 :]


WAYS = {
    "epochs": {},
    "steps": {"validate_every": pg.Every(steps=3), "save_every": pg.Every(steps=2)},
    "accumulated": {"epochs": 2, "accumulate": 3},
    "to a step": {"epochs": None, "steps": 3},
}


def check(folder, way, chosen):
    """Compare trainings that a signal stopped at calls with one that none stopped."""
    watching = Watching()
    straight = train(folder / "straight", watching, **WAYS[way])
    calls = watching.calls
    for at in chosen(calls):
        path = folder / f"run-{at}"
        made, after = interrupted(path, at, **WAYS[way])
        resumed = train(path, Watching(), **WAYS[way])

        for name, value in straight.items():
            assert resumed[name] == value, (at, calls[at], name)
        assert made[: at + 1] == calls[: at + 1]
        assert "step" not in after and "epoch begins" not in after, (at, calls[at], after)
        # A batch that is being drawn is measured; the ones that follow it are not.
        assert after.count("validation batch") <= (calls[at] == "validation data"), (at, after)


def test_a_signal_at_each_kind_of_call_changes_nothing(tmp_path):
    def last_of_each_kind(calls):
        last = {kind: len(calls) - 1 - calls[::-1].index(kind) for kind in calls}
        # After the last batch of a validation there is nothing left to leave.
        return [*last.values(), last["validation batch"] - 1]

    check(tmp_path, "epochs", last_of_each_kind)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_signal_at_any_call_changes_nothing(tmp_path, way):
    check(tmp_path, way, lambda calls: range(len(calls)))


def test_a_validation_that_was_left_has_its_order_when_it_runs_again(tmp_path):
    """The order of a shuffle depends on the number of passes begun before."""
    tf = pytest.importorskip("tensorflow")

    def go(path, watching):
        keras.utils.set_random_seed(4)  # on which the order depends too
        shuffled = tf.data.Dataset.from_tensor_slices(rows(1)).shuffle(ROWS, seed=6).batch(4)
        given = {"validation_steps": 2, "validate_every": pg.Every(steps=1)}
        return train(path, watching, shuffled, **given)

    straight, watching = go(tmp_path / "straight", Watching()), Watching(at=8)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", watching)

    assert watching.calls[-2:] == ["validation begins", "validation batch"]
    assert len({*straight["history"]["val_loss"]}) > 1
    assert go(tmp_path / "run", Watching()) == straight


@pytest.mark.parametrize(
    "stops_at, epochs", [("validation begins", 2), ("validation ends", 2), ("step", 1)]
)
def test_the_stop_of_a_callback_is_kept_beside_a_signal(tmp_path, stops_at, epochs):
    class Stops(Watching):
        """Asks for the end in the second epoch, just before the signal."""

        def called(self, what):
            if what == stops_at and self.epochs == 2:
                self.model.stop_training = True
            super().called(what)

    straight, first = train(tmp_path / "straight", watching := Stops()), watching.calls
    at = len(first) - 1 - first[::-1].index(stops_at)
    assert (straight["reason"], straight["clock"].epoch) == ("asked by a callback", epochs)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", Stops(at))

    assert train(tmp_path / "run", Stops()) == straight


def test_what_is_saved_is_the_step_before_the_validation(tmp_path):
    calls = Watching()
    train(tmp_path / "straight", calls, epochs=1)
    at = calls.calls.index("validation batch")

    interrupted(tmp_path / "run", at, epochs=1)

    saved = Checkpoints(tmp_path / "run" / "checkpoints").load()
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (saved.content.clock.step, saved.content.clock.epoch) == (2, 0)
    assert saved.content.facts["loop"]["stage"] == "end"
    assert (facts["state"], facts["stop_reason"]) == ("ended", "signal")


def test_a_deadline_at_the_last_step_of_an_epoch_does_not_wait_for_the_validation(tmp_path):
    class Deadline(pg.Hook):
        every = pg.Every(steps=2)

        def on_steps(self, event):
            event.stop("deadline")

    straight, watching = train(tmp_path / "straight", Watching()), Watching()

    stopped = train(tmp_path / "run", watching, hooks=[Deadline()])

    assert stopped["reason"] == "deadline"
    assert "validation begins" not in watching.calls
    assert train(tmp_path / "run", Watching()) == straight


def test_weights_that_a_callback_exchanges_for_a_validation_are_restored_where_it_is_left(tmp_path):
    def averaging():
        step = Noise()
        step.optimizer = keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.5)
        return step

    def go(path, watching):
        return train(path, watching, hooks=[keras.callbacks.SwapEMAWeights()], make=averaging)

    calls = Watching()
    straight = go(tmp_path / "straight", calls)
    at = calls.calls.index("validation batch")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", Watching(at))

    assert go(tmp_path / "run", Watching()) == straight
