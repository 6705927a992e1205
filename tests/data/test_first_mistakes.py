"""First mistakes with data: each is answered with a line, and that line works when it is pasted."""

import traceback

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee import _errors as errors
from perigee.testing import verify_resume

ROWS, FEATURES = 64, 8
x = np.random.default_rng(0).normal(size=(ROWS, FEATURES)).astype("float32")
y = x.sum(axis=1, keepdims=True)
labels = (y[:, 0] > 0).astype("int64")


def model():
    return keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])


class Pairs(pg.Step):
    """Unpacks `x, y`, as nearly every step does."""

    def __init__(self):
        self.model, self.optimizer = model(), keras.optimizers.SGD(0.01)

    def loss(self, batch):
        inputs, target = batch
        return ops.mean((self.model(inputs) - target) ** 2)

    def train_step(self, batch):
        return {"loss": self.minimize(lambda: self.loss(batch), self.optimizer)}

    def test_step(self, batch):
        return {"loss": self.loss(batch)}

    def predict_step(self, batch):
        return self.model(batch[0])


class Named(Pairs):
    """Takes a batch by its names."""

    def loss(self, batch):
        label = ops.cast(batch["label"], "float32")
        return ops.mean((self.model(batch["image"])[:, 0] - label) ** 2)


def supervised():
    return pg.Supervised(model(), "sgd", "mse")


def compiled():
    made = model()
    made.compile("sgd", "mse")
    return made


class Dataset:
    """Like a data set of Hugging Face: rows by index, all of them by a slice, columns by name."""

    column_names = ("image", "label")

    def __init__(self, kind=None):
        self.kind = kind

    def __len__(self):
        return ROWS

    def with_format(self, kind):
        return Dataset(kind)

    def __iter__(self):
        return (self[index] for index in range(ROWS))

    def __getitem__(self, key):
        if isinstance(key, str):
            return Column(self, key)
        found = {"image": x[key], "label": labels[key]}
        return found if self.kind == "numpy" else {k: v.tolist() for k, v in found.items()}


class Column:
    """A column that is read when it is asked for."""

    def __init__(self, dataset, name):
        self.dataset, self.name = dataset, name

    def __len__(self):
        return ROWS

    def __getitem__(self, key):
        return self.dataset[key][self.name]

    def __iter__(self):
        return (self[index] for index in range(ROWS))


def shown(error):
    """Return what a user sees at the end of the traceback."""
    return "".join(traceback.format_exception_only(error))


def answer(call):
    with pytest.raises(Exception) as caught:
        call()
    return shown(caught.value)


def trains(step, data, **arguments):
    history = pg.fit(step, data, progress="off", execution="eager", **arguments)
    return np.isfinite(history.history["loss"]).all()


@pytest.mark.parametrize("call", [pg.fit, pg.evaluate, pg.predict, pg.check])
def test_labels_as_a_third_argument(call):
    with pytest.raises(errors.UnknownArgumentError) as caught:
        call(Pairs(), x, y)

    line = f"pg.{call.__name__}(step, (x, y))"
    assert line in shown(caught.value)
    assert isinstance(caught.value, TypeError)
    eval(line, {"pg": pg, "step": Pairs(), "x": x, "y": y})


def test_another_third_argument():
    with pytest.raises(TypeError, match="by its name, such as `epochs="):
        pg.fit(Pairs(), (x, y), 3)


@pytest.mark.parametrize("make", [Pairs, supervised, lambda: pg.KerasStep(compiled())])
@pytest.mark.parametrize("of", ["x", "[x, y]"])
def test_labels_that_are_no_part_of_the_batch(make, of):
    data = {"x": x, "[x, y]": [x, y]}[of]

    said = answer(lambda: trains(make(), data))

    assert "pass both as one data set: `(x, y)`" in said or "pass a tuple: `(x, y)`" in said
    assert trains(make(), (x, y))


def test_batches_in_a_list_are_what_they_are():
    assert trains(Pairs(), [(x[:8], y[:8]), (x[8:], y[8:])])
    assert trains(Single(), [x, x])


class Single(Pairs):
    def loss(self, batch):
        return ops.mean(self.model(batch) ** 2)


def test_an_error_of_the_step_on_good_data_has_no_advice():
    class Broken(Pairs):
        def loss(self, batch):
            raise RuntimeError("mine")

    for data in [(x, y), [(x, y)], {"a": x}, lambda: iter([(x, y)])]:
        assert "Each item" not in answer(lambda data=data: trains(Broken(), data))


def rows():
    return [{"image": image, "label": label} for image, label in zip(x, labels, strict=True)]


def test_rows_in_a_list():
    data = rows()
    said = answer(lambda: trains(Named(), data))

    line = "{name: np.stack([row[name] for row in data]) for name in data[0]}"
    assert line in said
    assert trains(Named(), eval(line, {"np": np, "data": data}))


def test_pairs_in_a_list():
    data = list(zip(x, y, strict=True))
    said = answer(lambda: trains(Pairs(), data))

    line = "tuple(np.stack(column) for column in zip(*data))"
    assert line in said
    assert trains(Pairs(), eval(line, {"np": np, "data": data}))


@pytest.mark.parametrize("kind", [None, "numpy"])
def test_rows_of_a_hugging_face_data_set(kind):
    said = answer(lambda: trains(Named(), Dataset(kind)))

    line = 'dataset.with_format("numpy")[:]'
    assert line in said
    assert "to_tf_dataset(batch_size=32)" in said
    assert trains(Named(), eval(line, {"dataset": Dataset()}))


def test_columns_of_a_hugging_face_data_set():
    dataset = Dataset()
    said = answer(lambda: trains(Pairs(), (dataset["image"], dataset["label"])))

    assert "np.asarray(...)" in said
    assert trains(Named(), {name: np.asarray(dataset[name]) for name in dataset.column_names})


@pytest.mark.parametrize(
    ("given", "labels_given"),
    [
        (x.tolist(), y.tolist()),
        (Dataset()["image"], Dataset()["label"]),
        (x, labels.tolist()),
    ],
    ids=["lists", "columns", "a list of labels"],
)
def test_lists_and_columns_for_keras_fit(given, labels_given):
    said = answer(lambda: pg.keras_fit(compiled(), given, labels_given, verbose=0))

    assert "np.asarray(" in said
    pg.keras_fit(
        compiled(), np.asarray(given), np.asarray(labels_given), verbose=0, execution="eager"
    )


@pytest.mark.only_tensorflow
@pytest.mark.parametrize("target", [y, labels], ids=["rows", "scalars"])
@pytest.mark.parametrize("place", ["data", "validation", "evaluate", "keras_fit"])
def test_a_tf_data_set_that_is_not_batched(target, place):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((x, target))

    def use(data):
        if place == "keras_fit":
            return pg.keras_fit(compiled(), data, verbose=0, execution="eager")
        if place == "evaluate":
            return pg.evaluate(supervised(), data, execution="eager")
        if place == "validation":
            return trains(supervised(), (x, y), validation=data)
        return trains(supervised(), data)

    said = answer(lambda: use(dataset))

    assert "`dataset.batch(32)`" in said
    use(eval("dataset.batch(32)", {"dataset": dataset}))


@pytest.mark.only_tensorflow
def test_text_under_xla():
    words = np.array([["a b"], ["c a"]] * (ROWS // 2))

    class Text(Pairs):
        def loss(self, batch):
            return super().loss((x, batch[1])) + 0 * ops.cast(ops.shape(batch[0])[0], "float32")

    for data in [(words, y), [(words, y)], [(words[:, 0].tolist(), y)]]:
        step = Text()
        with pytest.raises(errors.ArgumentError) as caught:
            pg.fit(step, data, progress="off", execution="xla")
        assert 'execution="graph"' in caught.value.fix
    assert pg.fit(Text(), [(words, y)], progress="off", execution="graph")


@pytest.mark.only_tensorflow
def test_text_within_the_step_is_never_offered_to_xla_and_its_error_has_the_line():
    import tensorflow as tf

    class Inside(Pairs):
        def loss(self, batch):
            return super().loss((tf.strings.to_number(tf.strings.as_string(batch[0])), batch[1]))

    said = answer(lambda: pg.fit(Inside(), (x, y), progress="off", execution="xla"))
    assert 'execution="graph"' in said

    history = pg.fit(Inside(), (x, y), steps=10_000_000, progress="off", callbacks=[StopAtOnce()])
    assert history.plan.mode == "graph"
    assert "text, which XLA does not have" in str(history.plan)


class StopAtOnce(pg.Hook):
    every = pg.Every(steps=1)

    def on_steps(self, event):
        event.stop("seen")


@pytest.mark.parametrize("data", [(x, y), [(x, y)]], ids=["arrays", "list"])
def test_verify_resume_of_data_that_is_no_function(data):
    with pytest.raises(errors.ArgumentError) as caught:
        verify_resume(Pairs, data, steps=4)

    line = "lambda: data"
    assert f"`{line}`" in caught.value.fix
    made = eval(line, {"data": (x, y)})
    verify_resume(Pairs, made, steps=4, arguments={"execution": "eager"})


@pytest.mark.only_tensorflow
def test_a_loop_over_an_axis_that_is_open_is_compiled_for_each_size():
    class Many(Pairs):
        def train_step(self, batch):
            inputs, target = batch
            for row in range(inputs.shape[0]):
                loss = self.minimize(
                    lambda row=row: ops.mean((self.model(inputs[row]) - target[row]) ** 2),
                    self.optimizer,
                )
            return {"loss": loss}

    data = [(x.reshape(8, 8, FEATURES)[:4], y.reshape(8, 8, 1)[:4])]

    def losses(execution):
        keras.utils.set_random_seed(0)
        return pg.fit(Many(), data, progress="off", execution=execution).history["loss"]

    np.testing.assert_allclose(losses("graph"), losses("eager"), rtol=1e-5)
