"""Knowledge distillation: a small student learns from a large teacher's soft labels.

The student learns the true labels and, with more weight, the teacher's probability of each class
(Hinton et al., 2015, section 2).

What Perigee does here: the teacher is only called, so it is not trained; the optimizer gets the
student's variables and no others; validation measures the student alone.

    python examples/gallery/distillation.py               # any backend; some 10 seconds
"""

import keras
from figures import draw_curves
from keras import ops
from sklearn.datasets import load_digits

import perigee as pg

SEED = 7


class Distill(pg.Step):
    """Train `student` to match `teacher`'s soft labels.

    Args:
        student: From images to logits, `(batch, 10)`; it is trained.
        teacher: The same; it is not trained.
        temperature: Divides logits to soften labels.
        weight: The weight of the soft labels, in [0, 1]; the true ones get the rest.
    """

    def __init__(self, student, teacher, temperature=3.0, weight=0.8):
        self.student, self.teacher = student, teacher
        self.temperature, self.weight = temperature, weight
        self.optimizer = keras.optimizers.Adam(3e-3)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def train_step(self, batch):
        images, labels = batch
        soft = ops.softmax(self.teacher(images, training=False) / self.temperature)

        def objective():
            logits = self.student(images, training=True)
            hard_loss = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
            cooled = logits / self.temperature
            soft_loss = ops.categorical_crossentropy(soft, cooled, from_logits=True)
            soft_loss = soft_loss * self.temperature**2
            return (1.0 - self.weight) * hard_loss + self.weight * soft_loss, (logits, soft_loss)

        loss, (logits, soft_loss) = self.minimize(objective, self.optimizer, self.student)
        self.accuracy.update_state(labels, logits)
        return {"loss": loss, "soft_loss": soft_loss}

    def test_step(self, batch):
        images, labels = batch
        self.accuracy.update_state(labels, self.student(images, training=False))
        return {}


def make_step():
    student, teacher = make_model(units=16, name="student"), make_model(units=256, name="teacher")
    teacher.trainable = False
    return Distill(student, teacher)


def make_model(units, name):
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dense(10),
        ],
        name=name,
    )


def make_data():
    """Return (images, labels) to train on, and others to validate on."""
    images, labels = load_digits(return_X_y=True)
    images, labels = (images / 16).astype("float32"), labels.astype("int32")
    return (images[:1437], labels[:1437]), (images[1437:], labels[1437:])


def main(epochs=20, directory=None):
    keras.utils.set_random_seed(SEED)
    train, valid = make_data()
    step = make_step()

    step.teacher.trainable = True
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    taught = pg.Supervised(step.teacher, keras.optimizers.Adam(2e-3), loss, ["accuracy"])
    pg.fit(taught, train, epochs=20, batch_size=64, progress="off")
    print(f"The teacher's accuracy is {pg.evaluate(taught, valid)['accuracy']:.4f}.")

    step.teacher.trainable = False
    history = pg.fit(step, train, validation=valid, epochs=epochs, batch_size=64, run=directory)
    names = ("accuracy", "val_accuracy")
    draw_curves(directory, "curves", {name: history.history[name] for name in names})
    return history


if __name__ == "__main__":
    main(directory="runs/distillation")
