"""The loop: how far it trains, what it tells, and that what is due changes nothing else."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._events.clock import Clock
from perigee._step.state import snapshot, track

ROWS, BATCH, FEATURES = 11, 3, 2
BATCHES = 4  # 3 + 3 + 3 + 2 rows


class Reading(pg.Step):
    """Trains nothing, counts its steps, and logs the mean of its rows."""

    def __init__(self):
        self.count = keras.Variable(0, dtype="int32", trainable=False)
        self.total = keras.metrics.Sum(name="total")

    def train_step(self, batch):
        self.count.assign_add(1)
        self.total.update_state(batch)
        return {"mean": ops.mean(batch)}

    def test_step(self, batch):
        return {"mean": ops.mean(batch)}


class Random(pg.Step):
    """Trains with all that makes training random and stateful, also while it is measured."""

    def __init__(self, rate=0.05):
        self.model = keras.Sequential(
            [
                keras.Input((FEATURES,)),
                keras.layers.Dense(4),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.5),
                keras.layers.Dense(1),
            ]
        )
        self.optimizer = keras.optimizers.SGD(rate, momentum=0.9)
        self.noise = keras.random.SeedGenerator(5)
        self.size = keras.metrics.Mean(name="size")

    def train_step(self, batch):
        noisy = batch + 0.1 * keras.random.normal(ops.shape(batch), seed=self.noise)

        def objective():
            return ops.mean(ops.square(self.model(noisy, training=True) - batch[:, :1]))

        loss = self.minimize(objective, self.optimizer)
        self.size.update_state(ops.abs(noisy))
        return {"loss": loss}

    def test_step(self, batch):
        noisy = batch + 0.1 * keras.random.normal(ops.shape(batch), seed=self.noise)
        y_pred = self.model(noisy, training=True)  # draws, and moves the statistics
        self.size.update_state(ops.abs(y_pred))
        return {"loss": ops.mean(ops.square(y_pred))}


class Listening(pg.Hook):
    """Keeps every event, and what it says at that moment."""

    every = pg.Every(steps=1)

    def __init__(self, stop_at=None, scope="steps"):
        self.events = []
        self.stop_at, self.scope = stop_at, scope

    def on_start(self, event):
        self.events.append(("start", event))

    def on_steps(self, event):
        self.events.append(("steps", event))
        if self.scope == "steps" and event.clock.step == self.stop_at:
            event.stop("enough")

    def on_record(self, event):
        self.events.append((event.scope, event))
        if event.scope == self.scope and event.clock.step == self.stop_at:
            event.stop("enough")

    def on_end(self, event):
        self.events.append(("end", event))

    def of(self, kind):
        return [event for name, event in self.events if name == kind]


@pytest.fixture
def rows():
    return np.arange(ROWS, dtype="float32")[:, None]


@pytest.fixture
def x():
    return np.random.normal(size=(ROWS, FEATURES)).astype("float32")


def fit(step, data, **arguments):
    arguments = {"batch_size": None if isinstance(data, list) else BATCH, **arguments}
    return pg.fit(step, data, progress="off", **arguments)


def in_batches(data):
    return [data[start : start + BATCH] for start in range(0, len(data), BATCH)]


def bits(step):
    return [value.tobytes() for value in snapshot(track(step).variables)]


# How far.


@pytest.mark.parametrize(
    ("arguments", "clock", "reason", "epochs"),
    [
        ({}, Clock(4, 1, 0), "epochs", 1),
        ({"epochs": 3}, Clock(12, 3, 0), "epochs", 3),
        ({"steps": 3}, Clock(3, 0, 3), "steps", 1),
        ({"steps": 4}, Clock(4, 1, 0), "steps", 1),
        ({"steps": 10}, Clock(10, 2, 2), "steps", 3),
        ({"steps": 6, "epochs": 3}, Clock(6, 1, 2), "steps", 2),
        ({"steps": 60, "epochs": 2}, Clock(8, 2, 0), "epochs", 2),
        ({"epochs": 3, "steps_per_epoch": 3}, Clock(9, 3, 0), "epochs", 3),
        ({"epochs": 2, "steps_per_epoch": 6}, Clock(12, 2, 0), "epochs", 2),
        ({"steps": 5, "steps_per_epoch": 2}, Clock(5, 2, 1), "steps", 3),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["arrays", "batches"])
def test_training_goes_as_far_as_asked(rows, arguments, clock, reason, epochs, kind):
    step = Reading()

    history = fit(step, rows if kind == "arrays" else in_batches(rows), **arguments)

    assert history.clock == clock
    assert history.stop_reason == reason
    assert int(ops.convert_to_numpy(step.count)) == clock.step
    assert history.epoch == list(range(epochs))
    assert len(history.history["mean"]) == epochs


@pytest.mark.parametrize("kind", ["arrays", "batches"])
def test_an_epoch_of_steps_goes_on_over_the_end_of_a_pass(rows, kind):
    steps_per_epoch, epochs = 3, 4
    data = in_batches(rows)
    drawn = [data[index % BATCHES] for index in range(steps_per_epoch * epochs)]
    expected = [
        np.concatenate(drawn[first : first + steps_per_epoch]).mean()
        for first in range(0, len(drawn), steps_per_epoch)
    ]

    history = fit(
        Reading(),
        rows if kind == "arrays" else data,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        **({"shuffle": False} if kind == "arrays" else {}),
    )

    assert history.history["mean"] == pytest.approx(expected)


def test_an_epoch_covers_each_row_once_whatever_the_last_batch(rows):
    history = fit(Reading(), rows, epochs=3)

    assert history.history["mean"] == pytest.approx([rows.mean()] * 3)
    assert history.history["total"] == pytest.approx([rows.sum()] * 3)


def test_an_epoch_that_is_cut_short_covers_what_it_has_seen(rows):
    steps = 2

    history = fit(Reading(), rows, steps=steps, shuffle=False)

    assert history.history["mean"] == pytest.approx([rows[: steps * BATCH].mean()])
    assert history.history["total"] == pytest.approx([rows[: steps * BATCH].sum()])


def test_calling_fit_again_counts_from_this_call(rows):
    step = Reading()
    fit(step, rows, epochs=2)

    history = fit(step, rows, steps=3)

    assert history.clock == Clock(3, 0, 3)
    assert int(ops.convert_to_numpy(step.count)) == 2 * BATCHES + 3


@pytest.mark.parametrize("arguments", [{"steps": 4}, {"epochs": 2, "steps_per_epoch": 2}], ids=str)
def test_no_batch_is_drawn_that_is_not_trained_on(arguments):
    wanted, drawn = 4, []

    def stream():
        while True:
            drawn.append(1)
            yield np.ones((2, 1), "float32")

    fit(Reading(), stream(), batch_size=None, **arguments)

    assert len(drawn) == wanted


# In what order.


class Ordering(pg.Step):
    """Keeps the numbers that it is shown, in their order."""

    def __init__(self, steps):
        self.seen = keras.Variable(np.full(steps * 2, -1.0, "float32"), trainable=False)
        self.index = keras.Variable(0, dtype="int32", trainable=False)

    def train_step(self, batch):
        at = ops.convert_to_tensor(self.index)
        places = ops.equal(ops.arange(self.seen.shape[0], dtype="int32"), at)
        self.seen.assign(ops.where(places, batch[0, 0], ops.convert_to_tensor(self.seen)))
        self.index.assign_add(1)
        return {}


def orders(epochs=2, size=6, **arguments):
    """Train on single rows and return their order, epoch by epoch."""
    step = Ordering(epochs * size)
    data = np.arange(size, dtype="float32")[:, None]
    pg.fit(step, data, batch_size=1, epochs=epochs, progress="off", **arguments)
    seen = ops.convert_to_numpy(step.seen)[: epochs * size]
    return seen.reshape(epochs, size).astype(int).tolist()


def test_arrays_are_drawn_in_another_order_each_epoch():
    first, second = orders()

    assert sorted(first) == sorted(second) == list(range(6))
    assert first != second


def test_arrays_are_drawn_as_they_stand_without_shuffling():
    assert orders(shuffle=False) == [list(range(6))] * 2


def test_the_seed_alone_decides_the_order():
    keras.utils.set_random_seed(1)
    first = orders(seed=3)
    keras.utils.set_random_seed(2)

    assert orders(seed=3) == first
    assert orders(seed=4) != first


def test_without_a_seed_the_order_follows_the_global_one():
    keras.utils.set_random_seed(1)
    first, following = orders(), orders()
    keras.utils.set_random_seed(1)

    assert orders() == first
    assert following != first


def test_one_random_seed_makes_two_fits_the_same_bit_for_bit(x):
    def fitted(seed):
        keras.utils.set_random_seed(seed)
        step = Random()
        history = fit(step, x, epochs=2, validation=x)
        return bits(step), history.history

    first = fitted(3)

    assert fitted(3) == first
    assert fitted(4) != first


# Validating.


@pytest.mark.parametrize(
    "every", [pg.Every(steps=1), pg.Every(steps=3), pg.Every(epochs=1)], ids=str
)
def test_training_does_not_depend_on_how_often_it_is_measured(x, every):
    def fitted(**arguments):
        keras.utils.set_random_seed(3)
        step = Random()
        history = fit(step, in_batches(x), epochs=3, **arguments)
        trained = {k: v for k, v in history.history.items() if not k.startswith("val_")}
        return bits(step), trained

    assert fitted(validation=x, validate_every=every) == fitted()


def test_each_validation_starts_from_the_same_seeds(x):
    step = Random(rate=0.0)
    step.model.layers[1].trainable = False
    listening = Listening()

    fit(
        step,
        x,
        epochs=2,
        validation=x,
        validate_every=pg.Every(steps=2),
        callbacks=[listening],
    )

    [first, *others] = [event.values for event in listening.of("validation")]
    assert len(others) == 2 * BATCHES // 2 - 1
    assert all(values == first for values in others)


@pytest.mark.parametrize(
    ("arguments", "validated"),
    [
        ({"epochs": 2}, [4, 8]),
        ({"epochs": 4, "validate_every": pg.Every(epochs=2)}, [8, 16]),
        ({"epochs": 2, "validate_every": pg.Every(steps=3)}, [3, 6]),
        ({"epochs": 2, "validate_every": pg.Every(steps=4)}, [4, 8]),
        ({"steps": 6}, [4, 6]),
        ({"steps": 7, "validate_every": pg.Every(steps=3)}, [3, 6, 7]),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["arrays", "batches"])
def test_validation_happens_at_the_steps_that_were_asked_for(rows, arguments, validated, kind):
    listening = Listening()
    data = rows if kind == "arrays" else in_batches(rows)

    fit(Reading(), data, validation=rows, callbacks=[listening], **arguments)

    at = {
        event.clock.step
        for kind in ("validation", "epoch")
        for event in listening.of(kind)
        if "val_mean" in event.values
    }
    assert sorted(at) == validated


def test_validation_values_stand_beside_those_of_training(rows):
    doubled = rows * 2

    history = fit(Reading(), rows, epochs=2, validation=doubled).history

    assert history["mean"] == pytest.approx([rows.mean()] * 2)
    assert history["val_mean"] == pytest.approx([doubled.mean()] * 2)
    assert "val_total" not in history


@pytest.mark.parametrize("steps", [2, BATCHES], ids=["some", "all"])
@pytest.mark.parametrize("kind", ["arrays", "batches", "function"])
def test_each_validation_sees_the_same_batches(rows, steps, kind):
    data = {"arrays": rows, "batches": in_batches(rows), "function": lambda: in_batches(rows)}[kind]

    history = fit(Reading(), rows, epochs=3, validation=data, validation_steps=steps)

    assert history.history["val_mean"] == pytest.approx([rows[: steps * BATCH].mean()] * 3)


# Hooks.


@pytest.mark.parametrize("kind", ["arrays", "batches"])
def test_hooks_hear_of_everything_in_order(rows, kind):
    epochs = 2
    listening = Listening()
    step = Reading()
    data = rows if kind == "arrays" else in_batches(rows)

    history = fit(step, data, epochs=epochs, validation=rows, callbacks=[listening])

    kinds = [name for name, _ in listening.events]
    assert (kinds[0], kinds[-1]) == ("start", "end")
    assert [name for name in kinds if name != "steps"] == ["start", *["epoch"] * epochs, "end"]

    [started] = listening.of("start")
    assert (started.step, started.clock) == (step, Clock())
    assert (started.epochs, started.steps, started.steps_per_epoch) == (epochs, None, BATCHES)

    steps = listening.of("steps")
    assert sum(event.count for event in steps) == epochs * BATCHES
    assert [event.clock.step for event in steps] == np.cumsum([e.count for e in steps]).tolist()

    for index, event in enumerate(listening.of("epoch")):
        assert event.clock == Clock((index + 1) * BATCHES, index + 1, 0)
        assert dict(event.values) == {k: v[index] for k, v in history.history.items()}

    [ended] = listening.of("end")
    assert (ended.clock, ended.reason) == (Clock(epochs * BATCHES, epochs, 0), "epochs")
    seconds = [event.seconds for _, event in listening.events]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("kind", ["arrays", "batches"])
def test_a_hook_with_a_cadence_is_told_of_exactly_its_steps(rows, kind):
    every, epochs = 3, 4

    class Third(pg.Hook):
        every = pg.Every(steps=3)
        steps = ()

        def on_steps(self, event):
            self.steps = (*self.steps, event.clock.step)

    third = Third()
    fit(Reading(), rows if kind == "arrays" else in_batches(rows), epochs=epochs, callbacks=[third])

    assert third.steps == tuple(range(every, epochs * BATCHES + 1, every))


def test_the_values_so_far_may_be_read_at_each_step(rows):
    class Following(pg.Hook):
        every = pg.Every(steps=1)

        def __init__(self):
            self.means = []

        def on_steps(self, event):
            self.means.append(event.read()["mean"])

    following = Following()

    fit(Reading(), in_batches(rows), callbacks=[following])

    so_far = [rows[: (index + 1) * BATCH].mean() for index in range(BATCHES)]
    assert following.means == pytest.approx(so_far)


@pytest.mark.parametrize(
    ("listening", "clock", "epochs"),
    [
        (lambda: Listening(2), Clock(2, 0, 2), 1),
        (lambda: Listening(BATCHES), Clock(BATCHES, 1, 0), 1),
        (lambda: Listening(2 * BATCHES, "epoch"), Clock(2 * BATCHES, 2, 0), 2),
        (lambda: Listening(6, "validation"), Clock(6, 1, 2), 2),
    ],
    ids=["in mid-epoch", "at the end of an epoch", "by an epoch", "by a validation"],
)
def test_a_hook_ends_the_training_with_its_reason(rows, listening, clock, epochs):
    history = fit(
        Reading(),
        in_batches(rows),
        epochs=5,
        callbacks=[listening()],
        validation=rows,
        validate_every=pg.Every(steps=3),
    )

    assert (history.stop_reason, history.clock) == ("enough", clock)
    assert len(history.history["mean"]) == epochs


def test_the_first_reason_counts(rows):
    class Asking(pg.Hook):
        every = pg.Every(steps=1)

        def __init__(self, reason):
            self.reason = reason

        def on_steps(self, event):
            event.stop(self.reason)

    history = fit(Reading(), in_batches(rows), callbacks=[Asking("first"), Asking("second")])

    assert history.stop_reason == "first"
    assert history.clock.step == 1


def test_a_single_hook_needs_no_list(rows):
    listening = Listening()

    fit(Reading(), rows, callbacks=listening)

    assert listening.of("end")


@pytest.mark.parametrize("kind", ["arrays", "batches"])
def test_windows_of_steps_are_exact_and_cross_epochs(rows, kind, tmp_path):
    every, epochs = 3, 3
    listening = Listening()
    data = in_batches(rows)
    run = pg.Run(tmp_path / "run", record_every=pg.Every(steps=every))

    fit(
        Reading(),
        rows if kind == "arrays" else data,
        epochs=epochs,
        callbacks=[listening],
        run=run,
        **({"shuffle": False} if kind == "arrays" else {}),
    )

    drawn = data * epochs
    recorded = [
        event for name, event in listening.events if name == "steps" and hasattr(event, "values")
    ]
    expected = [
        np.concatenate(drawn[first : first + every]).mean() for first in range(0, len(drawn), every)
    ]
    assert [event.clock.step for event in recorded] == [3, 6, 9, 12]
    assert [event.values["mean"] for event in recorded] == pytest.approx(expected)


# What `fit` of Keras does at the end.


@pytest.mark.parametrize("overwrite", [None, 2])
def test_averaged_weights_are_put_in_at_the_end_as_fit_does(x, overwrite):
    epochs = 2

    def model():
        keras.utils.set_random_seed(3)
        return keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])

    def optimizer():
        return keras.optimizers.SGD(
            0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=overwrite
        )

    class Fitting(pg.Step):
        def __init__(self):
            self.model, self.optimizer = model(), optimizer()
            self.loss = keras.losses.MeanSquaredError()

        def train_step(self, batch):
            x, y = batch
            objective = lambda: self.loss(y, self.model(x, training=True))  # noqa: E731
            return {"loss": self.minimize(objective, self.optimizer)}

    y = x[:, :1] - x[:, 1:]
    ours, theirs = Fitting(), model()
    theirs.compile(optimizer(), "mse")

    history = fit(ours, (x, y), epochs=epochs, shuffle=False)
    kept = theirs.fit(x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0)

    for mine, other in zip(ours.model.get_weights(), theirs.get_weights(), strict=True):
        assert np.allclose(mine, other, rtol=1e-5, atol=1e-6)
    assert history.history["loss"] == pytest.approx(kept.history["loss"], rel=1e-5)
