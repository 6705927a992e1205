"""Perigee on JAX trains where TensorFlow is not installed."""

import importlib.util
import os
import subprocess
import sys

import pytest

TIMEOUT_SECS = 300

# A process of its own: this one may have imported TensorFlow already.
PROGRAM = """
import importlib.util, sys

class NoTensorFlow:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ImportError("TensorFlow is not there")

sys.meta_path.insert(0, NoTensorFlow())

import keras
import numpy as np
import perigee as pg

ROWS, CLASSES, BATCH = 200, 4, 32
random = np.random.default_rng(0)
labels = random.integers(CLASSES, size=ROWS).astype("int32")
images = random.normal(size=(CLASSES, 16))[labels] + 0.3 * random.normal(size=(ROWS, 16))
images = images.astype("float32")

class Classifier(pg.Step):
    def __init__(self):
        layers = [keras.layers.Dense(16, "relu"), keras.layers.Dropout(0.1)]
        self.model = keras.Sequential([keras.Input((16,)), *layers, keras.layers.Dense(CLASSES)])
        self.optimizer = keras.optimizers.Adam(0.02)
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def train_step(self, batch):
        x, y = batch

        def objective():
            logits = self.model(x, training=True)
            return self.loss(y, logits), logits

        loss, logits = self.minimize(objective, self.optimizer, self.model)
        self.accuracy.update_state(y, logits)
        return {"loss": loss}

    def test_step(self, batch):
        x, y = batch
        logits = self.model(x, training=False)
        self.accuracy.update_state(y, logits)
        return {"loss": self.loss(y, logits)}

    def predict_step(self, batch):
        return self.model(batch[0], training=False)

class Batches(keras.utils.PyDataset):
    def __len__(self):
        return -(-ROWS // BATCH)

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return images[rows], labels[rows]

def trained(data, **arguments):
    keras.utils.set_random_seed(1)
    step = Classifier()
    history = pg.fit(step, data, epochs=8, validation=data, progress="off", **arguments)
    assert pg.predict(step, data).shape == (ROWS, CLASSES)
    assert history.history["val_accuracy"][-1] > 0.95, history.history
    print("trained from", type(data).__name__)

trained((images, labels), batch_size=BATCH)
trained(Batches())
if importlib.util.find_spec("torch"):
    import torch
    pairs = torch.utils.data.TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))
    trained(torch.utils.data.DataLoader(pairs, batch_size=BATCH))
assert "tensorflow" not in sys.modules
"""


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.only_jax
def test_jax_needs_no_tensorflow():
    kinds = ["tuple", "Batches", *(["DataLoader"] if importlib.util.find_spec("torch") else [])]

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECS,
    )

    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.splitlines() == [f"trained from {kind}" for kind in kinds]
