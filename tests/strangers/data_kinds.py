"""Data of every kind that `fit`, `evaluate` and `predict` take, and their uncommon arguments."""

import keras
import numpy as np
from keras import layers, ops

from tests.strangers.corpus import by_fit
from tests.strangers.datasets import cancer, diabetes, digits, sentences, waves, wine


def softmax_model(width=13, classes=3, **compiled):
    model = keras.Sequential([keras.Input((width,)), layers.Dense(classes, activation="softmax")])
    model.compile(
        optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"], **compiled
    )
    return model


def line(width=10):
    m = keras.Sequential([keras.Input((width,)), layers.Dense(4, "tanh"), layers.Dense(1)])
    m.compile("rmsprop", "mse", metrics=["mae"])
    return m


# Arrays.


@by_fit
def pixels_as_uint8(by):
    x, y = digits(128)
    x = (x * 255).astype("uint8")
    m = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)])
    m.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    by.fit(m, x, y, batch_size=32, validation_split=0.2)
    by.predict(m, x[:3])


@by_fit
def columns_of_many_dtypes(by):
    rng = np.random.default_rng(1)
    data = {
        "age": rng.integers(18, 90, 100).astype("int16"),
        "income": rng.lognormal(1, 0.5, (100, 1)),
        "owner": rng.random((100, 1)) > 0.5,
        "score": rng.random((100, 2)).astype("float16"),
        "city": rng.integers(0, 7, (100, 1), dtype="int64"),
    }
    ins = {
        k: keras.Input(v.shape[1:] or (1,), name=k, dtype="int64" if k == "city" else "float32")
        for k, v in data.items()
    }
    parts = [v for k, v in ins.items() if k != "city"]
    parts.append(layers.Flatten()(layers.Embedding(7, 2)(ins["city"])))
    net = keras.Model(ins, layers.Dense(1)(layers.Concatenate()(parts)))
    net.compile("adam", "mae")
    by.fit(net, data, data["income"] * 0.1, batch_size=30, epochs=2)
    by.predict(net, {k: v[:5] for k, v in data.items()})


@by_fit
def float64_rows_read_backwards(by):
    """Views that are not contiguous, and targets of float64."""
    x, t = diabetes()
    x, t = np.asfortranarray(x[:200:2].astype("float64"))[::-1], t[:200:2].astype("float64")[::-1]
    m = line()
    by.fit(m, x, t, batch_size=33, epochs=2, validation_split=0.1)
    by.predict(m, x[:10])


@by_fit(only="tensorflow")
def tensors_of_tensorflow(by):
    import tensorflow as tf

    x, y = wine()
    m = softmax_model()
    by.fit(m, tf.constant(x), tf.constant(y), batch_size=50, epochs=2)
    by.evaluate(m, tf.constant(x), tf.constant(y))


@by_fit(only="torch")
def tensors_of_torch(by):
    import torch

    x, y = wine()
    m = softmax_model()
    X, Y = torch.from_numpy(x), torch.from_numpy(y).long()
    by.fit(m, X, Y, batch_size=50, epochs=2, validation_split=0.2)
    by.predict(m, X[:10])


@by_fit(only="jax")
def arrays_of_jax(by):
    import jax.numpy as jnp

    x, y = wine()
    m = softmax_model()
    by.fit(m, jnp.asarray(x), jnp.asarray(y), batch_size=50, epochs=2, validation_split=0.2)
    by.predict(m, jnp.asarray(x[:10]))


@by_fit
def frame_of_pandas(by):
    import pytest

    pd = pytest.importorskip("pandas")
    x, t = diabetes()
    frame = pd.DataFrame(x[:120], columns=[f"c{k}" for k in range(10)])
    m = line()
    by.fit(m, frame, pd.Series(t[:120]), batch_size=40, epochs=2)


# Nested inputs.


@by_fit
def tuple_of_a_dict_and_an_array(by):
    x, t = diabetes()

    class Nested(keras.Model):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.out = (layers.Dense(k) for k in (3, 3, 1))

        def call(self, inputs):
            named, rest = inputs
            return self.out(ops.relu(self.left(named["a"]) * self.right(rest)) + named["b"][:, :3])

    net = Nested()
    net.compile("adam", "mse")
    x, t = x[:150], t[:150, None]
    by.fit(net, ({"a": x[:, :4], "b": x[:, 4:8]}, x[:, 8:]), t, batch_size=32, epochs=2)


@by_fit(differs={"tensorflow": ("*_loss",)})
def list_in_and_dict_out(by):
    x, y = wine()
    a, b = keras.Input((6,)), keras.Input((7,))
    h = layers.concatenate([layers.Dense(3)(a), layers.Dense(3, "relu")(b)])
    net = keras.Model(
        [a, b], {"klass": layers.Dense(3, "softmax")(h), "sum": layers.Dense(1, name="s")(h)}
    )
    net.compile("adam", {"klass": "sparse_categorical_crossentropy", "sum": "mse"})
    total = x.sum(1, keepdims=True)
    held = ([x[:20, :6], x[:20, 6:]], {"sum": total[:20], "klass": y[:20]})
    by.fit(
        net,
        [x[:, :6], x[:, 6:]],
        {"sum": total, "klass": y},
        batch_size=64,
        epochs=2,
        validation_data=held,
    )
    by.predict(net, [x[:11, :6], x[:11, 6:]], batch_size=4)


@by_fit
def inputs_found_by_their_names(by):
    """The dict holds more than the model asks for, in another order."""
    ids, y = sentences(90)
    words, extra = keras.Input((12,), name="words", dtype="int32"), keras.Input((1,), name="len")
    h = layers.GlobalMaxPooling1D()(layers.Embedding(50, 5)(words))
    net = keras.Model([words, extra], layers.Dense(1, "sigmoid")(layers.Concatenate()([h, extra])))
    net.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    lengths = (ids > 0).sum(1, keepdims=True) / 12
    by.fit(net, {"len": lengths, "words": ids}, y[:, None], batch_size=40, epochs=2)


# Sizes.


@by_fit
def a_single_row(by):
    x, t = diabetes()
    m = line()
    by.fit(m, x[:1], t[:1, None], epochs=3)
    by.evaluate(m, x[:1], t[:1, None])
    by.predict(m, x[:1])


@by_fit
def one_batch_larger_than_the_data(by):
    x, t = diabetes()
    m = line()
    by.fit(m, x[:37], t[:37], batch_size=1000, epochs=2, validation_split=0.5)


@by_fit
def batches_of_seven_with_a_rest_of_one(by):
    x, t = diabetes()
    m = line()
    by.fit(m, x[:50], t[:50], batch_size=7, epochs=2, sample_weight=np.arange(50) % 3)
    by.evaluate(m, x[:50], t[:50], batch_size=7)
    by.predict(m, x[:50], batch_size=7)


@by_fit
def fewer_steps_than_there_are(by):
    x, t = diabetes()
    m = line()
    by.fit(m, x[:120], t[:120], batch_size=16, steps_per_epoch=3, epochs=3)


@by_fit
def begins_at_epoch_two(by):
    x, y = wine()
    m = softmax_model()
    first = by.fit(m, x, y, epochs=2, batch_size=90)
    second = by.fit(m, x, y, initial_epoch=first.epoch[-1] + 1, epochs=4, batch_size=90)
    return {"epochs": np.array(second.epoch)}


@by_fit
def validation_now_and_then(by):
    x, y = wine()
    held = (x[150:], y[150:])
    m = softmax_model()
    by.fit(m, x, y, epochs=4, batch_size=90, validation_data=held, validation_freq=[1, 4])
    m = softmax_model()
    by.fit(
        m,
        x,
        y,
        epochs=3,
        batch_size=90,
        validation_data=held,
        validation_freq=2,
        validation_batch_size=9,
    )


@by_fit
def weights_within_validation_data(by):
    x, t = diabetes()
    m = keras.Sequential([keras.Input((10,)), layers.Dense(1)])
    m.compile("sgd", "mse", metrics=["mae"], weighted_metrics=["mae"])
    w = np.linspace(0.1, 2, 60)
    by.fit(
        m,
        x[:100],
        t[:100, None],
        batch_size=25,
        epochs=2,
        validation_data=(x[100:160], t[100:160, None], w),
        validation_steps=2,
        validation_batch_size=20,
    )


@by_fit
def zero_weights_for_a_whole_batch(by):
    x, t = diabetes()
    w = np.ones(96, "float32")
    w[32:64] = 0
    m = line()
    by.fit(m, x[:96], t[:96], sample_weight=w, batch_size=32, epochs=2)


@by_fit(is_shuffled=True)
def shuffled_as_usual(by):
    x, y = wine()
    m = softmax_model()
    by.fit(m, x, y, epochs=2, validation_split=0.2)


# Compile's and fit's own options.


@by_fit(only=("tensorflow", "jax"))
def several_steps_in_one_call(by):
    x, y = wine()
    m = softmax_model(steps_per_execution=3)
    by.fit(m, x, y, batch_size=25, epochs=2, validation_data=(x, y))
    by.evaluate(m, x, y, batch_size=25)


@by_fit
def run_eagerly_with_a_print_inside(by):
    seen = []

    class Spy(layers.Layer):
        def call(self, inputs):
            seen.append(tuple(inputs.shape))
            return inputs

    x, y = wine()
    m = keras.Sequential([keras.Input((13,)), Spy(), layers.Dense(3, "softmax")])
    m.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    by.fit(m, x, y, batch_size=60, epochs=1)
    by.predict(m, x[:5])
    assert seen


@by_fit(only=("tensorflow", "jax"))
def compiled_by_xla(by):
    x, t = diabetes()
    m = keras.Sequential([keras.Input((10,)), layers.Dense(4, "relu"), layers.Dense(1)])
    m.compile("adam", "mse", jit_compile=True)
    by.fit(m, x[:128], t[:128, None], batch_size=32, epochs=2)


@by_fit
def not_compiled_by_xla(by):
    x, t = diabetes()
    m = keras.Sequential([keras.Input((10,)), layers.Dense(4, "relu"), layers.Dense(1)])
    m.compile("adam", "mse", jit_compile=False, auto_scale_loss=False)
    by.fit(m, x[:128], t[:128, None], batch_size=32, epochs=2, callbacks=[])


@by_fit
def predicts_before_it_is_compiled(by):
    x, _ = digits(20)
    i = keras.Input((8, 8, 1))
    f = layers.Flatten()(i)
    m = keras.Model(i, {"small": layers.Dense(2)(f), "tuple": (layers.Dense(3)(f), f)})
    by.predict(m, x, batch_size=6)


# tf.data.


def tf_wine(batch=32, **kw):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(wine()).batch(batch, **kw)


@by_fit
def dataset_cached_and_prefetched(by):
    import tensorflow as tf

    ds = tf_wine().cache().prefetch(tf.data.AUTOTUNE)
    m = softmax_model()
    by.fit(m, ds.skip(1), epochs=2, validation_data=ds.take(1))
    by.evaluate(m, ds)
    by.predict(m, ds.map(lambda a, b: a))


@by_fit
def endless_dataset_with_steps(by):
    ds = tf_wine(20).repeat()
    m = softmax_model()
    by.fit(m, ds, steps_per_epoch=5, epochs=3, validation_data=ds, validation_steps=2)
    by.evaluate(m, ds, steps=4)


@by_fit
def dataset_that_ends_within_the_training(by):
    """Two rounds of nine batches, seven a epoch: the third epoch is cut short or empty."""
    ds = tf_wine(20).repeat(2)
    m = softmax_model()
    by.fit(m, ds, steps_per_epoch=7, epochs=2)


@by_fit
def dataset_of_dicts_with_weights(by):
    import tensorflow as tf

    x, y = wine()
    parts = ({"first": x[:, :5], "second": x[:, 5:]}, {"k": y}, np.linspace(0.5, 1.5, 178))
    ds = tf.data.Dataset.from_tensor_slices(parts).batch(45, drop_remainder=True)
    a, b = keras.Input((5,), name="first"), keras.Input((8,), name="second")
    m = keras.Model({"first": a, "second": b}, {"k": layers.Dense(3)(layers.concatenate([a, b]))})
    m.compile("adam", {"k": keras.losses.SparseCategoricalCrossentropy(from_logits=True)})
    by.fit(m, ds, epochs=2)


@by_fit(differs={"tensorflow": ("*",)})
def dataset_from_a_generator(by):
    import tensorflow as tf

    x, nxt = waves(60, 10)

    def rows():
        yield from zip(x, nxt, strict=True)

    signature = (tf.TensorSpec((10, 1), tf.float32), tf.TensorSpec((1,), tf.float32))
    ds = tf.data.Dataset.from_generator(rows, output_signature=signature).batch(16)
    m = keras.Sequential([keras.Input((10, 1)), layers.Flatten(), layers.Dense(1)])
    m.compile("adam", "mse")
    by.fit(m, ds, epochs=2)


@by_fit(differs={"tensorflow": ("*",)})
def dataset_of_padded_batches(by):
    """Each batch has a length of its own."""
    import tensorflow as tf

    ids, y = sentences(60)

    def rows():
        for row, label in zip(ids, y, strict=True):
            yield row[row > 0], label

    spec = (tf.TensorSpec((None,), tf.int32), tf.TensorSpec((), tf.int32))
    ds = tf.data.Dataset.from_generator(rows, output_signature=spec).padded_batch(12)
    m = keras.Sequential(
        [layers.Embedding(50, 4), layers.GlobalAveragePooling1D(), layers.Dense(1, "sigmoid")]
    )
    m.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    by.fit(m, ds, epochs=2, validation_data=ds.take(2))


@by_fit
def class_weight_on_a_dataset(by):
    m = softmax_model(weighted_metrics=["accuracy"])
    by.fit(m, tf_wine(64), epochs=2, class_weight={0: 0.5, 1: 1.0, 2: 3.0})


# Sequences and generators.


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y, size=24, **kwargs):
        super().__init__(**kwargs)
        self.x, self.y, self.size = x, y, size
        self.offset = 0

    def __len__(self):
        return -(-len(self.x) // self.size)

    def __getitem__(self, k):
        part = slice(k * self.size, (k + 1) * self.size)
        return self.x[part] + self.offset, self.y[part]

    def on_epoch_end(self):
        self.offset += 0.1


@by_fit(differs=("*",))
def pydataset_that_changes_at_the_end_of_an_epoch(by):
    m = softmax_model()
    by.fit(m, Batches(*wine()), epochs=3)
    by.evaluate(m, Batches(*wine(), size=50))


@by_fit(is_shuffled=True)  # with two workers, Keras itself comes to other numbers each time
def pydataset_with_threads(by):
    x, y = wine()
    m = softmax_model()
    train, val = Batches(x, y, workers=2, max_queue_size=4), Batches(x[:40], y[:40], workers=1)
    by.fit(m, train, epochs=2, validation_data=val)
    by.predict(m, Batches(x, y, workers=2))


class Weighted(keras.utils.PyDataset):
    """Without a length, with weights and a dict of inputs."""

    @property
    def num_batches(self):
        return 4

    def __getitem__(self, k):
        x, y = wine()
        rows = np.arange(k, 178, 4)
        return {"x": x[rows]}, y[rows], 1.0 + (y[rows] == 2)


@by_fit
def pydataset_of_dicts_and_weights(by):
    i = keras.Input((13,), name="x")
    m = keras.Model({"x": i}, layers.Dense(3, "softmax")(i))
    m.compile("adam", "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    by.fit(m, Weighted(), epochs=2)


@by_fit(differs=("val_*",))
def generator_without_end(by):
    x, y = wine()

    def forever(size):
        k = 0
        while True:
            rows = np.arange(k, k + size) % len(x)
            k += size
            yield x[rows], y[rows]

    m = softmax_model()
    by.fit(
        m,
        forever(25),
        steps_per_epoch=4,
        epochs=3,
        validation_data=forever(10),
        validation_steps=3,
    )
    by.evaluate(m, forever(30), steps=2)
    by.predict(m, ((x[k : k + 10],) for k in range(0, 30, 10)))


@by_fit
def generator_of_one_round(by):
    x, t = diabetes()
    m = line()
    by.fit(m, ((x[k : k + 20], t[k : k + 20]) for k in range(0, 90, 20)), epochs=1)


@by_fit
def generator_of_lists_and_weights(by):
    x, y = cancer()

    def batches():
        while 1:
            for k in range(0, 200, 50):
                part = slice(k, k + 50)
                yield (x[part, :10], x[part, 10:]), y[part, None], 0.5 + y[part]

    a, b = keras.Input((10,)), keras.Input((20,))
    m = keras.Model([a, b], layers.Dense(1, "sigmoid")(layers.concatenate([a, b])))
    m.compile("adam", "bce", weighted_metrics=["accuracy"])
    by.fit(m, batches(), steps_per_epoch=4, epochs=2)


# torch's DataLoader.


@by_fit
def loader_of_tuples(by):
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    x, y = wine()
    data = TensorDataset(torch.from_numpy(x), torch.from_numpy(y).long())
    m = softmax_model()
    by.fit(
        m,
        DataLoader(data, batch_size=40, drop_last=True),
        epochs=2,
        validation_data=DataLoader(data, batch_size=64),
    )
    by.evaluate(m, DataLoader(data, batch_size=30))


@by_fit
def loader_of_own_dataset_with_dicts(by):
    from torch.utils.data import DataLoader, Dataset

    class Table(Dataset):
        def __len__(self):
            return 90

        def __getitem__(self, k):
            x, y = wine()
            return {"left": x[k, :6], "right": x[k, 6:]}, {"out": y[k]}

    a, b = keras.Input((6,), name="left"), keras.Input((7,), name="right")
    out = layers.Dense(3, activation="softmax", name="out")(layers.concatenate([a, b]))
    m = keras.Model({"left": a, "right": b}, {"out": out})
    m.compile("adam", {"out": "sparse_categorical_crossentropy"}, metrics={"out": "accuracy"})
    by.fit(m, DataLoader(Table(), batch_size=32), epochs=2)


@by_fit(only="torch")  # elsewhere Keras wants tensors of torch
def loader_with_a_collate_function(by):
    from torch.utils.data import DataLoader

    x, t = diabetes()

    def collate(rows):
        a = np.stack([r[0] for r in rows])
        return a, np.array([[r[1]] for r in rows], "float32"), np.ones(len(rows), "float32") * 0.5

    m = line()
    by.fit(m, DataLoader(list(zip(x[:70], t[:70], strict=True)), batch_size=16, collate_fn=collate))


# What comes back.


@by_fit
def predicts_several_outputs_from_all_kinds(by):
    x, _ = wine()
    i = keras.Input((13,))
    m = keras.Model(i, [layers.Dense(2)(i), layers.Softmax()(i)])
    m.compile("sgd", ["mse", None])
    by.predict(m, x[:30], batch_size=8)
    by.predict(m, Batches(x[:30], x[:30], size=7))
    by.predict(m, tf_wine(50).map(lambda a, b: a).take(2))


@by_fit
def history_and_names_as_read_afterwards(by):
    x, y = wine()
    m = softmax_model()
    h = by.fit(m, x, y, epochs=3, batch_size=60, validation_split=0.1)
    assert h.model is m and list(h.history) == ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert h.params["epochs"] == 3 and h.params["steps"] == 3
    return {"best": np.argmin(h.history["val_loss"]), "epoch": np.array(h.epoch)}
