"""`execution="eager"` on JAX: values are at hand from the first call, the rehearsal included."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg

if keras.backend.backend() != "jax":
    pytest.skip("other frameworks rehearse with values anyway", allow_module_level=True)

import jax
from jax.core import Tracer

X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
Y = X[:, :1]


class WithValues(pg.Step):
    """Uses values wherever plain Python would, outside the objective by `float` and NumPy too."""

    def __init__(self):
        keras.utils.set_random_seed(0)
        layers = keras.layers.Dense(4), keras.layers.Dropout(0.2), keras.layers.Dense(1)
        self.model = keras.Sequential(layers)  # built by its first call
        self.optimizer = keras.optimizers.Adam(0.01)
        self.error = keras.metrics.MeanAbsoluteError()
        self.seen: list[float] = []

    def train_step(self, batch):
        x, y = batch

        def objective():
            loss = ops.mean(ops.square(self.model(x, training=True) - y))
            if loss > 1e6:
                raise AssertionError("it has no value")
            return loss

        loss = self.minimize(objective, self.optimizer, self.model)
        self.error.update_state(y, self.model(x))
        assert not any(isinstance(v, Tracer) for v in (x, loss, self.error.result()))
        self.see(loss)
        return {"loss": loss}

    def test_step(self, batch):
        loss = ops.mean(ops.square(self.model(batch[0]) - batch[1]))
        self.see(loss)
        return {"loss": loss}

    def predict_step(self, batch):
        predicted = self.model(batch)
        self.see(predicted[0, 0])
        return predicted

    def see(self, value):
        if value > -1e6:
            self.seen.append(float(f"{float(value):.3f}") + np.asarray(value))


def fit(step, **arguments):
    arguments = {"execution": "eager", "batch_size": 8, "seed": 0, **arguments}
    return pg.fit(step, (X, Y), progress="off", **arguments).history


@pytest.mark.parametrize(
    "arguments",
    [{}, {"accumulate": 2}, {"nonfinite": "skip"}, {"validation": (X, Y)}],
    ids=["plainly", "accumulating", "skipping", "validating"],
)
def test_all_values_are_at_hand(arguments):
    step = WithValues()

    assert np.isfinite(fit(step, **arguments)["loss"]).all()
    assert step.seen


def test_the_rehearsal_leaves_no_trace():
    class Compiled(WithValues):
        def see(self, value):
            pass

        def train_step(self, batch):
            x, y = batch
            objective = lambda: ops.mean(ops.square(self.model(x, training=True) - y))  # noqa: E731
            loss = self.minimize(objective, self.optimizer, self.model)
            self.error.update_state(y, self.model(x))
            return {"loss": loss}

    eager, compiled = fit(WithValues(), epochs=2), fit(Compiled(), execution="graph", epochs=2)

    assert eager.keys() == compiled.keys()
    for name, values in eager.items():
        np.testing.assert_allclose(values, compiled[name], rtol=1e-5)


def test_evaluation_and_prediction():
    step = WithValues()

    assert np.isfinite(pg.evaluate(step, (X, Y), execution="eager")["loss"])
    assert pg.predict(step, X, execution="eager").shape == (20, 1)


def test_check_runs_a_step_that_needs_values():
    report = pg.check(WithValues(), (X, Y))

    assert "PG001" not in str(report)


def test_a_step_that_needs_values_is_told_how_to_run():
    with pytest.raises(jax.errors.ConcretizationTypeError) as caught:
        fit(WithValues(), execution="auto")

    assert any('execution="eager"' in note for note in caught.value.__notes__)


def test_a_run_with_lazy_layers_is_restored(tmp_path):
    whole = fit(WithValues(), epochs=2)["loss"]
    fit(WithValues(), run=tmp_path / "run")

    assert fit(WithValues(), epochs=2, run=tmp_path / "run")["loss"] == whole


def test_random_layers_of_preprocessing():
    class Cropping(pg.Step):
        def __init__(self):
            keras.utils.set_random_seed(0)
            self.crop = keras.Sequential(
                [keras.layers.RandomCrop(4, 4), keras.layers.RandomFlip(), keras.layers.Flatten()]
            )
            self.model = keras.Sequential([keras.layers.Dense(1)])
            self.optimizer = keras.optimizers.SGD(0.01)

        def train_step(self, batch):
            x, y = batch
            x = self.crop(x, training=True)
            objective = lambda: ops.mean(ops.square(self.model(x) - y))  # noqa: E731
            return {"loss": self.minimize(objective, self.optimizer, self.model)}

    images = np.random.default_rng(0).normal(size=(8, 6, 6, 1)).astype("float32")
    given = {"batch_size": 4, "seed": 0, "progress": "off", "shuffle": False}

    eager = pg.fit(Cropping(), (images, Y[:8]), execution="eager", **given).history["loss"]
    with pytest.raises(IndexError) as caught:  # Keras's crop needs to know where
        pg.fit(Cropping(), (images, Y[:8]), **given)

    assert np.isfinite(eager).all()
    assert any('execution="eager"' in note for note in caught.value.__notes__)


def test_debugging_nans_names_the_layer():
    class Logarithm(keras.Layer):
        def call(self, x):
            return ops.log(x - 1e6)

    class Failing(pg.Step):
        def __init__(self):
            self.model = keras.Sequential(
                [keras.layers.Dense(2), Logarithm(name="below_zero"), keras.layers.Dense(1)]
            )
            self.optimizer = keras.optimizers.SGD(0.01)

        def train_step(self, batch):
            x, y = batch
            objective = lambda: ops.mean(ops.square(self.model(x) - y))  # noqa: E731
            return {"loss": self.minimize(objective, self.optimizer, self.model)}

    jax.config.update("jax_debug_nans", True)
    try:
        for execution in ("auto", "eager"):
            with pytest.raises(FloatingPointError) as caught:
                fit(Failing(), execution=execution)
            assert any("'below_zero' (Logarithm)" in note for note in caught.value.__notes__)
    finally:
        jax.config.update("jax_debug_nans", False)
