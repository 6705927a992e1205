"""What a right program may do as well can be turned off; what shows each error is written down."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import perigee as pg
from perigee import _errors as errors
from perigee._cli.pages import all_pages

ROWS, FEATURES, CLASSES = 6, 4, 3
SIZE = ROWS // 2


def x():
    return np.random.default_rng(0).normal(size=(ROWS, FEATURES)).astype("float32")


def dense(units, activation=None):
    return keras.Sequential([keras.Input((FEATURES,)), layers.Dense(units, activation)])


class Trained(pg.Step):
    """Minimizes a loss of one model."""

    def __init__(self, model, loss):
        self.model, self.loss = model, loss
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        inputs, y = batch
        return {"loss": self.minimize(lambda: self.loss(y, self.model(inputs)), self.optimizer)}


class TwoOptimizers(pg.Step):
    """An adversarial autoencoder in small: two optimizers for the encoder, one after the other."""

    def __init__(self):
        self.encoder, self.decoder = dense(FEATURES), dense(FEATURES)
        self.first = keras.optimizers.Adam(0.01)
        self.second = keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5))

    def rebuilt(self, inputs):
        decoded = self.decoder(self.encoder(inputs, training=True), training=True)
        return ops.mean(ops.square(decoded - inputs), -1)

    def adversarial(self, inputs):
        return ops.softplus(-ops.sum(self.encoder(inputs, training=True), -1))

    def train_step(self, batch):
        (inputs,) = batch
        both = [self.encoder, self.decoder]
        rebuilt = self.minimize(lambda: self.rebuilt(inputs), self.first, both)
        fooled = self.minimize(lambda: self.adversarial(inputs), self.second, self.encoder)
        return {"rebuilt": rebuilt, "fooled": fooled}


class TakenFirst(TwoOptimizers):
    """Takes both gradients before either update."""

    def train_step(self, batch):
        (inputs,) = batch
        both = [self.encoder, self.decoder]
        rebuilt = self.gradients(lambda: self.rebuilt(inputs), both)
        fooled = self.gradients(lambda: self.adversarial(inputs), self.encoder)
        self.apply(self.first, rebuilt)
        self.apply(self.second, fooled)
        return {"rebuilt": rebuilt.returned, "fooled": fooled.returned}


class LoggingPenalties(pg.Step):
    """Reads the penalties to log them."""

    def __init__(self):
        self.model = keras.Sequential(
            [keras.Input((FEATURES,)), layers.Dense(1, kernel_regularizer="l2")]
        )
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        inputs, y = batch

        def objective():
            loss = ops.mean(ops.square(self.model(inputs) - y))
            return loss, ops.sum(self.model.losses[0])

        loss, penalty = self.minimize(objective, self.optimizer)
        return {"loss": loss, "penalty": penalty}


class ScalingByHand(keras.Model):
    """Multiplies the loss by the optimizer's scale itself."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(1, dtype="float32")

    def call(self, inputs):
        return self.dense(inputs)

    def train_step(self, data):
        import tensorflow as tf

        inputs, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(inputs) - y))
            scaled = loss * self.optimizer.loss_scale_factor
        gradients = tape.gradient(scaled, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


def scaling_by_hand():
    model = ScalingByHand()
    model.compile(keras.optimizers.SGD(0.1, loss_scale_factor=8.0))
    return pg.KerasStep(model)


class WithAForeignFeature(layers.Layer):
    """Holds a variable of TensorFlow's, and means it to stay as it is."""

    def __init__(self):
        super().__init__()
        import tensorflow as tf

        self.fixed = tf.Variable(np.ones(FEATURES, "float32"))

    def call(self, inputs):
        return inputs * self.fixed


def foreign():
    model = keras.Sequential([keras.Input((FEATURES,)), WithAForeignFeature(), layers.Dense(1)])
    return Trained(model, keras.losses.MeanSquaredError())


def squares(y, y_pred):
    return ops.mean(ops.square(y - y_pred))


def behind(loss):
    """Give a loss other tensors, with which Keras has kept no scores."""
    return lambda y, y_pred: loss(y, y_pred * 1.0)


def compared_to_their_mean(y, y_pred):
    y_pred = y_pred - ops.mean(y_pred, axis=0)
    return ops.mean(ops.square(y - y_pred))


ids, numbers = np.arange(ROWS) % CLASSES, x()[:, :1] - 2 * x()[:, 1:2]
MSE = keras.losses.MeanSquaredError()
SPARSE_OF_SCORES = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

MEANT = {
    "PG104": (TwoOptimizers, (x(),)),
    "PG203": (lambda: Trained(dense(CLASSES), MSE), (x(), numbers)),
    "PG204": (
        lambda: Trained(dense(1, "softmax"), keras.losses.CategoricalCrossentropy()),
        (x(), numbers),
    ),
    "PG205": (
        lambda: Trained(dense(1), keras.losses.BinaryCrossentropy(from_logits=True)),
        (x(), 3 * numbers),
    ),
    "PG206": (lambda: Trained(dense(CLASSES, "softmax"), behind(SPARSE_OF_SCORES)), (x(), ids)),
    "PG208": (LoggingPenalties, (x(), numbers)),
    "PG211": (lambda: Trained(dense(1), squares), (x(), numbers[:, 0])),
    "PG217": (lambda: Trained(dense(1), compared_to_their_mean), (x(), numbers)),
}
OF_PARTS = {"PG217"}
"""Refused only where an update adds up parts of a batch."""
OF_COMPILED_STEPS = {"PG417"}
"""Its programs: `tests/execution/test_compiled_attributes.py`."""
OF_TENSORFLOW = {"PG102": (foreign, (x(), numbers)), "PG411": (scaling_by_hand, (x(), numbers))}


def case(code):
    marks = pytest.mark.only_tensorflow if code in OF_TENSORFLOW else ()
    return pytest.param(code, marks=marks)


@pytest.mark.filterwarnings("ignore:In loss categorical_crossentropy")
@pytest.mark.parametrize("code", [case(code) for code in MEANT | OF_TENSORFLOW])
def test_an_error_that_can_be_ignored_is_raised_unless_it_is(code):
    make, data = (MEANT | OF_TENSORFLOW)[code]
    given = {"batch_size": ROWS, "execution": "eager", "progress": "off"}
    given |= {"accumulate": 2} if code in OF_PARTS else {}
    meant = make()
    meant.ignore_findings = (code,)

    with pytest.raises(pg.PerigeeError) as raised:
        pg.fit(make(), data, **given)
    history = pg.fit(meant, data, **given)

    assert raised.value.code == code
    assert history.clock.step == 1
    assert code not in [finding.code for finding in history.findings]


@pytest.mark.once
def test_each_error_that_can_be_ignored_has_a_program():
    pages = all_pages().values()
    can_be = {page.code for page in pages if page.can_be_ignored and not page.is_finding}

    assert can_be == set(MEANT) | set(OF_TENSORFLOW) | OF_COMPILED_STEPS


@pytest.mark.once
def test_what_shows_each_error_about_a_program_is_written_down():
    about_programs = [
        page
        for page in all_pages().values()
        if not page.is_finding
        and page.code[:3] in ("PG1", "PG2", "PG3", "PG4")
        and page.code[:4] != "PG45"
    ]

    assert [page.code for page in about_programs if not page.shown_by] == []


@pytest.mark.once
def test_no_two_errors_have_one_code():
    def below(error):
        for subclass in error.__subclasses__():
            if "code" in vars(subclass):
                yield subclass.code
            yield from below(subclass)

    codes = list(below(errors.PerigeeError))

    assert sorted(codes) == sorted(set(codes))


def test_keras_fit_takes_what_is_meant():
    def model():
        network = dense(CLASSES)
        network.compile("sgd", "mse")
        return network

    given = {"verbose": 0, "execution": "eager"}
    with pytest.raises(errors.BroadcastError):
        pg.keras_fit(model(), x(), numbers, **given)

    history = pg.keras_fit(model(), x(), numbers, **given, ignore_findings=["PG203"])

    assert len(history.history["loss"]) == 1


@pytest.mark.filterwarnings("ignore:In loss categorical_crossentropy")
def test_check_tells_everything_that_is_wrong_as_far_as_the_step_runs():
    """A softmax over one unit, unscaled inputs, and layers with nothing between them."""
    inputs = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dense(8), layers.Dense(8), layers.Dense(1, "softmax")]
    )
    model.compile("adam", keras.losses.CategoricalCrossentropy())

    report = pg.check(model, (255 * inputs, (inputs[:, 0] > 0).astype("int32")))

    codes = [finding.code for finding in report]
    assert codes[0] == "PG204"
    assert {"PG321", "PG123"} < set(codes)
    assert "PG224 ConstantOutput" in report.findings[0].explains
    assert "sigmoid" in report.findings[0].fix


def test_check_tells_what_is_refused_once():
    """A rule that looks at all rows would say it again."""
    step = Trained(dense(1), keras.losses.BinaryCrossentropy(from_logits=True))

    assert [finding.code for finding in pg.check(step, (x(), 3 * numbers))] == ["PG205"]


def test_one_variable_under_two_optimizers_gets_both_updates_in_order():
    step, alone = TwoOptimizers(), TwoOptimizers()
    step.ignore_findings = ("PG104",)
    for mine, other in zip(
        (*alone.encoder.weights, *alone.decoder.weights),
        (*step.encoder.weights, *step.decoder.weights),
        strict=True,
    ):
        mine.assign(other)
    epochs = 2

    pg.fit(step, (x(),), epochs=epochs, batch_size=SIZE, shuffle=False, progress="off")
    for _ in range(epochs):
        for batch in (x()[:SIZE], x()[SIZE:]):
            for loss, optimizer, parts in (
                (alone.rebuilt, alone.first, [alone.encoder, alone.decoder]),
                (alone.adversarial, alone.second, [alone.encoder]),
            ):
                one = Single(loss, optimizer, parts)
                pg.fit(one, (batch,), batch_size=SIZE, execution="eager", progress="off")

    assert int(step.first.iterations) == int(step.second.iterations) == epochs * 2
    for ours, theirs in zip(step.encoder.weights, alone.encoder.weights, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs), rtol=1e-5, atol=1e-6
        )


class Single(pg.Step):
    """One update by one optimizer."""

    def __init__(self, loss, optimizer, parts):
        self.loss, self.optimizer, self.parts = loss, optimizer, parts

    def train_step(self, batch):
        (inputs,) = batch
        return {"loss": self.minimize(lambda: self.loss(inputs), self.optimizer, self.parts)}


def test_one_variable_under_two_optimizers_is_saved_and_resumed(tmp_path):
    whole, first, second = TwoOptimizers(), TwoOptimizers(), TwoOptimizers()
    given = {"batch_size": SIZE, "shuffle": False, "execution": "eager", "progress": "off"}
    for step in (whole, first, second):
        step.ignore_findings = ("PG104",)
    for mine, other in zip(first.encoder.weights, whole.encoder.weights, strict=True):
        mine.assign(other)
    for mine, other in zip(first.decoder.weights, whole.decoder.weights, strict=True):
        mine.assign(other)

    pg.fit(whole, (x(),), epochs=2, **given)
    pg.fit(first, (x(),), epochs=1, run=tmp_path / "run", **given)
    pg.fit(second, (x(),), epochs=2, run=tmp_path / "run", **given)

    for ours, theirs in (
        (second.encoder.weights, whole.encoder.weights),
        (second.second.variables, whole.second.variables),
        (second.first.variables, whole.first.variables),
    ):
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(ops.convert_to_numpy(mine), ops.convert_to_numpy(other))


def test_two_optimizers_accumulate_where_both_gradients_are_taken_first():
    large, small = TakenFirst(), TakenFirst()
    given = {"shuffle": False, "execution": "eager", "progress": "off"}
    for step in (large, small):
        step.ignore_findings = ("PG104",)
    small.encoder.set_weights(large.encoder.get_weights())
    small.decoder.set_weights(large.decoder.get_weights())

    pg.fit(large, (x(),), epochs=1, batch_size=ROWS, **given)
    pg.fit(small, (x(),), epochs=1, batch_size=SIZE, accumulate=2, **given)

    for ours, theirs in zip(small.encoder.weights, large.encoder.weights, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs), rtol=1e-5, atol=1e-6
        )


def test_two_optimizers_one_after_the_other_do_not_accumulate():
    step = TwoOptimizers()
    step.ignore_findings = ("PG104",)

    with pytest.raises(errors.AccumulationError, match="an earlier update"):
        pg.fit(step, (x(),), batch_size=SIZE, accumulate=2, progress="off")
