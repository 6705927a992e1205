"""Meta-learning: weights from which one step of descent nearly fits a new sine wave.

For each task the weights take a step on ten points of its wave; the loss on ten other points is
differentiated through that step, down to the initial weights (MAML: Finn et al., 2017, algorithm
2).

What Perigee does here: gradients of gradients, written alike on three backends; the inner steps are
plain tensors, so no optimizer or variable has to be restored.

    python examples/gallery/inner_loop.py               # any backend; some 10 seconds
"""

import keras
import numpy as np
from figures import draw_curves
from keras import ops

import perigee as pg

SEED = 7
TASKS = 4
"""Tasks per batch."""


class Maml(pg.Step):
    """Train weights that learn fast.

    A batch is (x, y, other x, other y), each `(TASKS, points, 1)`.

    Args:
        model: From `(points, 1)` to `(points, 1)`.
        inner_steps: How many steps of descent a task gets.
        inner_rate: Their learning rate.
    """

    def __init__(self, model, inner_steps=1, inner_rate=0.1):
        self.model, self.inner_steps, self.inner_rate = model, inner_steps, inner_rate
        self.optimizer = keras.optimizers.Adam(2e-3)

    def train_step(self, batch):
        loss = self.minimize(lambda: self.losses(batch), self.optimizer, self.model)
        return {"loss": loss}

    def test_step(self, batch):
        return {"loss": self.losses(batch)}

    def losses(self, batch):
        """Return the loss of each task after learning it, `(TASKS,)`."""
        losses = []
        for task in range(TASKS):
            x, y, other_x, other_y = (part[task] for part in batch)
            losses.append(self.error(self.adapted(x, y), other_x, other_y))
        return ops.stack(losses)

    def adapted(self, x, y):
        weights = [ops.copy(v) for v in self.model.trainable_variables]
        for _ in range(self.inner_steps):
            slopes = self.gradients(lambda *given: self.error(given, x, y), weights)
            pairs = zip(weights, slopes, strict=True)
            weights = [weight - self.inner_rate * slope for weight, slope in pairs]
        return weights

    def error(self, weights, x, y):
        y_pred, _ = self.model.stateless_call(list(weights), [], x)
        return ops.mean(ops.square(y - y_pred))


def make_step():
    return Maml(make_model())


def make_model():
    return keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(40, activation="tanh"),
            keras.layers.Dense(40, activation="tanh"),
            keras.layers.Dense(1),
        ]
    )


def make_data():
    """Return tasks to train on, and others to validate on."""
    return make_tasks(160, seed=SEED), make_tasks(32, seed=SEED + 1)


def make_tasks(tasks, seed, points=10):
    """Return waves of random height and phase, as (x, y, other x, other y) for each task."""
    random = np.random.default_rng(seed)
    height, phase = random.uniform(0.5, 2.0, (tasks, 1, 1)), random.uniform(0, 3, (tasks, 1, 1))
    x = random.uniform(-3, 3, (2, tasks, points, 1))
    y = height * np.sin(x + phase)
    return tuple(array.astype("float32") for array in (x[0], y[0], x[1], y[1]))


def main(epochs=5, directory=None):
    keras.utils.set_random_seed(SEED)
    train, valid = make_data()
    history = pg.fit(
        make_step(), train, validation=valid, epochs=epochs, batch_size=TASKS, run=directory
    )
    draw_curves(directory, "curves", {k: history.history[k] for k in ("loss", "val_loss")})
    return history


if __name__ == "__main__":
    main(directory="runs/inner_loop")
