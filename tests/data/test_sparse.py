"""Sparse and ragged arrays: their rows, and training on them as Keras does."""

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._errors import DataTypeError
from perigee.data import IterableFeed, open_feed
from perigee.data._sparse import rows_of

scipy_sparse = pytest.importorskip("scipy.sparse")

BACKEND = keras.config.backend()
ROWS, FEATURES, BATCH = 23, 5, 4


def values(seed=0):
    random = np.random.default_rng(seed)
    dense = random.normal(size=(ROWS, FEATURES)).astype("float32")
    dense[random.uniform(size=dense.shape) < 0.6] = 0
    dense[3] = 0  # a row without a value
    return dense


def as_tf(dense):
    import tensorflow as tf

    return tf.sparse.from_dense(dense)


def as_bcoo(dense):
    from jax.experimental.sparse import BCOO

    return BCOO.fromdense(dense)


def as_padded_bcoo(dense):
    from jax.experimental.sparse import BCOO

    return BCOO.fromdense(dense, nse=ROWS * FEATURES + 3)


KINDS = {
    "csr": scipy_sparse.csr_matrix,
    "csc": scipy_sparse.csc_matrix,
    "coo": scipy_sparse.coo_matrix,
    "array": scipy_sparse.csr_array,
}
KINDS |= {
    "tensorflow": {"SparseTensor": as_tf},
    "jax": {"BCOO": as_bcoo, "padded": as_padded_bcoo},
}.get(BACKEND, {})


def is_sparse(tensor):
    return {
        "tensorflow": type(tensor).__name__ == "SparseTensor",
        "jax": type(tensor).__name__ == "BCOO",
    }.get(BACKEND, False)


def dense_of(tensor):
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.sparse.to_dense(tensor).numpy()
    return np.asarray(tensor.todense()) if BACKEND == "jax" else tensor


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "rows", [slice(0, 4), slice(20, ROWS), slice(3, 4), [4, 3, 3, 22, 0], slice(None)], ids=str
)
def test_rows_are_those_of_the_dense_array_and_stay_sparse(kind, rows):
    taken = rows_of(KINDS[kind](values()))[np.asarray(rows) if isinstance(rows, list) else rows]

    assert is_sparse(taken) == (BACKEND in ("tensorflow", "jax"))
    np.testing.assert_array_equal(dense_of(taken), values()[rows])


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_has_its_rows_only(kind):
    part = rows_of(KINDS[kind](values())).part(5, 12)

    assert len(part) == 7
    np.testing.assert_array_equal(dense_of(part[:]), values()[5:12])


def test_places_that_are_stored_twice_are_added():
    twice = scipy_sparse.coo_matrix(([1.0, 2.0], ([0, 0], [1, 1])), shape=(2, 3))

    taken = rows_of(twice)[:]

    if BACKEND == "tensorflow":  # where Keras leaves both to the operations, as here
        assert taken.values.numpy().tolist() == [1, 2]
    else:
        assert dense_of(taken)[0].tolist() == [0, 3, 0]


def test_values_are_cast_as_those_of_dense_arrays():
    drawn = open_feed(scipy_sparse.csr_matrix(values().astype("float64"))).draw()
    ids = open_feed(scipy_sparse.csr_matrix(values().astype("int32"))).draw()

    assert keras.backend.standardize_dtype(drawn.dtype) == keras.config.floatx()
    assert keras.backend.standardize_dtype(ids.dtype) == "int32"


def test_a_feed_of_sparse_arrays_draws_the_rows_of_a_dense_one():
    sparse = open_feed(
        (scipy_sparse.csr_matrix(values()), np.arange(ROWS)), batch_size=BATCH, shuffle=True, seed=3
    )
    dense = open_feed((values(), np.arange(ROWS)), batch_size=BATCH, shuffle=True, seed=3)

    assert sparse.length == dense.length
    assert sparse.resident() is None
    while (batch := dense.draw()) is not None:
        x, y = sparse.draw()
        np.testing.assert_array_equal(dense_of(x), batch[0])
        np.testing.assert_array_equal(y, batch[1])
    assert sparse.draw() is None


def test_batches_of_an_iterable_may_be_sparse():
    drawn = IterableFeed([(scipy_sparse.csr_matrix(values()),)]).draw()[0]

    assert is_sparse(drawn) == (BACKEND in ("tensorflow", "jax"))
    np.testing.assert_array_equal(dense_of(drawn), values())


@pytest.mark.parametrize("kind", ["BCOO", "SparseTensor", "RaggedTensor"])
def test_what_the_framework_has_no_tensors_for_is_refused_with_the_line(kind):
    module = {"BCOO": "jax", "SparseTensor": "tensorflow", "RaggedTensor": "tensorflow"}[kind]
    if module == BACKEND:
        pytest.skip("this framework has them")
    pytest.importorskip(module)
    if kind == "BCOO":
        data, line = as_bcoo(values()), ".todense()"
    elif kind == "SparseTensor":
        data, line = as_tf(values()), "tf.sparse.to_dense("
    else:
        import tensorflow as tf

        data, line = tf.ragged.constant([[1.0], [2.0, 3.0]]), ".to_tensor()"

    with pytest.raises(DataTypeError) as caught:
        open_feed((data, np.zeros(ROWS)))

    assert line in caught.value.fix


def build():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_keras_fit_trains_on_sparse_arrays_as_fit_does(kind):
    x, y = KINDS[kind](values()), values(1)[:, :1]
    arguments = {
        "batch_size": BATCH,
        "epochs": 2,
        "shuffle": False,
        "validation_split": 0.2,
        "verbose": 0,
    }
    ours, theirs = build(), build()

    history = pg.keras_fit(ours, x, y, **arguments).history
    # Keras cannot split what it cannot slice, such as padded arrays of JAX.
    expected = theirs.fit(values() if kind == "padded" else x, y, **arguments).history

    for name in expected:
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-5)
    np.testing.assert_allclose(ours.get_weights()[0], theirs.get_weights()[0], atol=1e-6)


class Kinds(keras.layers.Dense):
    """Keeps the kinds of what it is called with."""

    seen: set[str]

    def call(self, inputs):
        self.seen.add(type(inputs).__name__)
        return super().call(inputs)


@pytest.mark.only_tensorflow
@pytest.mark.parametrize("given", ["straight", "tf.data"])
def test_a_sparse_tensor_reaches_the_model_as_one(given):
    import tensorflow as tf

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = Kinds(1)

        def call(self, x):
            return self.dense(x)

    Kinds.seen = set()
    x, y = as_tf(values()), np.zeros((ROWS, 1), "float32")
    data = (x, y) if given == "straight" else (tf.data.Dataset.from_tensor_slices((x, y)).batch(4),)
    model = Model()
    model.compile("sgd", "mse")

    pg.keras_fit(model, *data, verbose=0, execution="graph")

    assert Kinds.seen == {"SparseTensor"}


@pytest.mark.only_tensorflow
@pytest.mark.parametrize("given", ["straight", "tf.data", "split", "KerasStep"])
def test_a_ragged_tensor_is_never_padded(given):
    import tensorflow as tf

    x = tf.ragged.constant([[2.0], [2.0, 2.0, 2.0, 2.0], [1.0, 3.0]] * 8)
    y = np.zeros((24, 1), "float32")

    class Mean(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1, kernel_initializer="ones")

        def call(self, x):
            return self.dense(tf.reshape(tf.reduce_mean(x, axis=1), (-1, 1)))

    def train(fit, **arguments):
        model = Mean()
        model.compile(keras.optimizers.SGD(0.0), "mse")
        batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
        data = (batches,) if given == "tf.data" else (x, y)
        return fit(model, *data, verbose=0, **arguments).history

    if given == "KerasStep":
        step = Mean()
        step.compile(keras.optimizers.SGD(0.0), "mse")
        history = pg.fit(pg.KerasStep(step), (x, y), progress="off").history
        assert history["loss"] == [4.0]
        assert pg.evaluate(pg.KerasStep(step), (x, y)) == {"loss": 4.0}
        np.testing.assert_array_equal(pg.predict(pg.KerasStep(step), x), np.full((24, 1), 2.0))
        return
    arguments = {"validation_split": 0.25} if given == "split" else {}
    history = train(pg.keras_fit, **arguments)

    assert history == train(keras.Model.fit, **arguments)
    assert history["loss"] == [4.0]


@pytest.mark.only_jax
@pytest.mark.parametrize(("stored", "room"), [(0, 1), (1, 1), (2, 2), (3, 4), (8, 8), (9, 16)])
def test_tensors_of_jax_have_room_for_a_power_of_two_so_that_few_are_compiled(stored, room):
    dense = np.zeros((4, FEATURES), "float32")
    dense.flat[:stored] = 1

    taken = rows_of(scipy_sparse.csr_matrix(dense))[:]

    assert taken.nse == room
    np.testing.assert_array_equal(dense_of(taken), dense)
