"""A compiled step whose program depends on attributes that it changes is refused; others train."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import CompiledAttributeError

pytestmark = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="torch compiles no steps"
)

ROWS, BATCH = 8, 4


def data():
    x = np.random.default_rng(0).normal(size=(ROWS, 3)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


class Scaled(pg.Step):
    """Trains with a loss that a factor scales."""

    def __init__(self):
        keras.utils.set_random_seed(1)
        self.model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.1)
        self.count, self.is_first = 0, True
        self.begin()

    def begin(self):
        """Set the attributes of a kind."""

    def factor(self):
        return 1.0

    def train_step(self, batch):
        self.count += 1
        factor, (x, y) = self.factor(), batch

        def objective():
            return factor * ops.mean((self.model(x, training=True) - y) ** 2)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


class WarmingUp(Scaled):
    def factor(self):
        return min(1.0, self.count / 4)


class Later(Scaled):
    def factor(self):
        return 0.5 if self.count > 300 else 1.0


class First(Scaled):
    def factor(self):
        was_first, self.is_first = self.is_first, False
        return 0.0 if was_first else 1.0


class Queue(Scaled):
    def begin(self):
        self.rates = [0.1, 0.2, 0.3, 0.4]

    def factor(self):
        return self.rates.pop(0)


class Noise(Scaled):
    def begin(self):
        self.noise = np.random.default_rng(2)

    def factor(self):
        return float(self.noise.uniform(0.5, 1))


class Rate:
    def __init__(self):
        self.value = 1.0

    def next(self):
        self.value *= 0.5
        return self.value


class OfAnObject(Scaled):
    def begin(self):
        self.rate = Rate()

    def factor(self):
        return self.rate.next()


REFUSED = {
    WarmingUp: "count",
    Later: "count",
    First: "is_first",
    Queue: "rates",
    Noise: "noise",
    OfAnObject: "Rate.value",
}


def trained(step, **given):
    given = {"epochs": 1, "batch_size": BATCH, "shuffle": False, "progress": "off", **given}
    return pg.fit(step, data(), **given)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_program_that_depends_on_them_is_refused(kind):
    step = kind()
    before = step.model.get_weights()

    with pytest.raises(CompiledAttributeError) as caught:
        trained(step)

    assert REFUSED[kind] in caught.value.names
    assert step.count == 0 and step.is_first
    assert all(map(np.array_equal, before, step.model.get_weights()))


class Cached(Scaled):
    def begin(self):
        self.cache = {}

    def factor(self):
        if "weights" not in self.cache:
            self.cache["weights"] = np.linspace(0.5, 1, BATCH).mean()
        return float(self.cache["weights"])


class Built(Scaled):
    def begin(self):
        self.gate, self.is_built = None, False

    def factor(self):
        if not self.is_built:
            self.gate = keras.layers.Dense(1, activation="sigmoid")
            self.is_built = True
        return ops.mean(self.gate(ops.ones((1, 2))))


class Told(Scaled):
    def factor(self):
        if self.count == 1:
            print("compiling")
        if self.count > 1000:
            raise RuntimeError("compiled too often")
        return 1.0


class Listed(Scaled):
    def begin(self):
        self.seen, self.rate = [], Rate()

    def factor(self):
        self.seen.append(self.count)
        self.rate.next()
        return 1.0


class OfNewObjects(Scaled):
    def factor(self):
        return 1.0 + 0.0 * keras.losses.MeanSquaredError()(ops.ones((2, 1)), ops.ones((2, 1)))


class WithDraws(Scaled):
    def begin(self):
        self.dropout = keras.layers.Dropout(0.5)

    def factor(self):
        return ops.mean(self.dropout(ops.ones((8,)), training=True)) + np.random.uniform()


HARMLESS = [Scaled, Cached, Built, Told, Listed, OfNewObjects, WithDraws]


@pytest.mark.filterwarnings("ignore::perigee.PerigeeWarning")
@pytest.mark.parametrize("kind", HARMLESS)
def test_one_that_does_not_depend_on_them_trains(kind):
    history = trained(kind())

    assert np.isfinite(history.history["loss"]).all()


@pytest.mark.filterwarnings("ignore::perigee.PerigeeWarning")
def test_it_can_be_turned_off():
    step = WarmingUp()
    step.ignore_findings = ("PG417",)

    trained(step)


def test_eager_steps_are_not_looked_at():
    step = WarmingUp()

    trained(step, execution="eager")

    assert step.count == ROWS // BATCH


class WarmingUpByAVariable(WarmingUp):
    """As the error says: its lines, with the numbers of the program."""

    def begin(self):
        self.count = keras.Variable(self.count, dtype="int32", trainable=False)

    def train_step(self, batch):
        self.count.assign(self.count + 1)
        factor, (x, y) = keras.ops.minimum(1.0, self.count / 4), batch

        def objective():
            return factor * ops.mean((self.model(x, training=True) - y) ** 2)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def test_the_lines_of_the_error_train_as_the_eager_step():
    with pytest.raises(CompiledAttributeError) as caught:
        trained(WarmingUp())
    for line in (
        'self.count = keras.Variable(self.count, dtype="int32", trainable=False)',
        "self.count.assign(self.count + ...)",
        "keras.ops.minimum(1.0, self.count / 10)",
    ):
        assert line in str(caught.value)

    eager, compiled = WarmingUp(), WarmingUpByAVariable()
    trained(eager, epochs=3, execution="eager")
    trained(compiled, epochs=3)

    for one, other in zip(eager.model.get_weights(), compiled.model.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)
