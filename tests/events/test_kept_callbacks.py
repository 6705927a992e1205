"""What of Keras callbacks a run keeps, and what the program says in spite of it."""

import collections
import csv
import os
import threading
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

import perigee as pg
from perigee import PerigeeWarning
from perigee._events.callbacks import KerasCallbacks
from perigee._events.kept_callbacks import KeptCallback, matched
from perigee._events.stored_values import Room

pytestmark = pytest.mark.mostly_once

ROWS, BATCH = 12, 4


class Stop(pg.Hook):
    """Suspends the training after a step."""

    def __init__(self, step):
        self.every, self.step = pg.Every(steps=step), step

    def on_steps(self, event):
        event.stop("deadline")


def supervised(rate=0.1):
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    return pg.Supervised(model, keras.optimizers.SGD(rate), "mse")


def train(path, *callbacks, epochs=1, stop_at=None, ignore=(), rate=0.1, step=None):
    step = supervised(rate) if step is None else step
    x = np.random.default_rng(0).normal(size=(ROWS, 2)).astype("float32")
    step.ignore_findings = ignore
    hooks = [] if stop_at is None else [Stop(stop_at)]
    return pg.fit(
        step,
        (x, x[:, :1]),
        epochs=epochs,
        batch_size=BATCH,
        callbacks=[*callbacks, *hooks],
        execution="eager",
        progress="off",
        run=path,
        seed=0,
    )


def found(history):
    return [finding for finding in history.findings if finding.code == "PG430"]


def items(history):
    return [item for finding in found(history) for item in finding.items]


@pytest.fixture(autouse=True)
def findings_are_read_from_the_history():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PerigeeWarning)
        yield


# What the program says


def test_a_file_that_a_callback_overwrites_is_the_one_that_the_program_says(tmp_path):
    def saving(folder):
        path = tmp_path / folder / "{epoch}.weights.h5"
        return keras.callbacks.ModelCheckpoint(path, save_weights_only=True)

    train(tmp_path / "run", saving("A"))
    train(tmp_path / "run", saving("B"), epochs=3)

    assert os.listdir(tmp_path / "A") == ["1.weights.h5"]
    assert sorted(os.listdir(tmp_path / "B")) == ["2.weights.h5", "3.weights.h5"]


def test_changed_arguments_hold_and_what_was_counted_is_kept(tmp_path):
    first = keras.callbacks.EarlyStopping("loss", patience=5, min_delta=1e9, mode="min")
    then = keras.callbacks.EarlyStopping("loss", patience=3, min_delta=1e9, mode="min")

    train(tmp_path / "run", first, epochs=2)
    run = pg.Run(tmp_path / "run", on_change="accept")
    history = train(run, then, epochs=20)

    assert first.wait == 1
    assert len(history.epoch) == 4  # the first is the best, and three follow
    assert (then.patience, then.best) == (3, first.best)


def test_the_best_of_a_model_checkpoint_is_kept(tmp_path):
    def saving():
        return keras.callbacks.ModelCheckpoint(
            tmp_path / "best.weights.h5", "loss", save_best_only=True, save_weights_only=True
        )

    first, then = saving(), saving()
    train(tmp_path / "run", first, epochs=2, rate=1e-6)
    train(tmp_path / "run", then, epochs=2, rate=1e-6)

    assert then.best == first.best is not None


class Warm(keras.callbacks.Callback):
    """Keeps what it derives from an argument under another name, and counts by it."""

    def __init__(self, length):
        super().__init__()
        self._length = length
        self.last = collections.deque(maxlen=length)

    def on_epoch_end(self, epoch, logs=None):
        self.last.append(epoch)


def test_what_is_derived_from_an_argument_holds(tmp_path):
    train(tmp_path / "run", Warm(2), epochs=3)
    then = Warm(4)

    train(tmp_path / "run", then, epochs=4)

    assert then._length == 4
    assert then.last == collections.deque([1, 2, 3], maxlen=4)
    assert then.last.maxlen == 4


class Counted(keras.callbacks.Callback):
    def __init__(self, count=0):
        super().__init__()
        self.count = count

    def on_epoch_end(self, epoch, logs=None):
        self.count += 1


def test_a_changed_argument_is_not_kept_and_this_is_said_once(tmp_path):
    then = Counted(5)

    history = train(tmp_path / "run", Counted(), epochs=3)
    train(tmp_path / "run", then, epochs=4)

    assert then.count == 6
    (item,) = items(history)
    assert item.startswith("Counted.count: it is an argument")


# What is kept


class Seen(keras.callbacks.Callback):
    def __init__(self, seen):
        super().__init__()
        self._seen = seen

    def on_epoch_end(self, epoch, logs=None):
        self._seen[f"epoch {epoch}"].append(logs["loss"])


@pytest.mark.parametrize("factory", [list, lambda: []], ids=["builtin", "of its own"])
def test_a_defaultdict_keeps_its_factory(tmp_path, factory):
    seen = [collections.defaultdict(factory) for _ in range(2)]

    train(tmp_path / "run", Seen(seen[0]), epochs=2)
    then = Seen(seen[1])
    history = train(tmp_path / "run", then, epochs=4)

    assert list(then._seen) == [f"epoch {n}" for n in range(4)]
    assert [value for (value,) in then._seen.values()] == history.history["loss"]
    assert then._seen.default_factory is factory


KEPT = {
    "a tuple": ((), lambda held, epoch: (*held, epoch)),
    "a set": (set(), lambda held, epoch: held | {(epoch, "x")}),
    "a deque": (collections.deque(), lambda held, epoch: held.copy() + collections.deque([epoch])),
    "a dict of numbers": ({}, lambda held, epoch: {**held, epoch: None, (epoch, True): 1}),
    "a counter": (collections.Counter(), lambda held, epoch: held + collections.Counter([epoch])),
    "an ordered dict": (collections.OrderedDict(), lambda held, epoch: held | {"$x": epoch}),
    "an array of strings": (np.array(["a"]), lambda held, epoch: np.append(held, f"{epoch}")),
    "an array for a number": (0, lambda held, epoch: held + np.ones(2)),
    "a number of NumPy": (np.inf, lambda held, epoch: np.float32(epoch)),
    "a complex number": (0j, lambda held, epoch: held + 1j),
    "anything for none": (None, lambda held, epoch: [epoch]),
    "none for anything": ([1], lambda held, epoch: None),
}


class Holding(keras.callbacks.Callback):
    """Changes what it holds at the end of each epoch."""

    def __init__(self, start, change):
        super().__init__()
        self.held = start
        self._change = change

    def on_epoch_end(self, epoch, logs=None):
        self.held = self._change(self.held, epoch)


@pytest.mark.parametrize(("start", "change"), KEPT.values(), ids=KEPT)
def test_a_resumed_callback_holds_what_one_that_was_never_stopped_does(tmp_path, start, change):
    whole, then = Holding(start, change), Holding(start, change)

    train(None, whole, epochs=3)
    history = train(tmp_path / "run", Holding(start, change), epochs=1)
    train(tmp_path / "run", then, epochs=3)

    assert type(then.held) is type(whole.held)
    np.testing.assert_equal(then.held, whole.held)
    assert not found(history)


class Countdown(keras.callbacks.Callback):
    """Has at the end of the second epoch what it had when it was made."""

    def __init__(self):
        super().__init__()
        self.left = 0

    def on_train_begin(self, logs=None):
        self.left = 2

    def on_epoch_end(self, epoch, logs=None):
        self.left -= 1


def test_a_value_that_came_back_to_its_first_one_is_kept(tmp_path):
    train(tmp_path / "run", Countdown(), epochs=2)
    then = Countdown()

    train(tmp_path / "run", then, epochs=3)

    assert then.left == -1


class First(keras.callbacks.Callback):
    """Takes note of the first epoch only."""

    def __init__(self):
        super().__init__()
        self.first = None

    def on_epoch_end(self, epoch, logs=None):
        self.first = logs["loss"] if self.first is None else self.first


def test_what_was_restored_is_kept_in_each_later_start(tmp_path):
    once = First()
    train(tmp_path / "run", once, epochs=1)
    train(tmp_path / "run", once, epochs=2)  # the same object, which has it already
    then = First()

    train(tmp_path / "run", then, epochs=3)

    assert then.first == once.first is not None


class ByClass(keras.callbacks.Callback):
    """Has the first values on its class."""

    count, total = 0, None

    def on_epoch_end(self, epoch, logs=None):
        self.count += 1
        self.total = self.count


def test_an_attribute_that_begins_on_the_class_is_kept(tmp_path):
    train(tmp_path / "run", ByClass(), epochs=2)
    then = ByClass()

    train(tmp_path / "run", then, epochs=3)

    assert (then.count, then.total) == (3, 3)


class Timed(keras.callbacks.Callback):
    """Makes an attribute when an epoch begins, and uses it when the epoch ends."""

    def on_epoch_begin(self, epoch, logs=None):
        self.began = 10 * epoch

    def on_epoch_end(self, epoch, logs=None):
        self.took = self.began + 1


def test_an_attribute_made_within_an_epoch_is_there_when_the_epoch_is_resumed(tmp_path):
    train(tmp_path / "run", Timed(), stop_at=2)
    then = Timed()

    train(tmp_path / "run", then)

    assert then.took == 1


def test_a_model_checkpoint_that_counts_batches_resumes_within_an_epoch(tmp_path):
    def saving(folder):
        path = tmp_path / folder / "{epoch}-{batch}.weights.h5"
        return keras.callbacks.ModelCheckpoint(path, save_weights_only=True, save_freq=2)

    train(None, saving("whole"), epochs=2)
    train(tmp_path / "run", saving("parts"), epochs=2, stop_at=1)
    train(tmp_path / "run", saving("parts"), epochs=2)

    assert sorted(os.listdir(tmp_path / "parts")) == sorted(os.listdir(tmp_path / "whole"))


# What is left out


class Unusual(keras.callbacks.Callback):
    """Holds what cannot be stored, some of it made by training."""

    def __init__(self):
        super().__init__()
        self.names = np.array(["cat", "dog"])
        self.lock = threading.Lock()
        self.score = lambda logs: logs["loss"]
        self.file = None
        self.text = "first"
        self.itself = []
        self.count = 0

    def on_train_begin(self, logs=None):
        self.file = open(os.devnull)  # noqa: SIM115

    def on_epoch_end(self, epoch, logs=None):
        self.count += 1
        self.text = "later"
        self.itself.append(self.itself)
        self.objects = [object()]

    def on_train_end(self, logs=None):
        self.file.close()


def test_what_cannot_be_stored_is_left_out_by_name_and_said_once(tmp_path):
    history = train(tmp_path / "run", Unusual(), epochs=2)
    then = Unusual()
    train(tmp_path / "run", then, epochs=3)

    said = items(history)
    assert [item.split(":")[0] for item in said] == [
        "Unusual.text",
        "Unusual.itself",
        "Unusual.objects",
    ]
    assert len(found(history)) == 1
    assert (
        "is text" in said[0] and "holds itself" in said[1] and "an object of type object" in said[2]
    )
    assert (then.count, then.itself) == (3, [then.itself])


def test_it_can_be_turned_off(tmp_path):
    assert not found(train(tmp_path / "run", Unusual(), ignore=("PG430",)))


def test_an_array_of_strings_does_not_end_the_training(tmp_path):
    class Names(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.names = np.array(["cat", "dog"])

    assert not found(train(tmp_path / "run", Names(), epochs=2))


class KeepsTensors(keras.callbacks.Callback):
    """Keeps the best weights, an average of them, and a sum that begins as a number."""

    def __init__(self, variables):
        super().__init__()
        self.variables, self.best, self.average = variables, None, []
        self.total = 0.0

    def on_epoch_end(self, epoch, logs=None):
        values = [keras.ops.copy(keras.ops.stop_gradient(v.value)) for v in self.variables]
        self.best = {"epoch": epoch, "weights": collections.OrderedDict(kernel=values[0])}
        old = self.average or values
        self.average = [0.9 * one + 0.1 * other for one, other in zip(old, values, strict=True)]
        self.total = self.total + keras.ops.sum(values[0])


def test_tensors_that_a_callback_keeps_are_saved(tmp_path):
    def made():
        step = supervised()
        return step, KeepsTensors(step.model.trainable_variables)

    (first, kept), (then, resumed), (whole, undisturbed) = made(), made(), made()
    histories = [train(tmp_path / "run", kept, epochs=2, step=first)]
    histories += [train(tmp_path / "run", resumed, epochs=3, step=then)]
    train(tmp_path / "whole", undisturbed, epochs=3, step=whole)

    assert not any(map(found, histories))
    for name in ("best", "average", "total"):
        one, other = getattr(undisturbed, name), getattr(resumed, name)
        keras.tree.assert_same_structure(one, other)
        for mine, yours in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True):
            assert type(mine) is type(yours)
            assert np.asarray(mine).tobytes() == np.asarray(yours).tobytes()


@pytest.mark.only_torch
def test_a_tensor_in_the_memory_of_a_variable_is_left_out_by_name(tmp_path):
    """Restored, it would be a copy, which no longer changes with the weights."""

    class Keeps(keras.callbacks.Callback):
        def __init__(self, variable):
            super().__init__()
            self.variable, self.kept = variable, None

        def on_epoch_end(self, epoch, logs=None):
            self.kept = self.variable.value.detach()

    step = supervised()
    said = items(train(tmp_path / "run", Keeps(step.model.trainable_variables[0]), step=step))

    assert len(said) == 1 and "Keeps.kept: it holds an object of type" in said[0]


class Tracker:
    def __init__(self):
        self.best = None


class Tracking(keras.callbacks.Callback):
    def __init__(self, changes):
        super().__init__()
        self.tracker = Tracker()
        self._changes = changes

    def on_epoch_end(self, epoch, logs=None):
        if self._changes:
            self.tracker.best = logs["loss"]


@pytest.mark.parametrize("changes", [True, False], ids=["changed", "unchanged"])
def test_an_object_whose_attributes_changed_is_said(tmp_path, changes):
    said = items(train(tmp_path / "run", Tracking(changes)))

    assert said == (["Tracking.tracker: it holds an object of type Tracker"] if changes else [])


class Stateful(keras.callbacks.Callback):
    """Says itself what it keeps."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.tracker, self.written = folder, Tracker(), None

    def on_epoch_end(self, epoch, logs=None):
        self.tracker.best = logs["loss"]
        self.written = Path(self.folder, f"{epoch}.txt")

    def state(self):
        return {"best": self.tracker.best, "written": self.written, "stage": "warm"}

    def load_state(self, state):
        self.tracker.best, self.written = state["best"], state["written"]


def test_a_callback_with_state_keeps_what_it_returns(tmp_path):
    first, then = Stateful("A"), Stateful("B")

    history = train(tmp_path / "run", first, epochs=2)
    train(tmp_path / "run", then, epochs=2)

    assert (then.folder, then.written) == ("B", Path("A", "1.txt"))
    assert then.tracker.best == first.tracker.best
    assert not found(history)


def test_a_state_that_cannot_be_stored_is_left_out(tmp_path):
    class Wrong(Stateful):
        def state(self):
            return {"tracker": self.tracker}

    history = train(tmp_path / "run", Wrong("A"))

    assert items(history) == [f"{Wrong.__qualname__}.state(): it holds an object of type Tracker"]
    assert train(tmp_path / "run", Wrong("A"), epochs=2).stop_reason == "epochs"


class Patient(keras.callbacks.EarlyStopping):
    def __init__(self, **arguments):
        super().__init__("loss", **arguments)


def test_nothing_is_said_of_keras_own_callbacks(tmp_path):
    def given():
        made = [
            keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True),
            Patient(patience=9, min_delta=0.1),
            keras.callbacks.ReduceLROnPlateau("loss", min_delta=0.1, patience=1),
            keras.callbacks.ModelCheckpoint(tmp_path / "a.weights.h5", save_weights_only=True),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate),
            keras.callbacks.TerminateOnNaN(),
        ]
        if keras.backend.backend() == "tensorflow":
            made.append(keras.callbacks.TensorBoard(tmp_path / "board"))
        return made

    for epochs in (1, 2):
        assert not found(train(tmp_path / "run", *given(), epochs=epochs))


def test_a_tensorboard_writes_where_the_program_says(tmp_path):
    pytest.importorskip("tensorflow")

    train(tmp_path / "run", keras.callbacks.TensorBoard(tmp_path / "A", write_graph=False))
    before = sorted(tmp_path.glob("A/**/*"))
    train(
        tmp_path / "run", keras.callbacks.TensorBoard(tmp_path / "B", write_graph=False), epochs=2
    )

    assert sorted(tmp_path.glob("A/**/*")) == before
    assert list(tmp_path.glob("B/train/*"))


# Callbacks that come, go and change their order


class Total(keras.callbacks.Callback):
    def __init__(self, step=1):
        super().__init__()
        self.step, self.total = step, 0

    def on_epoch_end(self, epoch, logs=None):
        self.total += self.step


class Other(Total):
    pass


def kinds(given):
    return [(Other if name == "other" else Total)(step) for name, step in given]


A, B, C, OTHER = ("total", 1), ("total", 10), ("total", 100), ("other", 1000)


@pytest.mark.parametrize(
    ("before", "after", "totals"),
    [
        ([A, B], [A, B], [2, 20]),
        ([A, B], [B, A], [20, 2]),
        ([A, B], [B], [20]),
        ([A, B], [A], [2]),
        ([B], [A, B], [1, 20]),
        ([A], [OTHER, A], [1000, 2]),
        ([OTHER, A], [A], [2]),
        ([A, A], [A, A, A], [2, 2, 1]),
        ([A], [B], [11]),  # the same one, with another argument
        ([A, B], [C, B], [101, 20]),
        ([], [A], [1]),
        ([A], [], []),
    ],
)
def test_callbacks_are_matched_by_class_arguments_and_order(tmp_path, before, after, totals):
    now = kinds(after)

    train(tmp_path / "run", *kinds(before), epochs=1)
    train(tmp_path / "run", *now, epochs=2)

    assert [callback.total for callback in now] == totals


def test_the_type_of_an_attribute_that_the_program_changed_holds(tmp_path):
    change = lambda held, epoch: held + held  # noqa: E731
    train(tmp_path / "run", Holding([1], change))
    then = Holding((2,), change)

    history = train(tmp_path / "run", then, epochs=2)

    assert then.held == (2, 2)
    assert items(history) == ["Holding.held: it is of type list in the checkpoint, and tuple now"]


def test_a_defaultdict_that_the_program_no_longer_makes_begins_afresh(tmp_path):
    change = lambda held, epoch: collections.defaultdict(lambda: 0, {epoch: 1})  # noqa: E731
    train(tmp_path / "run", Holding(None, change))
    seen = []

    history = train(
        tmp_path / "run", Holding(None, lambda held, epoch: seen.append(held)), epochs=2
    )

    assert seen == [None]
    assert "of type defaultdict in the checkpoint" in items(history)[0]


# A log file


def logged(path):
    with path.open() as file:
        return [row["epoch"] for row in csv.DictReader(file)]


def test_a_log_file_is_appended_to_when_its_run_is_resumed(tmp_path):
    path = tmp_path / "log.csv"
    loggers = [keras.callbacks.CSVLogger(path) for _ in range(3)]

    train(tmp_path / "run", loggers[0], epochs=2)
    train(tmp_path / "run", loggers[1], epochs=4)
    train(tmp_path / "run", loggers[2], epochs=4)  # it is finished

    assert logged(path) == ["0", "1", "2", "3"]
    assert not loggers[1].append


def test_a_log_file_is_appended_to_by_a_callback_that_the_run_had_not(tmp_path):
    path = tmp_path / "log.csv"
    train(None, keras.callbacks.CSVLogger(path))
    train(tmp_path / "run")

    train(tmp_path / "run", keras.callbacks.CSVLogger(path), epochs=2)

    assert logged(path) == ["0", "1"]


def test_a_new_run_begins_a_log_file_as_keras_does(tmp_path):
    path = tmp_path / "log.csv"

    for name in ("one", "other"):
        train(tmp_path / name, keras.callbacks.CSVLogger(path))

    assert logged(path) == ["0"]


# What is in a file


def test_checkpoints_of_before_kinds_were_stored_are_loaded(tmp_path, monkeypatch):
    """As `EarlyStopping`, `Seen` and `Total` were once saved after two epochs."""
    old = [
        [
            "EarlyStopping",
            {
                "monitor": "accuracy",
                "mode": "max",
                "best": 0.25,
                "min_delta": -1000000000.0,
                "patience": 1,
                "verbose": 0,
                "baseline": None,
                "wait": 1,
                "stopped_epoch": 0,
                "restore_best_weights": True,
                "best_weights": [np.zeros((2, 1), "float32"), np.ones(1, "float32")],
                "start_from_epoch": 0,
                "best_epoch": 0,
            },
        ],
        ["Seen", {"_seen": {"epoch 0": [0.5], "epoch 1": [0.25]}}],
        ["Total", {"step": 7, "total": 3}],
        ["Gone", {"x": 1}],
    ]
    made = [
        lambda: keras.callbacks.EarlyStopping(
            "loss", patience=3, min_delta=1e9, mode="min", restore_best_weights=True
        ),
        lambda: Seen(collections.defaultdict(list)),
        Total,
    ]
    with monkeypatch.context() as patched:
        patched.setattr(KerasCallbacks, "state", lambda self: old)
        train(tmp_path / "run", *(make() for make in made), epochs=2)
    stopping, seen, total = (make() for make in made)

    history = train(tmp_path / "run", stopping, seen, total, epochs=9)

    assert len(history.epoch) == 4  # with the patience of the program
    assert (stopping.monitor, stopping.best, stopping.best_epoch) == ("loss", 0.25, 0)
    np.testing.assert_array_equal(stopping.best_weights[1], [1])
    assert list(seen._seen) == [f"epoch {n}" for n in range(4)]
    assert (total.step, total.total) == (1, 5)


class Careful(keras.callbacks.Callback):
    def __init__(self, folder="safe"):
        super().__init__()
        self.folder, self._path, self.best, self.files = folder, "safe", None, []
        self._score = lambda logs: logs["loss"]

    def on_epoch_end(self, epoch, logs=None):
        self.late = epoch

    def listen(self, call):
        self.on_epoch_end = call


HOSTILE = [
    {"folder": "/etc"},
    {"_path": "/etc"},
    {"best": "/etc"},
    {"late": "/etc"},
    {"_model": 1},
    {"params": None},
    {"on_epoch_end": 1},
    {"on_epoch_end": None},
    {"_score": None},
    {"_path": None},
    {"unknown": 1},
    {"__class__": 1},
    {"files": 3},
    {"files": {"is": "list"}},
]


@pytest.mark.parametrize("attributes", HOSTILE)
@pytest.mark.parametrize("is_old", [True, False], ids=["old", "new"])
def test_no_attribute_is_set_but_those_that_training_changes(attributes, is_old):
    callback = Careful()
    before = dict(vars(callback))
    entry = {"class": "Careful", "arguments": "?", "attributes": attributes}

    kept = KeptCallback(callback)
    for one, said in matched([kept], [["Careful", attributes] if is_old else entry]):
        one.restore(said)

    assert vars(callback) == before


def test_a_path_is_restored_in_no_attribute():
    callback = Careful()

    KeptCallback(callback).restore(
        {"arguments": "?", "attributes": {"best": {"is": "path", "of": "/"}}}
    )

    assert callback.best is None


def test_the_files_of_keras_own_callbacks_are_never_what_a_checkpoint_says(tmp_path):
    made = [
        keras.callbacks.ModelCheckpoint(tmp_path / "a.keras"),
        keras.callbacks.TensorBoard(tmp_path / "board"),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    for callback in made:
        kept, before = KeptCallback(callback), dict(vars(callback))
        kept.restore(
            {
                "class": kept.name,
                "arguments": "?",
                "attributes": {
                    name: "/etc/passwd"
                    for name in [
                        *before,
                        "_train_dir",
                        "_val_dir",
                        "_log_write_dir",
                        "_current_epoch",
                    ]
                },
            }
        )
        assert vars(callback) == before


@pytest.mark.parametrize(
    "entries",
    [
        [None, 3, "x", [], ["Total"], ["Total", 3], [3, {}], {"class": 3}, {"class": "Total"}],
        [{"class": "Total", "attributes": []}],
        [{"class": "Total", "arguments": [], "state": {"is": "list"}}],
        [{"class": "Stateful", "state": {"is": "list"}}],
    ],
)
def test_entries_that_are_none_begin_afresh(entries):
    callbacks = [KeptCallback(Total()), KeptCallback(Stateful("A"))]

    for one, said in matched(callbacks, entries):
        one.restore(said)

    assert [set(one.left_out) for one in callbacks] in (
        [set(), set()],
        [set(), {"state()"}],
    )


def test_all_callbacks_share_the_room_for_text():
    callbacks = [KeptCallback(Holding([], None)) for _ in range(3)]
    for one in callbacks:
        one.begin()
        one._callback.held = ["x" * 100]
    room = Room(characters=300)

    stored = [one.state(room)["attributes"] for one in callbacks]

    assert [list(each) for each in stored] == [["held"], ["held"], []]
    assert "too much" in callbacks[2].left_out["held"]


def test_what_is_left_out_takes_no_room():
    left_out, kept = (KeptCallback(Holding([], None)) for _ in range(2))
    left_out._callback.held, kept._callback.held = ["x" * 250, object()], ["x" * 250]
    room = Room(characters=300)

    assert "held" not in left_out.state(room)["attributes"]
    assert kept.state(room)["attributes"]["held"]["of"] == ["x" * 250]
