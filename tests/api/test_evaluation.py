"""Measuring and predicting: exact, repeatable, and without a trace."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._step.state import snapshot, track

ROWS, BATCH, FEATURES = 11, 4, 3


class Writing(pg.Step):
    """Writes every kind of state while it measures and while it predicts."""

    def __init__(self):
        self.model = keras.Sequential(
            [
                keras.Input((FEATURES,)),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.5),
                keras.layers.Dense(1),
            ]
        )
        self.noise = keras.random.SeedGenerator(5)
        self.average = keras.metrics.Mean(name="average")
        self.count = keras.Variable(0, dtype="int32", trainable=False)

    def run(self, batch):
        self.count.assign_add(1)
        noisy = batch + keras.random.normal(ops.shape(batch), seed=self.noise)
        y_pred = self.model(noisy, training=True)
        self.average.update_state(y_pred)
        return y_pred

    def test_step(self, batch):
        return {"value": ops.mean(self.run(batch))}

    def predict_step(self, batch):
        return self.run(batch)


@pytest.fixture
def x():
    return np.random.normal(size=(ROWS, FEATURES)).astype("float32")


def bits(step):
    return [value.tobytes() for value in snapshot(track(step).variables)]


@pytest.mark.parametrize("by", [pg.evaluate, pg.predict])
@pytest.mark.parametrize("kind", ["arrays", "batches"])
def test_whatever_the_step_writes_is_put_back(x, by, kind):
    step = Writing()
    step.average.update_state(3.0)
    keras.random.normal((2,), seed=step.noise)
    before = bits(step)

    by(step, x if kind == "arrays" else [x[:BATCH], x[BATCH:]])

    assert bits(step) == before


@pytest.mark.parametrize("by", [pg.evaluate, pg.predict])
def test_it_is_put_back_after_an_exception_as_well(x, by):
    def failing():
        yield x[:BATCH]
        raise KeyError("boom")

    step = Writing()
    before = bits(step)

    with pytest.raises(KeyError):
        by(step, failing)

    assert bits(step) == before


def test_two_evaluations_agree_with_dropout_active(x):
    step = Writing()

    first = pg.evaluate(step, x, batch_size=BATCH)
    keras.random.normal((2,), seed=step.noise)
    step.model.layers[1](x, training=True)

    assert pg.evaluate(step, x, batch_size=BATCH) == first


def predicted(step, x, **arguments):
    return pg.predict(step, x, batch_size=BATCH, **arguments)


def test_each_prediction_has_draws_of_its_own(x):
    step = Writing()
    keras.utils.set_random_seed(7)  # as the test began
    again = Writing()

    first, second = predicted(step, x), predicted(step, x)

    assert not np.array_equal(first, second)
    pg.evaluate(again, x)
    assert [p.tolist() for p in (first, second)] == [predicted(again, x).tolist() for _ in range(2)]


def test_draws_within_a_prediction_differ_from_batch_to_batch(x):
    class Noise(Writing):
        def predict_step(self, batch):
            return keras.random.normal(ops.shape(batch), seed=self.noise)

    assert len(np.unique(predicted(Noise(), x))) == ROWS * FEATURES


@pytest.mark.parametrize("seed", [0, 3, 2**40])
def test_a_seed_repeats_a_prediction(x, seed):
    step = Writing()

    first = predicted(step, x, seed=seed)
    before = bits(step)
    keras.random.normal((2,), seed=step.noise)
    predicted(step, x)

    assert np.array_equal(predicted(step, x, seed=seed), first)
    assert not np.array_equal(predicted(step, x, seed=seed + 1), first)
    assert bits(step) != before  # by the draw above alone
    keras.random.normal((2,), seed=step.noise)


def test_a_seed_repeats_what_a_model_of_keras_predicts_too(x):
    model = keras.Sequential(
        [keras.Input((FEATURES,)), keras.layers.Lambda(lambda v: v), Always(0.5)]
    )
    model.compile()
    step = pg.KerasStep(model)

    assert not np.array_equal(predicted(step, (x,)), predicted(step, (x,)))
    before = bits(step)
    first = predicted(step, (x,), seed=1)
    assert bits(step) == before
    assert np.array_equal(predicted(step, (x,), seed=1), first)


class Always(keras.layers.Dropout):
    """Dropout that also drops in inference."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


@pytest.mark.parametrize("seed", [-1, 1.5, "one"])
def test_another_seed_is_refused(x, seed):
    with pytest.raises(pg.PerigeeError, match="seed="):
        predicted(Writing(), x, seed=seed)


def test_what_a_callback_predicts_is_the_same_after_a_resume(x, tmp_path):
    class Training(Writing):
        def train_step(self, batch):
            return {"loss": ops.mean(self.run(batch))}

    class Predicting(keras.callbacks.Callback):
        def __init__(self, step):
            super().__init__()
            self.step, self.found = step, []

        def on_epoch_end(self, epoch, logs=None):
            self.found.append(predicted(self.step, x).tolist())

    def trained(epochs, run):
        keras.utils.set_random_seed(1)
        step = Training()
        seen = Predicting(step)
        pg.fit(step, x, epochs=epochs, run=run, callbacks=[seen], progress="off", seed=1)
        return seen.found

    whole = trained(4, None)
    assert trained(2, tmp_path / "run") == whole[:2]
    assert trained(4, tmp_path / "run") == whole  # the callback keeps what it has found


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="Keras refuses unseeded draws within JAX's traces"
)
def test_measuring_draws_nothing_from_the_global_generator(x):
    class Unseeded(pg.Step):
        def test_step(self, batch):
            return {"noise": ops.mean(keras.random.normal(ops.shape(batch)))}

    def next_draw(measures):
        keras.utils.set_random_seed(3)
        keras.random.normal((1,))
        if measures:
            pg.evaluate(Unseeded(), x)
        return np.array(ops.convert_to_numpy(keras.random.normal((4,))))

    assert np.array_equal(next_draw(True), next_draw(False))


class Measuring(pg.Step):
    def __init__(self):
        self.largest = keras.metrics.MeanAbsoluteError(name="error")

    def test_step(self, batch):
        self.largest.update_state(ops.zeros_like(batch), batch)
        return {"mean": ops.mean(batch), "first": batch[:, 0]}

    def predict_step(self, batch):
        return batch


@pytest.mark.parametrize("kind", ["arrays", "batches", "function", "iterator"])
def test_values_are_exact_over_ragged_batches(x, kind):
    batches = [x[start : start + BATCH] for start in range(0, ROWS, BATCH)]
    data = {
        "arrays": x,
        "batches": batches,
        "function": lambda: iter(batches),
        "iterator": iter(batches),
    }[kind]
    arguments = {"batch_size": BATCH} if kind == "arrays" else {}

    logged = pg.evaluate(Measuring(), data, **arguments)

    exact = x.astype("float64")
    assert logged == pytest.approx(
        {"mean": exact.mean(), "first": exact[:, 0].mean(), "error": np.abs(exact).mean()},
        rel=1e-5,
    )


def test_metrics_begin_anew_and_keep_what_they_had(x):
    step = Measuring()
    step.largest.update_state([0.0], [1e6])
    kept = float(step.largest.result())

    logged = pg.evaluate(step, x)

    assert logged["error"] == pytest.approx(np.abs(x).mean(), rel=1e-5)
    assert float(step.largest.result()) == kept


@pytest.mark.parametrize("steps", [1, 2, 3, 9])
@pytest.mark.parametrize("by", [pg.evaluate, pg.predict])
def test_as_many_batches_are_drawn_as_asked(x, steps, by):
    covered = x[: steps * BATCH]

    found = by(Measuring(), x, batch_size=BATCH, steps=steps)

    if by is pg.predict:
        assert np.array_equal(found, covered)
    else:
        assert found["mean"] == pytest.approx(covered.mean(), rel=1e-4)


def test_arrays_are_measured_in_their_order_whatever_the_seeds(x):
    assert np.array_equal(pg.predict(Measuring(), x, batch_size=BATCH), x)


def test_data_of_several_arrays_keeps_its_structure(x):
    class Named(pg.Step):
        def test_step(self, batch):
            return {"sum": ops.sum(batch["x"], axis=1) + batch["more"][0]}

    data = {"x": x, "more": (np.arange(ROWS, dtype="float32"), None)}

    logged = pg.evaluate(Named(), data, batch_size=BATCH)

    assert logged["sum"] == pytest.approx(x.sum(axis=1).mean() + (ROWS - 1) / 2, rel=1e-4)


def test_many_batches_are_added_up_without_loss():
    """More batches than wait on the device before they are read."""
    rows = 150
    data = [np.full((1, 1), index, "float32") for index in range(rows)]

    assert pg.evaluate(Measuring(), data)["mean"] == (rows - 1) / 2


# Predicting.


TREES = {
    "tensor": lambda x: x[:, 0],
    "tuple": lambda x: (x, x[:, :1]),
    "dict": lambda x: {"a": x, "b": {"c": [x[:, 0], x * 2]}},
}


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES.keys())
def test_predictions_are_trees_put_together_over_ragged_batches(x, tree):
    class Predicting(pg.Step):
        def predict_step(self, batch):
            return tree(batch)

    found = pg.predict(Predicting(), x, batch_size=BATCH)

    expected = tree(x)
    keras.tree.assert_same_structure(found, expected)
    for ours, theirs in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        assert isinstance(ours, np.ndarray)
        assert np.array_equal(ours, theirs)


def test_predictions_of_any_dtype_keep_it(x):
    class Predicting(pg.Step):
        def predict_step(self, batch):
            return {"class": ops.cast(ops.argmax(batch, axis=1), "int32"), "is": batch[:, 0] > 0}

    found = pg.predict(Predicting(), x, batch_size=BATCH)

    assert (found["class"].dtype, found["is"].dtype) == (np.int32, np.bool_)
    assert np.array_equal(found["class"], x.argmax(axis=1))


def test_lazy_models_are_built_by_measuring_them(x):
    class Lazy(pg.Step):
        def __init__(self):
            self.model = keras.Sequential([keras.layers.Dense(2)])

        def predict_step(self, batch):
            return self.model(batch)

    step = Lazy()

    first = pg.predict(step, x)

    assert first.shape == (ROWS, 2)
    assert np.allclose(first, ops.convert_to_numpy(step.model(x)), rtol=1e-5)
