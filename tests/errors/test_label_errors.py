"""PG203 to PG206: labels and predictions that a Keras loss takes, and that cannot be meant."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import (
    BroadcastError,
    LabelEncodingError,
    LabelRangeError,
    LogitsError,
    PairingError,
)

ROWS, FEATURES, CLASSES = 6, 4, 3


class Classifier(pg.Step):
    """Minimizes a Keras loss of one model."""

    def __init__(self, loss, units=CLASSES, activation=None):
        self.model = keras.Sequential(
            [keras.Input((FEATURES,)), keras.layers.Dense(units, activation=activation)]
        )
        self.optimizer = keras.optimizers.SGD(0.1)
        self.loss = loss

    def train_step(self, batch):
        x, y = batch
        return {"loss": self.minimize(lambda: self.loss(y, self.model(x)), self.optimizer)}

    def test_step(self, batch):
        x, y = batch
        return {"loss": self.loss(y, self.model(x))}


@pytest.fixture
def x():
    return np.random.normal(size=(ROWS, FEATURES)).astype("float32")


@pytest.fixture
def ids():
    return np.arange(ROWS, dtype="int32") % CLASSES


@pytest.mark.parametrize(
    ("labels", "units"),
    [((ROWS, 1), CLASSES), ((ROWS, CLASSES), 1), ((ROWS,), CLASSES)],
    ids=["column against matrix", "matrix against column", "vector against matrix"],
)
def test_labels_and_predictions_that_broadcast_are_refused(x, refused, labels, units):
    step = Classifier(keras.losses.MeanSquaredError(), units)

    error = refused(BroadcastError, step, (x, np.zeros(labels, "float32")))

    assert isinstance(error, ValueError)
    assert error.code == "PG203"
    assert (error.where, error.y_true, error.y_pred) == ("MeanSquaredError", labels, (ROWS, units))
    assert f"labels of shape {labels} with predictions of shape {(ROWS, units)}" in str(error)


@pytest.mark.parametrize("labels", [(ROWS,), (ROWS, 1)])
def test_labels_that_keras_brings_to_one_rank_are_taken(x, labels):
    step = Classifier(keras.losses.MeanSquaredError(), units=1)

    assert pg.fit(step, (x, np.ones(labels, "float32")), progress="off").history["loss"]


class Own(keras.losses.Loss):
    """Written by the user: it takes class ids."""

    def call(self, y_true, y_pred):
        return ops.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)


@pytest.mark.parametrize("is_column", [False, True])
def test_a_loss_of_ones_own_may_take_class_ids(x, ids, is_column):
    labels = ids[:, None] if is_column else ids

    assert pg.fit(Classifier(Own()), (x, labels), progress="off").history["loss"]


class Distance(keras.losses.Loss):
    """Written by the user, and broadcasts."""

    def call(self, y_true, y_pred):
        return ops.mean(ops.square(y_true - y_pred), axis=-1)


def test_a_loss_of_ones_own_may_take_labels_of_another_shape(x):
    labels = np.zeros((ROWS, 1), "float32")

    assert pg.fit(Classifier(Distance()), (x, labels), progress="off").history["loss"]


def test_a_loss_of_ones_own_in_which_every_label_meets_every_prediction_is_refused(x, refused):
    """Keras brings what functions get to one rank, but not what `Loss.call` gets."""
    labels = x[:, 0] - 2 * x[:, 1]

    error = refused(PairingError, Classifier(Distance(), units=1), (x, labels))

    assert error.code == "PG211"
    assert error.shape == (ROWS,)


def test_one_label_for_all_examples_is_no_fault(x):
    step = Classifier(
        lambda _, y_pred: keras.losses.MeanSquaredError()(ops.ones((1, 1)), y_pred), 1
    )

    assert pg.fit(step, (x, x[:, :1]), progress="off").history["loss"]


def test_class_ids_for_a_loss_of_one_hot_labels_are_refused(x, ids, refused):
    step = Classifier(keras.losses.CategoricalCrossentropy(from_logits=True))

    error = refused(LabelEncodingError, step, (x, ids))

    assert error.code == "PG204"
    assert (error.y_true, error.y_pred) == ((ROWS,), (ROWS, CLASSES))
    assert error.instead == "SparseCategoricalCrossentropy"
    assert "CategoricalCrossentropy got labels of shape" in str(error)
    assert "integer class ids" in error.happened
    assert "use `SparseCategoricalCrossentropy`" in error.fix


def test_a_column_of_class_ids_for_one_hot_labels_is_refused(x, ids, refused):
    step = Classifier(keras.losses.CategoricalFocalCrossentropy())

    error = refused(LabelEncodingError, step, (x, ids[:, None]))

    assert error.y_true == (ROWS, 1)


def test_one_hot_labels_for_a_loss_of_class_ids_are_refused(x, ids, refused):
    step = Classifier(keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    error = refused(LabelEncodingError, step, (x, np.eye(CLASSES, dtype="float32")[ids]))

    assert error.y_true == (ROWS, CLASSES)
    assert error.instead == "CategoricalCrossentropy"
    assert "one value for each class" in error.happened


@pytest.mark.parametrize("wrong", [-1, CLASSES, 7])
def test_a_class_id_without_an_output_is_refused(x, ids, refused, wrong):
    row = 4
    ids[row] = wrong
    step = Classifier(keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    error = refused(LabelRangeError, step, (x, ids), shuffle=False)

    assert error.code == "PG205"
    assert (error.label, error.row, error.low, error.high) == (wrong, row, 0, CLASSES - 1)
    assert f"got label {wrong} at row {row} of the batch" in str(error)
    assert f"labels from 0 to {CLASSES - 1}" in error.expected


def test_the_class_to_ignore_may_lie_outside(x, ids):
    ignored = -1
    ids[2] = ignored
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=ignored)

    history = pg.fit(Classifier(loss), (x, ids), progress="off").history

    assert np.isfinite(history["loss"]).all()


def test_only_the_class_to_ignore_may_lie_outside(x, ids, refused):
    ids[2], ids[3] = -1, -2
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)

    assert refused(LabelRangeError, Classifier(loss), (x, ids)).label == -2


def test_binary_labels_outside_zero_and_one_are_refused(x, ids, refused):
    step = Classifier(keras.losses.BinaryCrossentropy(from_logits=True), units=1)

    error = refused(LabelRangeError, step, (x, ids[:, None]), shuffle=False)

    assert (error.label, error.row, error.low, error.high) == (2, 2, 0, 1)


def test_noise_on_binary_labels_is_no_other_class(x, ids):
    """GANs are trained on labels such as 1 + 0.05 * uniform, or from 0.7 to 1.2."""
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    noise = np.linspace(-0.3, 0.3, ROWS).astype("float32")[:, None]
    data = (x, (ids[:, None] > 0) + noise)

    assert not [f for f in pg.check(Classifier(loss, units=1), data) if f.severity == "error"]
    history = pg.fit(Classifier(loss, units=1), data, progress="off", execution="eager").history

    assert np.isfinite(history["loss"]).all()


def test_what_resizing_adds_to_binary_labels_is_taken(x):
    labels = np.full((ROWS, 1), 1.0005, "float32")
    step = Classifier(keras.losses.BinaryCrossentropy(from_logits=True), units=1)

    assert pg.fit(step, (x, labels), execution="eager", progress="off").history["loss"]


@pytest.mark.only_jax  # elsewhere Keras's own kernels refuse such labels
def test_labels_that_a_mask_leaves_out_may_lie_outside():
    words = np.array([[1, 2, 0, 0], [2, 1, 1, 0]])
    labels = np.where(words == 0, -1, words - 1)
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(3, 4, mask_zero=True),
            keras.layers.Dense(2),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    step = pg.Supervised(model, "sgd", loss)

    assert np.isfinite(pg.fit(step, (words, labels), progress="off").history["loss"]).all()


LOSSES = {
    "sparse": keras.losses.SparseCategoricalCrossentropy,
    "categorical": keras.losses.CategoricalCrossentropy,
}


class OfProbabilities(Classifier):
    """Hides the scores behind the softmax: on TensorFlow Keras finds them where it can."""

    def __init__(self, loss):
        super().__init__(lambda y, y_pred: loss(y, y_pred * 1.0), activation="softmax")


@pytest.mark.parametrize("name", LOSSES)
def test_probabilities_for_a_loss_of_scores_are_refused(x, ids, refused, name):
    y = ids if name == "sparse" else np.eye(CLASSES, dtype="float32")[ids]
    step = OfProbabilities(LOSSES[name](from_logits=True))

    error = refused(LogitsError, step, (x, y))

    assert error.code == "PG206"
    assert error.from_logits is True
    assert 0 <= error.low < error.high <= 1
    assert "(from_logits=True) got probabilities" in str(error)
    assert "remove the softmax" in error.fix


@pytest.mark.parametrize("name", LOSSES)
def test_scores_for_a_loss_of_probabilities_are_refused(x, ids, refused, name):
    y = ids if name == "sparse" else np.eye(CLASSES, dtype="float32")[ids]

    error = refused(LogitsError, Classifier(LOSSES[name]()), (x, y))

    assert error.from_logits is False
    assert error.low < 0
    assert "(from_logits=False) got logits" in str(error)
    assert "from_logits=True" in error.fix


def test_binary_scores_for_a_loss_of_probabilities_are_refused(x, ids, refused):
    step = Classifier(keras.losses.BinaryCrossentropy(), units=1)

    refused(LogitsError, step, (x, (ids[:, None] > 0).astype("float32")))


@pytest.mark.parametrize(("is_softmax", "from_logits"), [(True, False), (False, True)])
def test_predictions_that_fit_the_loss_are_taken(x, ids, is_softmax, from_logits):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    step = Classifier(loss, activation="softmax" if is_softmax else None)

    assert pg.fit(step, (x, ids), execution="eager", progress="off").stop_reason == "epochs"


def test_labels_are_checked_by_evaluate_as_well(x, ids, refused):
    ids[0] = CLASSES
    step = Classifier(keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    assert refused(LabelRangeError, step, (x, ids), by=pg.evaluate).row == 0


def test_labels_of_the_validation_are_checked_before_training(x, ids, refused):
    wrong = ids + 1
    step = Classifier(keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    refused(LabelRangeError, step, (x, ids), validation=(x, wrong))


def test_a_finished_check_leaves_the_loss_to_the_user(x, ids):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pg.fit(Classifier(loss), (x, ids), progress="off")

    one_hot = ops.one_hot(ids, CLASSES)
    with pytest.raises(ValueError) as caught:  # Keras's own words
        loss(one_hot, one_hot)
    assert not isinstance(caught.value, pg.PerigeeError)
