"""Listening to methods of Keras: who hears, in what order, and that nothing stays."""

import ast
import inspect
import threading
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._listening import Call, Returned, listening

SOURCE = Path(pg.__file__).parent


def methods() -> tuple[object, ...]:
    return (
        keras.losses.Loss.__call__,
        keras.Layer.__call__,
        keras.Layer.add_loss,
        vars(keras.Layer)["losses"],
        keras.Variable.assign,
        keras.Variable.__init__,
        keras.random.SeedGenerator.next,
    )


PLAIN = methods()


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    assert methods() == PLAIN


class Adder:
    def __init__(self) -> None:
        self.total = 0

    def add(self, value: int) -> int:
        self.total += value
        return self.total

    @property
    def double(self) -> int:
        return 2 * self.total


def notes(heard, name):
    def listener(original, *args, **kwargs):
        heard.append((name, "called"))
        try:
            value = yield
        except Exception as error:
            heard.append((name, type(error).__name__))
            raise
        heard.append((name, value))

    return listener


@pytest.mark.once
def test_the_last_listener_hears_a_call_first_and_its_result_last():
    heard = []
    with listening(Adder, "add", notes(heard, "a")), listening(Adder, "add", notes(heard, "b")):
        Adder().add(3)
    assert heard == [("b", "called"), ("a", "called"), ("a", 3), ("b", 3)]


@pytest.mark.once
def test_a_listener_changes_a_call_and_what_it_returns():
    def doubled(original, adder, value):
        result = yield Call(original, (adder, 2 * value), {})
        return Returned(result + 0.5)

    adder = Adder()
    with listening(Adder, "add", doubled):
        assert adder.add(3) == 6.5
    assert adder.add(1) == 7


@pytest.mark.once
def test_properties_and_methods_of_one_object_are_heard():
    heard, adder, other = [], Adder(), Adder()
    with listening(Adder, "double", notes(heard, "p")), listening(adder, "add", notes(heard, "m")):
        adder.add(2)
        other.add(5)
        assert adder.double == 4
    assert heard == [("m", "called"), ("m", 2), ("p", "called"), ("p", 4)]
    assert "add" not in vars(adder)


@pytest.mark.once
def test_who_listens_to_a_class_later_hears_an_object_that_is_listened_to():
    heard, adder = [], Adder()
    with listening(adder, "add", notes(heard, "o")), listening(Adder, "add", notes(heard, "c")):
        adder.add(2)
    assert [name for name, _ in heard] == ["o", "c", "c", "o"]


@pytest.mark.once
def test_what_is_raised_reaches_every_listener_and_the_caller():
    heard = []
    with listening(Adder, "add", notes(heard, "a")), listening(Adder, "add", notes(heard, "b")):
        with pytest.raises(TypeError):
            Adder().add("no number")
        Adder().add(1)
    raised = [("a", "TypeError"), ("b", "TypeError")]
    assert heard[:4] == [("b", "called"), ("a", "called"), *raised]
    assert heard[4:] == [("b", "called"), ("a", "called"), ("a", 1), ("b", 1)]


@pytest.mark.once
def test_what_a_listener_raises_reaches_those_that_heard_before_it():
    heard = []

    def refuses(original, adder, value):
        raise ValueError("refused")
        yield

    with (
        listening(Adder, "add", refuses),
        listening(Adder, "add", notes(heard, "b")),
        pytest.raises(ValueError, match="refused"),
    ):
        Adder().add(1)
    assert heard == [("b", "called"), ("b", "ValueError")]


@pytest.mark.once
def test_what_is_listened_to_takes_what_it_took():
    adder, plain = Adder(), inspect.signature(Adder().add)
    with listening(Adder, "add", notes([], "a")):
        assert inspect.signature(adder.add) == plain
    with listening(adder, "add", notes([], "a")):
        assert inspect.signature(adder.add) == plain


@pytest.mark.once
def test_other_threads_are_not_heard():
    heard, adder = [], Adder()
    with listening(Adder, "add", notes(heard, "a")):
        thread = threading.Thread(target=adder.add, args=(4,))
        thread.start()
        thread.join()
    assert adder.total == 4 and heard == []


@pytest.mark.once
def test_listeners_of_two_threads_leave_in_any_order():
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()
    heard: dict[str, list] = {"first": [], "second": []}

    def first():
        with listening(Adder, "add", notes(heard["first"], "a")):
            first_in.set()
            second_in.wait(20)
            Adder().add(1)
        first_out.set()

    def second():
        first_in.wait(20)
        with listening(Adder, "add", notes(heard["second"], "b")):
            second_in.set()
            first_out.wait(20)
            Adder().add(2)

    plain = Adder.add
    threads = [threading.Thread(target=run) for run in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == {"first": [("a", "called"), ("a", 1)], "second": [("b", "called"), ("b", 2)]}
    assert Adder.add is plain


class Waiting(pg.Step):
    """Waits in the middle of its step, as often as its code runs in Python."""

    def __init__(self, wait):
        self.wait = wait
        self.model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.01)

    def train_step(self, batch):
        x, y = batch
        self.wait()
        return {"loss": self.minimize(lambda: squares(y, self.model(x)), self.optimizer)}


def squares(y, y_pred):
    return keras.ops.square(y - y_pred)[:, 0]


def test_two_trainings_overlap_in_two_threads():
    data = np.ones((8, 2), "float32"), np.ones((8, 1), "float32")
    first_in, second_in, first_done = threading.Event(), threading.Event(), threading.Event()
    reasons: dict[str, object] = {}

    def train(name, wait, done=None):
        reasons[name] = pg.fit(Waiting(wait), data, progress="off").stop_reason
        if done is not None:
            done.set()

    def wait_first():
        first_in.set()
        second_in.wait(20)

    def wait_second():
        second_in.set()
        first_done.wait(20)

    first = threading.Thread(target=train, args=("first", wait_first, first_done))
    second = threading.Thread(target=train, args=("second", wait_second))
    first.start()
    first_in.wait(20)
    second.start()
    first.join()
    second.join()
    assert reasons == {"first": "epochs", "second": "epochs"}


class Flipped(keras.utils.PyDataset):
    """Calls a layer of Keras in its worker threads, while the step is rehearsed."""

    def __init__(self):
        super().__init__(workers=2, max_queue_size=8)
        self.flip = keras.layers.RandomFlip(seed=1)
        self.images = np.random.default_rng(0).normal(size=(4, 6, 6, 1)).astype("float32")

    def __len__(self):
        return 12

    def __getitem__(self, index):
        flipped = keras.ops.convert_to_numpy(self.flip(self.images, training=True))
        return flipped.reshape(4, 36), np.zeros((4, 1), "float32")


class Plain(pg.Step):
    def __init__(self):
        self.model = keras.Sequential([keras.Input((36,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.01)

    def train_step(self, batch):
        x, y = batch
        return {"loss": self.minimize(lambda: squares(y, self.model(x)), self.optimizer)}


@pytest.mark.filterwarnings("ignore::perigee.PerigeeWarning")
def test_layers_in_the_worker_threads_of_data_are_none_of_the_step():
    history = pg.fit(Plain(), Flipped(), progress="off")
    assert history.clock.step == 12


def test_an_error_in_the_middle_of_a_step_leaves_nothing():
    class Raises(Plain):
        def train_step(self, batch):
            self.model(batch[0])
            raise KeyError("in the middle")

    with pytest.raises(KeyError):
        pg.fit(Raises(), (np.ones((4, 36), "float32"), np.ones((4, 1), "float32")))


@pytest.mark.once
def test_nothing_else_replaces_what_belongs_to_others():
    """Attributes of Keras, the frameworks, NumPy and builtins are set in one module alone.

    The command line puts `fit` of a script aside while it looks for the script's data.
    """
    foreign = {"keras", "np", "numpy", "tf", "jax", "torch", "builtins", "ops"}
    found = []
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            targets = node.targets if isinstance(node, ast.Assign) else []
            for target in targets:
                root = target
                while isinstance(root, ast.Attribute):
                    root = root.value
                is_attribute = isinstance(target, ast.Attribute)
                if is_attribute and isinstance(root, ast.Name) and root.id in foreign:
                    found.append(f"{name}:{node.lineno}")
    assert [place for place in found if not place.startswith("_cli/files.py")] == []
