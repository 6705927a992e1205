"""Keras's callbacks, driven as `fit` of Keras drives them."""

import csv

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import ArgumentError

ROWS, BATCH, FEATURES = 10, 4, 2
BATCHES = 3


def line():
    keras.utils.set_random_seed(7)
    return keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1, name="line")])


class Regression(pg.Step):
    """What `model.compile(optimizer, "mse")` trains."""

    def __init__(self, rate=0.1):
        self.model = line()
        self.optimizer = keras.optimizers.SGD(rate)
        self.loss = keras.losses.MeanSquaredError()

    def train_step(self, batch):
        x, y = batch
        objective = lambda: self.loss(y, self.model(x, training=True))  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer)}

    def test_step(self, batch):
        x, y = batch
        return {"loss": self.loss(y, self.model(x))}


@pytest.fixture
def data():
    x = np.random.normal(size=(ROWS, FEATURES)).astype("float32")
    return x, x[:, :1] - 2 * x[:, 1:]


def fit(step, data, **arguments):
    arguments = {"batch_size": BATCH, "shuffle": False, "progress": "off", **arguments}
    return pg.fit(step, data, **arguments)


def fit_of_keras(data, callbacks, rate=0.1, **arguments):
    """Train the same model by Keras, and return it with its history."""
    model = line()
    model.compile(keras.optimizers.SGD(rate), "mse")
    kept = model.fit(
        *data, batch_size=BATCH, shuffle=False, verbose=0, callbacks=callbacks, **arguments
    )
    return model, kept


def weights(model):
    return [np.array(w) for w in model.get_weights()]


def assert_alike(ours, theirs):
    for mine, other in zip(weights(ours), weights(theirs), strict=True):
        assert np.allclose(mine, other, rtol=1e-5, atol=1e-6)


class Recording(keras.callbacks.Callback):
    """Keeps the name and the number of each call, and what it was told."""

    def __init__(self):
        super().__init__()
        self.calls, self.logs = [], {}

    def note(self, name, *number, logs=None):
        self.calls.append((name, *number))
        self.logs[(name, *number)] = dict(logs or {})

    def on_train_begin(self, logs=None):
        self.note("train_begin", logs=logs)

    def on_train_end(self, logs=None):
        self.note("train_end", logs=logs)

    def on_epoch_begin(self, epoch, logs=None):
        self.note("epoch_begin", epoch, logs=logs)

    def on_epoch_end(self, epoch, logs=None):
        self.note("epoch_end", epoch, logs=logs)

    def on_train_batch_begin(self, batch, logs=None):
        self.note("train_batch_begin", batch, logs=logs)

    def on_train_batch_end(self, batch, logs=None):
        self.note("train_batch_end", batch, logs=logs)

    def on_test_begin(self, logs=None):
        self.note("test_begin", logs=logs)

    def on_test_end(self, logs=None):
        self.note("test_end", logs=logs)

    def on_test_batch_begin(self, batch, logs=None):
        self.note("test_batch_begin", batch, logs=logs)

    def on_test_batch_end(self, batch, logs=None):
        self.note("test_batch_end", batch, logs=logs)


@pytest.mark.parametrize("is_validated", [True, False], ids=["validated", "not validated"])
def test_calls_come_in_the_order_of_fit(data, is_validated):
    epochs = 2
    ours, theirs = Recording(), Recording()

    fit(
        Regression(),
        data,
        epochs=epochs,
        callbacks=[ours],
        validation=data if is_validated else None,
    )
    fit_of_keras(
        data, [theirs], epochs=epochs, **({"validation_data": data} if is_validated else {})
    )

    assert ours.calls == theirs.calls
    assert ours.calls.count(("train_batch_end", 0)) == epochs


def test_logs_are_those_of_fit(data):
    ours, theirs = Recording(), Recording()

    fit(Regression(), data, epochs=2, callbacks=[ours], validation=data)
    fit_of_keras(data, [theirs], epochs=2, validation_data=data)

    for call in theirs.calls:
        # Known differences: the learning rate is always there, no values between test batches,
        # and `compile_metrics` of Keras is empty.
        if call[0] in ("test_batch_end",):
            continue
        mine = {k: v for k, v in ours.logs[call].items() if k != "learning_rate"}
        other = {k: v for k, v in theirs.logs[call].items() if k != "compile_metrics"}
        assert mine == pytest.approx(other, rel=1e-5), call
    assert ours.logs["epoch_end", 0]["learning_rate"] == pytest.approx(0.1)


def test_logs_of_a_batch_are_the_means_so_far(data):
    ours = Recording()
    step = Regression(rate=0.0)

    fit(step, data, callbacks=[ours])

    x, y = data
    squared = (x @ weights(step.model)[0] - y) ** 2
    for index in range(BATCHES):
        so_far = squared[: (index + 1) * BATCH].mean()
        assert ours.logs["train_batch_end", index]["loss"] == pytest.approx(so_far, rel=1e-5)


def test_callbacks_without_batch_methods_cut_no_blocks(data):
    class Counting(pg.Hook):
        def __init__(self):
            self.counts = []

        def on_steps(self, event):
            self.counts.append(event.count)

    plain, looking = Counting(), Counting()

    fit(Regression(), data, callbacks=[plain, keras.callbacks.LambdaCallback(on_epoch_end=print)])
    fit(Regression(), data, callbacks=[looking, Recording()])

    assert sum(plain.counts) == BATCHES
    assert looking.counts == [1] * BATCHES


def test_early_stopping_restores_the_best_weights(data):
    """The validation labels are those of the untrained model, so that each epoch is worse."""
    x, _ = data
    epochs, patience, best = 8, 2, 0
    kept = []
    stopping = keras.callbacks.EarlyStopping(
        monitor="val_loss", patience=patience, restore_best_weights=True
    )
    keeping = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: kept.append(weights(step.model))
    )
    step = Regression()
    untrained = ops.convert_to_numpy(step.model(x))

    history = fit(
        step, data, epochs=epochs, validation=(x, untrained), callbacks=[keeping, stopping]
    )

    losses = history.history["val_loss"]
    assert losses == sorted(losses)
    assert len(losses) == best + patience + 1 < epochs
    assert stopping.stopped_epoch == best + patience
    assert history.stop_reason == "asked by a callback"
    for mine, other in zip(weights(step.model), kept[best], strict=True):
        assert np.array_equal(mine, other)


def test_early_stopping_stops_where_fit_does(data):
    def stopping():
        return keras.callbacks.EarlyStopping(
            monitor="loss", min_delta=0.1, patience=1, restore_best_weights=True
        )

    step = Regression()

    history = fit(step, data, epochs=20, callbacks=[stopping()])
    theirs, kept = fit_of_keras(data, [stopping()], epochs=20)

    assert 1 < len(history.epoch) == len(kept.epoch) < 20
    assert history.history["loss"] == pytest.approx(kept.history["loss"], rel=1e-4)
    assert_alike(step.model, theirs)


def test_a_plateau_lowers_the_learning_rate(data):
    rate, factor, patience = 0.08, 0.5, 1

    def plateau():
        return keras.callbacks.ReduceLROnPlateau(
            monitor="loss", factor=factor, patience=patience, min_delta=1e9
        )

    step = Regression(rate)

    history = fit(step, data, epochs=4, callbacks=[plateau()])
    theirs, kept = fit_of_keras(data, [plateau()], rate, epochs=4)

    # The first epoch is the best, and each one after it is a plateau. The rate that is logged is
    # the one that the epoch was trained with.
    expected = [rate, rate, rate * factor, rate * factor**2]
    assert history.history["learning_rate"] == pytest.approx(expected)
    assert kept.history["learning_rate"] == pytest.approx(expected)
    assert_alike(step.model, theirs)


def test_a_scheduler_sets_the_learning_rate(data):
    def scheduler():
        return keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.1 / (epoch + 1))

    step = Regression()

    history = fit(step, data, epochs=3, callbacks=[scheduler()])
    theirs, _ = fit_of_keras(data, [scheduler()], epochs=3)

    assert history.history["learning_rate"] == pytest.approx([0.1, 0.05, 0.1 / 3])
    assert_alike(step.model, theirs)


def test_lambdas_hear_of_each_epoch(data):
    heard = []

    def note(epoch, logs):
        heard.append((epoch, dict(logs)))

    history = fit(
        Regression(),
        data,
        epochs=2,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=note)],
    )

    assert [epoch for epoch, _ in heard] == [0, 1]
    for epoch, logs in heard:
        assert logs == {name: values[epoch] for name, values in history.history.items()}


def test_weights_are_saved_at_each_epoch(data, tmp_path):
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / "{epoch}.weights.h5", save_weights_only=True
    )
    kept = []
    step = Regression()
    keeping = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: kept.append(weights(step.model))
    )

    fit(step, data, epochs=2, callbacks=[checkpoint, keeping])

    for epoch in (1, 2):
        loaded = line()
        loaded.load_weights(tmp_path / f"{epoch}.weights.h5")
        for mine, other in zip(weights(loaded), kept[epoch - 1], strict=True):
            assert np.array_equal(mine, other)


def test_only_the_best_weights_are_saved(data, tmp_path):
    path = tmp_path / "best.weights.h5"
    checkpoint = keras.callbacks.ModelCheckpoint(
        path, monitor="val_loss", save_best_only=True, save_weights_only=True
    )
    x, _ = data
    step = Regression()
    first = []
    keeping = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: first.append(weights(step.model))
    )

    fit(
        step,
        data,
        epochs=3,
        validation=(x, ops.convert_to_numpy(step.model(x))),
        callbacks=[checkpoint, keeping],
    )

    loaded = line()
    loaded.load_weights(path)
    assert np.array_equal(weights(loaded)[0], first[0][0])


def test_a_log_file_has_a_line_for_each_epoch(data, tmp_path):
    path = tmp_path / "log.csv"

    history = fit(
        Regression(), data, epochs=2, validation=data, callbacks=[keras.callbacks.CSVLogger(path)]
    )

    with path.open() as file:
        lines = list(csv.DictReader(file))
    assert set(lines[0]) == {"epoch", *history.history}
    for epoch, line_ in enumerate(lines):
        assert line_["epoch"] == str(epoch)
        assert float(line_["val_loss"]) == pytest.approx(history.history["val_loss"][epoch])


@pytest.mark.filterwarnings("ignore:overflow")
def test_training_is_terminated_at_nan(data):
    x, y = data
    bad = x.copy()
    bad[BATCH] = np.nan
    terminate = keras.callbacks.TerminateOnNaN()

    history = fit(Regression(), (bad, y), epochs=3, nonfinite="stop", callbacks=[terminate])

    assert history.clock.step == 2
    assert history.clock.epoch == 0


def test_training_is_stopped_in_mid_epoch(data):
    at = 1

    class Stopping(Recording):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            if batch == at:
                self.model.stop_training = True

    ours, theirs = Stopping(), Stopping()

    history = fit(Regression(), data, epochs=3, validation=data, callbacks=[ours])
    fit_of_keras(data, [theirs], epochs=3, validation_data=data)

    assert history.stop_reason == "asked by a callback"
    assert (history.clock.step, history.clock.epoch) == (at + 1, 0)
    assert ours.calls == theirs.calls
    assert "val_loss" in history.history


def test_a_callback_that_stopped_one_training_does_not_stop_the_next(data):
    stopping = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(stopping.model, "stop_training", epoch == 1)
    )
    step = Regression()

    reasons = [
        fit(step, data, epochs=epochs, callbacks=[stopping]).stop_reason for epochs in (3, 1)
    ]

    assert reasons == ["asked by a callback", "epochs"]


def test_parameters_are_those_of_fit(data):
    ours, theirs = Recording(), Recording()

    fit(Regression(), data, epochs=2, callbacks=[ours])
    fit_of_keras(data, [theirs], epochs=2)

    assert ours.params == theirs.params


class Two(Regression):
    def __init__(self):
        super().__init__()
        self.other = keras.optimizers.SGD(0.2)

    def train_step(self, batch):
        x, y = batch
        kernel, bias = self.model.trainable_variables
        objective = lambda: self.loss(y, self.model(x))  # noqa: E731
        self.minimize(objective, self.other, [bias])
        return {"loss": self.minimize(objective, self.optimizer, [kernel])}


def test_the_optimizer_of_a_step_with_two_is_not_guessed(data):
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)

    with pytest.raises(ArgumentError, match=r"\['optimizer', 'other'\]") as caught:
        fit(Two(), data, callbacks=[scheduler])

    assert "pg.Hook" in caught.value.fix


def test_callbacks_that_need_no_optimizer_work_with_two(data):
    recording = Recording()

    history = fit(Two(), data, epochs=2, callbacks=[recording])

    assert ("train_end",) in recording.calls
    assert recording.logs["epoch_end", 1] == {
        name: values[1] for name, values in history.history.items()
    }


def test_live_weights_may_be_read_and_set_by_a_callback(data):
    class Zeroing(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(self.model.get_weights())
            self.model.set_weights([np.zeros_like(w) for w in seen[-1]])

    step, seen = Regression(rate=0.0), []
    before = weights(step.model)

    fit(step, data, epochs=2, callbacks=[Zeroing()])

    assert np.array_equal(seen[0][0], before[0])
    assert not np.any(seen[1][0])


def test_what_a_step_has_not_is_looked_up_on_its_only_model(data):
    names = []

    class Asking(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            names.append([layer.name for layer in self.model.layers])

    fit(Regression(), data, callbacks=[Asking()])

    assert names == [["line"]]


class Annealed(Two):
    """Has two models, and attributes that callbacks read and set, as those of Keras's guides do."""

    def __init__(self):
        super().__init__()
        self.generator = line()
        self.weight = 1.0

    @property
    def width(self):
        return self.model.inputs[0].shape[-1]

    def train_step(self, batch):
        return {**super().train_step(batch), "weight": self.weight}


def test_what_the_user_gave_a_step_is_read_and_set_by_a_callback(data):
    shapes = []

    class Monitor(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            drawn = self.model.generator(np.zeros((3, self.model.width), "float32"))
            shapes.append(tuple(drawn.shape))
            self.model.weight = self.model.weight / 2

    step = Annealed()
    history = fit(step, data, epochs=3, callbacks=[Monitor()])

    assert shapes == [(3, 1)] * 3
    assert history.history["weight"] == [1.0, 0.5, 0.25]


class Scored(Regression):
    def __init__(self):
        super().__init__()
        self.score = keras.metrics.BinaryAccuracy(name="score")

    def test_step(self, batch):
        x, y = batch
        self.score.update_state(y > 0, self.model(x))
        return {}


def test_a_metric_of_the_step_says_whether_more_of_it_is_better(data):
    stopping = keras.callbacks.EarlyStopping("val_score", patience=5)

    fit(Scored(), data, validation=data, execution="eager", callbacks=[stopping])

    assert stopping.monitor_op(2.0, 1.0)


def test_a_callback_calls_the_only_model_and_freezes_it(data):
    class Freezing(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            assert self.model(data[0]).shape == (len(data[0]), 1)
            self.model.trainable = False

    step = Regression()
    with pytest.raises(pg.PerigeeError, match="PG1"):
        fit(step, data, epochs=2, callbacks=[Freezing()])

    assert not step.model.trainable


def test_saving_needs_exactly_one_model(data, tmp_path):
    step = Regression()
    step.other = line()
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "a.weights.h5", save_weights_only=True)
    step.train_step = lambda batch: {"loss": ops.mean(batch[0])}

    with pytest.raises(ArgumentError, match="save_weights"):
        fit(step, data, callbacks=[checkpoint])


def test_a_single_callback_needs_no_list(data):
    recording = Recording()

    fit(Regression(), data, callbacks=recording)

    assert ("train_begin",) in recording.calls


def test_none_is_no_callback(data):
    assert fit(Regression(), data, callbacks=None).stop_reason == "epochs"
