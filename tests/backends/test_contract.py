"""What every framework's room promises: the contract of `perigee._backends.Backend`."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import perigee as pg
from perigee import _backends
from perigee._listening import listening
from perigee._step.state import restore, snapshot

ROWS, FEATURES = 6, 3

backend = _backends.current()


@pytest.fixture
def x():
    return backend.tensors(np.random.normal(size=(ROWS, FEATURES)).astype("float32"))


def variable(value, **arguments):
    return keras.Variable(np.asarray(value, "float32"), **arguments)


def on_host(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def bits(variables):
    return [value.tobytes() for value in snapshot(variables)]


def unreached(objective, variables, others=()):
    """Return which variables a rehearsal finds without a gradient."""
    found = []

    def run():
        gradients = backend.differentiate(lambda: (objective(), None), variables)[1]
        found.extend(gradient is None for gradient in gradients)

    held = [*variables, *others]
    values = snapshot(held)
    backend.rehearse(run, held)
    restore(held, values)
    return found


# Differentiating


def test_gradients_and_the_rest_come_out():
    weight, factor = variable([2.0, 3.0]), 5.0

    def function():
        squares = ops.square(weight)
        return factor * ops.sum(squares), {"squares": squares}

    rest, gradients, read = backend.differentiate(function, [weight])

    np.testing.assert_allclose(on_host(gradients[0]), 2 * factor * np.array([2.0, 3.0]))
    np.testing.assert_allclose(on_host(rest["squares"]), [4.0, 9.0])
    assert len(read) <= 1


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: None,
        lambda t: "a word",
        lambda t: (t, None, "a word", 3, 2.5, [t, {}], ()),
        lambda t: {"b": t, "a": {"nested": [t]}},
        lambda t: [pg.mean(t), pg.mean(t, ops.ones_like(t)) + 1.0],
    ],
    ids=["tensor", "nothing", "string", "mixture", "dicts", "averages"],
)
def test_the_rest_is_any_tree(wrap):
    weight = variable([1.0, 2.0])

    rest, _, _ = backend.differentiate(lambda: (ops.sum(weight), wrap(weight * 2.0)), [weight])

    assert described(rest) == described(wrap(weight * 2.0))


def described(tree):
    """Return a tree with its tensors as lists of numbers."""
    if isinstance(tree, pg.Average):
        return [described(mean) for mean, _ in tree.pairs(1)]
    if isinstance(tree, dict):
        return {key: described(item) for key, item in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(described(item) for item in tree)
    return on_host(tree).tolist() if hasattr(tree, "shape") else tree


@pytest.mark.parametrize("compiles", [False, True], ids=["eagerly", "compiled"])
def test_inner_gradients_can_be_differentiated_again(compiles):
    weight, cube = variable(2.0), 3.0

    def run():
        def outer():
            inner = backend.differentiate(lambda: (weight**cube, None), [weight])[1][0]
            return inner**2, inner

        inner, gradients, _ = backend.differentiate(outer, [weight])
        return inner, gradients[0]

    run = backend.compile(run, [weight], backend.capabilities.modes[0]) if compiles else run
    inner, outer = run()

    assert float(inner) == cube * 2.0**2
    assert float(outer) == 2 * (cube * 2.0**2) * (2 * cube * 2.0)


def test_gradients_for_inputs(x):
    weight = variable(np.ones((FEATURES, 1)))

    gradients = backend.differentiate_inputs(
        lambda a, b: ops.sum(ops.square(a @ weight.value)) + 0.0 * ops.sum(b), [x, x]
    )

    expected = 2 * on_host(x).sum(axis=1, keepdims=True) * np.ones((1, FEATURES))
    np.testing.assert_allclose(on_host(gradients[0]), expected, rtol=1e-5)
    np.testing.assert_array_equal(on_host(gradients[1]), 0.0)


def test_a_tensor_that_is_given_twice_has_two_gradients(x):
    weight = variable(1.0)

    def inner():
        one, other = backend.differentiate_inputs(lambda a, b: ops.sum(2.0 * a + 3.0 * b), [x, x])
        return weight * ops.sum(one) + 0.0 * ops.sum(other), (one, other)

    def outer():
        slope = weight * x  # a tensor that is being differentiated itself
        one, other = backend.differentiate_inputs(
            lambda a, b: ops.sum(2.0 * a + 3.0 * b), [slope, slope]
        )
        return ops.sum(slope), (one, other)

    for function in (inner, outer):
        (one, other), _, _ = backend.differentiate(function, [weight])
        assert set(on_host(one).ravel()) == {2.0}
        assert set(on_host(other).ravel()) == {3.0}


def test_sparse_gradients_hold_each_row_once():
    table = variable(np.ones((5, 2)))
    rows = backend.tensors(np.array([3, 1, 3, 3]))

    def function():
        return ops.sum(ops.take(table, rows, axis=0)), None

    gradient = backend.differentiate(function, [table])[1][0]

    squared = on_host(backend.dense(ops.square(gradient)))
    assert squared[:, 0].tolist() == [0.0, 1.0, 0.0, 9.0, 0.0]


def test_gradients_for_inputs_inside_an_objective_reach_the_weights(x):
    weight = variable(np.ones((FEATURES, 1)))

    def penalty():
        slopes = backend.differentiate_inputs(lambda a: ops.sum(ops.square(a @ weight.value)), [x])[
            0
        ]
        return ops.sum(ops.square(slopes)), None

    gradient = backend.differentiate(penalty, [weight])[1][0]

    numbers, column = on_host(x), np.ones((FEATURES, 1))
    # The penalty is 4 |x w|^2 |w|^2.
    heights = numbers @ column
    square = (column**2).sum()
    expected = 8 * square * numbers.T @ heights + 8 * (heights**2).sum() * column
    np.testing.assert_allclose(on_host(gradient), expected, rtol=1e-5)


def test_what_is_assigned_inside_an_objective_stays(x):
    norm = layers.BatchNormalization(momentum=0.5)
    norm.build((None, FEATURES))

    def function():
        return ops.sum(norm(x, training=True)), None

    backend.differentiate(function, norm.trainable_variables)
    after_one = on_host(norm.moving_mean)
    backend.differentiate(function, norm.trainable_variables)

    mean = on_host(x).mean(axis=0)
    np.testing.assert_allclose(after_one, 0.5 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(on_host(norm.moving_mean), 0.75 * mean, rtol=1e-4, atol=1e-6)


def test_no_gradient_flows_through_what_is_assigned():
    weight, start, factor = variable(2.0), 2.0, 3.0

    def function():
        weight.assign(weight * 0.5)  # as spectral normalization does
        return factor * weight, None

    gradient = backend.differentiate(function, [weight])[1][0]

    assert float(gradient) == factor
    assert float(on_host(weight)) == start * 0.5


def test_frozen_variables_can_be_differentiated_for_and_stay_frozen():
    frozen, free = variable(2.0, trainable=False), variable(3.0)

    for _ in range(2):
        gradients = backend.differentiate(lambda: (frozen**2 * free, None), [frozen, free])[1]

    assert [float(gradient) for gradient in gradients] == [12.0, 4.0]
    assert not frozen.trainable
    assert not getattr(frozen.value, "requires_grad", False)


def test_what_an_inner_objective_assigns_stays_too(x):
    count, weight = variable(0.0, trainable=False), variable(1.0)

    def inner():
        count.assign_add(1.0)
        return weight**2, None

    def outer():
        return backend.differentiate(inner, [weight])[1][0] ** 2, None

    backend.differentiate(outer, [weight])

    assert float(count) == 1.0


# Variables that the loss does not depend on


def test_an_unused_head_is_missed(x):
    used, unused = layers.Dense(1), layers.Dense(1)
    for layer in (used, unused):
        layer.build((None, FEATURES))

    found = unreached(
        lambda: ops.sum(used(x)) + 0.0 * ops.sum(ops.stop_gradient(unused(x))),
        [*used.trainable_variables, *unused.trainable_variables],
    )

    assert found == [False, False, True, True]


@pytest.mark.parametrize(
    "cut",
    [
        lambda y: ops.cast(ops.argmax(y, axis=-1), "float32"),
        ops.stop_gradient,
        lambda y: ops.cast(y > 0, "float32"),
        lambda y: ops.cast(ops.cast(y, "int32"), "float32"),
    ],
    ids=["argmax", "stop_gradient", "comparison", "integers"],
)
def test_a_path_that_is_cut_is_missed(x, cut):
    dense, scale = layers.Dense(4), variable(1.0)
    dense.build((None, FEATURES))

    found = unreached(lambda: scale * ops.sum(cut(dense(x))), [*dense.trainable_variables, scale])

    assert found == [True, True, False]


def test_a_scalar_that_depends_on_nothing_misses_all(x):
    weight = variable(1.0)

    assert unreached(lambda: ops.mean(x), [weight]) == [True]


def dead_relu(x):
    dense = layers.Dense(2, bias_initializer=keras.initializers.Constant(-1e6), activation="relu")
    return dense, lambda: ops.sum(dense(x))


def times_zero(x):
    dense = layers.Dense(2)
    return dense, lambda: 0.0 * ops.sum(dense(x))


def constant_gradient(x):
    dense = layers.Dense(1)
    return dense, lambda: ops.mean(dense(x))


def bias_before_statistics(x):
    model = keras.Sequential([layers.Dense(4), layers.BatchNormalization()])
    return model, lambda: ops.sum(model(x, training=True))


def recurrent(x):
    lstm = layers.LSTM(2)
    return lstm, lambda: ops.sum(lstm(x[:, :, None]))


def attention(x):
    layer = layers.MultiHeadAttention(2, 2)
    steps = ops.expand_dims(x, -1)
    return layer, lambda: ops.sum(layer(steps, steps))


def side_not_chosen(x):
    dense = layers.Dense(1)
    return dense, lambda: ops.sum(ops.where(x[:, :1] > 1e6, dense(x), ops.zeros((ROWS, 1))))


@pytest.mark.parametrize(
    "case",
    [
        dead_relu,
        times_zero,
        constant_gradient,
        bias_before_statistics,
        recurrent,
        attention,
        side_not_chosen,
    ],
)
def test_a_gradient_of_zeros_is_no_alarm(x, case):
    layer, objective = case(x)
    objective()  # builds it

    found = unreached(objective, layer.trainable_variables, layer.non_trainable_variables)

    assert found == [False] * len(layer.trainable_variables)


@pytest.mark.only_jax
def test_a_branch_that_is_not_taken_is_no_alarm_on_jax(x):
    one, other = layers.Dense(1), layers.Dense(1)
    for layer in (one, other):
        layer.build((None, FEATURES))

    found = unreached(
        lambda: ops.sum(ops.cond(ops.sum(x) > 1e6, lambda: one(x), lambda: other(x))),
        [*one.trainable_variables, *other.trainable_variables],
    )

    assert found == [False] * 4


# Conditional updates


@pytest.mark.parametrize("compiles", [False, True], ids=["eagerly", "compiled"])
@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        lambda: keras.optimizers.AdamW(
            0.1, amsgrad=True, use_ema=True, ema_overwrite_frequency=1, global_clipnorm=1.0
        ),
        lambda: keras.optimizers.Lamb(0.1),
        lambda: keras.optimizers.Ftrl(0.1),
    ],
    ids=["SGD", "AdamW", "Lamb", "Ftrl"],
)
def test_a_false_condition_leaves_every_bit_under_nan(make_optimizer, compiles):
    weights = [variable([1.0, 2.0]), variable([[3.0]])]
    optimizer = make_optimizer()
    optimizer.build(weights)
    held = [*weights, *optimizer.variables]

    def run(condition, *gradients):
        backend.update_if(condition, lambda: optimizer.apply(list(gradients), weights), held)
        return ops.zeros(())

    run = backend.compile(run, held, backend.capabilities.modes[0]) if compiles else run
    good = backend.tensors([np.ones(2, "float32"), np.ones((1, 1), "float32")])
    bad = backend.tensors([np.array([1.0, np.nan], "float32"), np.full((1, 1), np.inf, "float32")])
    yes, no = backend.tensors([np.array(True), np.array(False)])

    run(yes, *good)
    before = bits(held)
    run(no, *bad)

    assert bits(held) == before
    run(yes, *good)
    assert bits(held) != before
    assert int(on_host(optimizer.iterations)) == 2


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_condition_holds_one_value(shape):
    count = variable(0.0, trainable=False)
    for is_true in (True, False, True):
        condition = backend.tensors(np.full(shape, is_true))
        backend.update_if(condition, lambda: count.assign_add(1.0), [count])

    assert float(on_host(count)) == 2.0


def test_a_finite_check_sees_each_tensor():
    fine = np.ones((2, 2), "float32")
    for bad in (np.nan, np.inf, -np.inf):
        broken = fine.copy()
        broken[1, 0] = bad
        assert not bool(backend.all_finite(backend.tensors([fine, broken])))
    assert bool(backend.all_finite(backend.tensors([fine, fine[:0]])))


# To and from the host


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "int8", "uint8", "int16", "int32", "bool", "complex64"]
)
def test_arrays_come_back_as_they_were(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)

    returned = backend.to_host(backend.tensors({"a": array}))["a"]

    assert isinstance(returned, np.ndarray)
    assert returned.dtype == array.dtype
    np.testing.assert_array_equal(returned, array)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (2, 1, 2)])
def test_shapes_come_back_as_they_were(shape):
    assert backend.to_host(backend.tensors(np.zeros(shape, "float32"))).shape == shape


def test_trees_keep_their_structure_and_what_is_no_array():
    a = np.ones(2, "float32")
    tree = {"b": (a, [a, None]), "a": {"deep": a}, "none": None}

    tensors = backend.tensors(tree)
    returned = backend.to_host(tensors)

    assert backend.is_tensor(tensors["b"][0])
    assert keras.tree.map_structure(lambda leaf: leaf is None, returned) == (
        keras.tree.map_structure(lambda leaf: leaf is None, tree)
    )
    assert type(returned["b"]) is tuple and type(returned["b"][1]) is list


def test_tensors_are_told_from_variables_and_arrays():
    assert backend.is_tensor(ops.ones(2))
    assert not backend.is_tensor(np.ones(2))
    assert not backend.is_tensor(variable(1.0))
    assert not backend.is_tensor(variable(1.0).value) or keras.backend.backend() == "jax"


def test_a_sheared_or_read_only_array_is_taken():
    array = np.arange(12, dtype="float32").reshape(3, 4).T[::-1]
    array.flags.writeable = False

    np.testing.assert_array_equal(backend.to_host(backend.tensors(array)), array)


@pytest.mark.only_jax
@pytest.mark.parametrize(
    "array",
    [np.array([2**40]), np.array([-(2**31) - 1]), np.array([2**32], "uint64")],
    ids=["int64", "negative", "uint64"],
)
def test_integers_that_jax_would_cut_raise(array):
    with pytest.raises(OverflowError, match="jax_enable_x64"):
        backend.tensors({"ids": array})


@pytest.mark.only_jax
def test_integers_that_fit_are_taken_on_jax():
    limits = np.array([2**31 - 1, -(2**31)])

    assert backend.to_host(backend.tensors(limits)).tolist() == limits.tolist()


def test_what_is_changed_in_an_array_later_is_not_seen():
    buffer = np.zeros(2**14 + 64, "uint8")
    start = -buffer.ctypes.data % 64  # frameworks may share aligned memory
    array = buffer[start : start + 2**14].view("float32")

    tensors = backend.tensors((array, array[:8]))
    array[:] = 1.0

    assert all(not on_host(tensor).any() for tensor in tensors)


def test_an_array_that_is_filled_anew_for_each_call_is_read_in_time():
    size, values = 512, [1.0, 2.0, 3.0]
    buffer = np.zeros(4 * size**2 + 64, "uint8")
    start = -buffer.ctypes.data % 64
    array = buffer[start : start + 4 * size**2].view("float32").reshape(size, size)

    def slow(x):
        y = ops.ones((size, size))
        for _ in range(8):
            y = ops.tanh(y @ y)
        return ops.mean(x + 0.0 * y)

    run = compiled(slow)
    means = []
    for value in values:
        array[:] = value
        means.append(run(array))

    assert [float(mean) for mean in means] == values


# Compiling


def compiled(function, variables=()):
    return backend.compile(function, list(variables), backend.capabilities.modes[0])


def test_rows_come_in_the_order_that_is_asked_for():
    arrays = {"x": np.arange(12.0, dtype="float32").reshape(4, 3), "y": (np.arange(4), None)}
    order = np.array([2, 0, 3, 1])

    found = backend.to_host(backend.rows_in_order(backend.tensors(arrays), order))

    assert found["x"].tolist() == arrays["x"][order].tolist()
    assert found["y"][0].tolist() == order.tolist()
    assert found["y"][1] is None


def test_compiled_functions_read_and_write_variables():
    total, values = variable(1.0, trainable=False), (2.0, 5.0)

    def add(number):
        total.assign_add(number)
        return total * 10.0

    run = compiled(add, [total])
    returned = [float(run(backend.tensors(np.float32(value)))) for value in values]

    assert returned == [30.0, 80.0]
    assert float(total) == 1.0 + sum(values)
    total.assign(0.0)  # what is assigned between calls is seen
    assert float(run(backend.tensors(np.float32(1.0)))) == 10.0


def test_code_runs_once_for_batches_of_one_kind():
    if backend.capabilities.modes[0] == "eager":
        pytest.skip("nothing is compiled")
    runs = []
    run = compiled(lambda batch: runs.append(1) or ops.sum(batch["x"]))
    batch = backend.tensors({"x": np.ones((4, 2), "float32")})

    for _ in range(3):
        run(batch)

    assert run.traces == len(runs) == 1
    run(backend.tensors({"x": np.ones((4, 2), "int32")}))
    assert run.traces == len(runs) == 2


def test_arguments_and_results_are_any_trees():
    run = compiled(lambda tree, other: {"sum": tree["x"] + other[0], "none": (None, [other[1]])})
    one = np.ones(2, "float32")

    found = run(backend.tensors({"x": one, "unused": None}), backend.tensors([one, one]))

    assert described(found) == {"sum": [2.0, 2.0], "none": (None, [[1.0, 1.0]])}


def test_variables_that_share_an_array_stay_apart():
    one = variable([1.0, 2.0])
    other, third = variable([0.0, 0.0]), variable([0.0, 0.0])
    other.assign(one)
    third.assign(one.value)

    def step():
        one.assign_add(ops.ones(2))
        return ops.sum(other)

    run = compiled(step, [one, other, third])
    for _ in range(2):
        run()

    assert on_host(one).tolist() == [3.0, 4.0]
    assert on_host(other).tolist() == on_host(third).tolist() == [1.0, 2.0]


@pytest.mark.only_jax  # on torch, Keras lets a variable share the memory of a tensor
def test_a_batch_that_is_held_by_a_variable_too_is_not_lost(x):
    kept = keras.Variable(x, trainable=False)

    def step(batch):
        kept.assign_add(ops.ones(kept.shape))
        return ops.sum(batch)

    run = compiled(step, [kept])
    sums = [float(run(x)) for _ in range(2)]

    assert sums[0] == sums[1]
    np.testing.assert_allclose(on_host(kept), on_host(x) + 2.0)


class Own(Exception):
    """An exception of a user's."""


@pytest.mark.parametrize("error", [Own, KeyError, StopIteration, ValueError, RuntimeError])
def test_exceptions_come_out_as_they_are_and_change_nothing(error):
    count = variable(1.0, trainable=False)

    def fails():
        count.assign_add(1.0)
        raise error("as it was")

    raised = error("as it was")
    with pytest.raises(error) as caught:
        compiled(fails, [count])()

    assert type(caught.value) is error
    assert str(caught.value) == str(raised)
    if backend.capabilities.modes[0] != "eager":
        assert float(count) == 1.0
    count.assign(5.0)
    assert float(count) == 5.0


def test_an_exception_inside_an_objective_leaves_everything_usable(x):
    weight = variable(1.0)

    def fails():
        raise Own

    with pytest.raises(Own):
        backend.differentiate(fails, [weight])
    with pytest.raises(Own):
        backend.differentiate_inputs(lambda a: fails(), [x])

    gradients = backend.differentiate(lambda: (weight * 3.0, None), [weight])[1]
    assert float(gradients[0]) == 3.0


# Rehearsing


def test_a_rehearsal_observes_values():
    seen = []

    def function():
        backend.observe([ops.ones(2) * 3.0], lambda value: seen.append(value.tolist()))

    backend.rehearse(function, [])

    assert seen == [[3.0, 3.0]]


def test_a_rehearsal_sees_the_variables_that_are_made(x):
    dense = layers.Dense(2, kernel_initializer="ones")

    with backend.watch(listening) as watch:
        backend.rehearse(lambda: dense(x), [])

    made = {id(variable) for variable, _ in watch.made}
    assert all(id(v) in made or id(v.value) in made for v in dense.variables)
    assert on_host(dense.kernel).tolist() == [[1.0, 1.0]] * FEATURES


def test_a_rehearsal_that_fails_leaves_the_next_one_alone():
    seen = []

    def observes():
        backend.observe([ops.ones(())], lambda value: seen.append(float(value)))

    def fails():
        observes()
        raise Own

    with pytest.raises(Own):
        backend.rehearse(fails, [])
    seen.clear()
    backend.rehearse(observes, [])

    assert seen == [1.0]


@pytest.mark.parametrize("again", [False, True], ids=["once", "again"])
def test_a_rehearsal_leaves_nothing_open(again):
    weight = variable(1.0, trainable=False)
    for _ in range(1 + again):
        backend.rehearse(lambda: weight.assign_add(1.0), [weight])
    weight.assign(5.0)

    assert float(weight) == 5.0
