"""Data made by one framework feeds a Step that runs on another."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg

ROWS, FEATURES, BATCH, EPOCHS = 22, 3, 8, 2


class Regression(pg.Step):
    """Least squares."""

    def __init__(self):
        self.model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch
        objective = lambda: ops.square(y - self.model(x, training=True))[:, 0]  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, self.model)}

    def test_step(self, batch):
        x, y = batch
        return {"loss": ops.square(y - self.model(x, training=False))[:, 0]}

    def predict_step(self, batch):
        return self.model(batch[0], training=False)


@pytest.fixture
def arrays():
    x = np.random.normal(size=(ROWS, FEATURES)).astype("float32")
    return x, x[:, :1]


def results(data, **arguments):
    """Return all that training, measuring and predicting come to."""
    keras.utils.set_random_seed(3)
    step = Regression()
    history = pg.fit(step, data, epochs=EPOCHS, validation=data, progress="off", **arguments)
    sizes = {name: value for name, value in arguments.items() if name == "batch_size"}
    predicted = pg.predict(step, data, **sizes)
    return [*history.history["loss"], *history.history["val_loss"], *predicted.ravel()]


def expected(arrays):
    return results(arrays, batch_size=BATCH, shuffle=False)


def test_tf_data_feeds_every_framework(arrays):
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.from_tensor_slices(arrays).batch(BATCH)

    np.testing.assert_allclose(results(dataset), expected(arrays), rtol=1e-6)


def test_a_torch_data_loader_feeds_every_framework(arrays):
    torch = pytest.importorskip("torch")
    dataset = torch.utils.data.TensorDataset(*(torch.from_numpy(array) for array in arrays))
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH)

    np.testing.assert_allclose(results(loader), expected(arrays), rtol=1e-6)


def test_tensors_of_the_framework_that_runs_are_batches(arrays):
    starts = range(0, ROWS, BATCH)
    batches = [
        tuple(ops.convert_to_tensor(array[start : start + BATCH]) for array in arrays)
        for start in starts
    ]

    np.testing.assert_allclose(results(batches), expected(arrays), rtol=1e-6)


def test_one_array_filled_anew_for_each_batch_is_trained_on_as_it_was_then(arrays):
    def batches():
        x, y = (np.empty((BATCH, *array.shape[1:]), "float32") for array in arrays)
        for start in range(0, ROWS, BATCH):
            count = min(BATCH, ROWS - start)
            x[:count], y[:count] = (array[start : start + count] for array in arrays)
            yield x[:count], y[:count]

    np.testing.assert_allclose(results(batches), expected(arrays), rtol=1e-6)
