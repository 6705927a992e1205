"""PG1xx: variables that no gradient reaches, optimizers that do not fit their variables."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee import PerigeeWarning
from perigee._errors import (
    GradientCountError,
    OptimizerAccumulationError,
    OptimizerSetError,
    OptimizerVariablesError,
    SharedVariableError,
    UnheldVariablesError,
    UntrackedVariablesError,
    UnusedVariablesError,
    VariableMadeInStepError,
    VariablesArgumentError,
)

ROWS, FEATURES, HIDDEN = 8, 3, 4


class Custom(pg.Step):
    """A step whose body is given: `body(step, x, y)` returns what to log."""

    def __init__(self, body, **held):
        self.body = body
        for name, value in held.items():
            setattr(self, name, value)

    def train_step(self, batch):
        return self.body(self, *batch)


def two_layers():
    return keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(HIDDEN, name="body"),
            keras.layers.Dense(1, name="head"),
        ]
    )


def squared(y, y_pred):
    return ops.mean(ops.square(y - y_pred))


@pytest.fixture
def data():
    x = np.random.normal(size=(ROWS, FEATURES)).astype("float32")
    return x, x[:, :1]


def test_an_objective_computed_outside_reaches_no_variable(data, refused):
    def body(step, x, y):
        y_pred = step.model(x, training=True)
        return {"loss": step.minimize(lambda: squared(y, y_pred), step.optimizer, step.model)}

    step = Custom(body, model=two_layers(), optimizer=keras.optimizers.SGD())

    error = refused(UnusedVariablesError, step, data)

    assert isinstance(error, ValueError)
    assert error.code == "PG101"
    assert error.total == 4
    assert error.unused == (
        "model/body/kernel",
        "model/body/bias",
        "model/head/kernel",
        "model/head/bias",
    )
    assert "No gradient reached 4 of 4 trainable variables" in str(error)
    assert "inside the objective" in error.fix


@pytest.mark.parametrize(
    "cut",
    [
        ops.stop_gradient,
        lambda y: ops.cast(ops.cast(y, "int32"), "float32"),
        lambda y: ops.one_hot(ops.argmax(y, axis=-1), HIDDEN),
    ],
    ids=["stop_gradient", "integer cast", "argmax"],
)
def test_only_the_variables_that_no_gradient_reaches_are_named(data, refused, cut):
    def body(step, x, y):
        body_layer, head = step.model.layers

        def objective():
            return squared(y, head(cut(body_layer(x))))

        return {"loss": step.minimize(objective, step.optimizer, step.model)}

    step = Custom(body, model=two_layers(), optimizer=keras.optimizers.SGD())

    error = refused(UnusedVariablesError, step, data)

    assert error.unused == ("model/body/kernel", "model/body/bias")
    assert error.items == error.unused
    assert "No gradient reached 2 of 4 trainable variables:\n  - model/body/kernel" in str(error)


def test_at_most_five_of_many_unreached_variables_are_listed(data, refused):
    layers, shown = 6, 5
    model = keras.Sequential([keras.Input((FEATURES,)), *map(keras.layers.Dense, [1] * layers)])

    def body(step, x, y):
        return {"loss": step.minimize(lambda: ops.mean(x), step.optimizer, step.model)}

    step = Custom(body, model=model, optimizer=keras.optimizers.SGD())

    error = refused(UnusedVariablesError, step, data)

    assert len(error.unused) == 2 * layers
    assert str(error).count("\n  - ") == shown + 1
    assert f"... and {2 * layers - shown} more" in str(error)


def test_a_missing_gradient_is_refused_by_apply_as_well(data, refused):
    def body(step, x, y):
        grads = step.gradients(lambda: squared(y, step.model(x)), step.model)
        step.apply(step.optimizer, [(None, v) for v in grads.variables])
        return {"loss": grads.returned}

    step = Custom(body, model=two_layers(), optimizer=keras.optimizers.SGD())

    assert len(refused(UnusedVariablesError, step, data).unused) == 4


def test_tensors_that_the_inner_objective_does_not_use_are_refused(data, refused):
    def body(step, x, y):
        unused = step.gradients(lambda a, b: ops.sum(a), [x, y])
        return {"slope": ops.mean(unused[1])}

    error = refused(UnusedVariablesError, Custom(body), data)

    assert error.unused == (f"tensor 1 of shape {(ROWS, 1)}",)
    assert error.total == 2


def test_a_variable_under_two_optimizers_is_refused(data, refused):
    def body(step, x, y):
        def objective():
            return squared(y, step.model(x))

        step.minimize(objective, step.first, step.model)
        return {"loss": step.minimize(objective, step.second, step.model.layers[1])}

    step = Custom(
        body, model=two_layers(), first=keras.optimizers.SGD(), second=keras.optimizers.Adam()
    )

    error = refused(SharedVariableError, step, data)

    assert error.code == "PG104"
    assert error.shared == ("model/head/kernel", "model/head/bias")
    assert (error.first, error.second) == ("first", "second")
    assert "2 variables are updated by both 'first' and 'second'" in str(error)


def test_one_optimizer_on_two_sets_of_variables_is_refused(data, refused):
    def body(step, x, y):
        def objective():
            return squared(y, step.model(x))

        step.minimize(objective, step.optimizer, step.model.layers[0])
        return {"loss": step.minimize(objective, step.optimizer, step.model.layers[1])}

    step = Custom(body, model=two_layers(), optimizer=keras.optimizers.SGD())

    error = refused(OptimizerSetError, step, data)

    assert error.code == "PG105"
    assert error.first == ("model/body/kernel", "model/body/bias")
    assert error.second == ("model/head/kernel", "model/head/bias")
    assert "'optimizer' is applied to 2 variables and then, in the same step, to 2" in str(error)


def test_an_optimizer_built_on_fewer_variables_is_refused(data, refused):
    def body(step, x, y):
        return {
            "loss": step.minimize(lambda: squared(y, step.model(x)), step.optimizer, step.model)
        }

    model, optimizer = two_layers(), keras.optimizers.SGD()
    optimizer.build(model.layers[1].trainable_variables)
    step = Custom(body, model=model, optimizer=optimizer)

    error = refused(OptimizerVariablesError, step, data)

    assert error.code == "PG106"
    assert error.optimizer == "optimizer"
    assert error.unknown == ("model/body/kernel", "model/body/bias")
    assert "'optimizer' was built without 2 of the variables given to it" in str(error)
    assert "new optimizer" in error.fix


def test_an_optimizer_kept_for_a_grown_model_is_refused(data, refused):
    def body(step, x, y):
        return {
            "loss": step.minimize(lambda: squared(y, step.model(x)), step.optimizer, step.model)
        }

    step = Custom(body, model=two_layers(), optimizer=keras.optimizers.SGD())
    step.model.layers[0].trainable = False
    pg.fit(step, data, progress="off")
    step.model.layers[0].trainable = True

    error = refused(OptimizerVariablesError, step, data)

    assert error.unknown == ("model/body/kernel", "model/body/bias")


def test_variables_left_out_with_two_models_is_refused(data, refused):
    def body(step, x, y):
        return {"loss": step.minimize(lambda: squared(y, step.a(x) + step.b(x)), step.optimizer)}

    step = Custom(body, a=two_layers(), b=two_layers(), optimizer=keras.optimizers.SGD())

    error = refused(VariablesArgumentError, step, data)

    assert error.code == "PG107"
    assert error.candidates == ("a", "b")
    assert "`variables=` was omitted and the Step holds 2 models" in str(error)


@pytest.mark.parametrize("given", ["model", 3, [None]], ids=repr)
def test_variables_that_are_none_are_refused(data, refused, given):
    def body(step, x, y):
        return {"loss": step.minimize(lambda: squared(y, step.model(x)), step.optimizer, given)}

    step = Custom(body, model=two_layers(), optimizer=keras.optimizers.SGD())

    error = refused(VariablesArgumentError, step, data)

    kind = type(keras.tree.flatten(given)[0]).__name__
    assert f"{kind} was given" in str(error)


def test_a_frozen_model_has_nothing_to_differentiate_for(data, refused):
    def body(step, x, y):
        return {
            "loss": step.minimize(lambda: squared(y, step.model(x)), step.optimizer, step.model)
        }

    step = Custom(body, model=two_layers(), optimizer=keras.optimizers.SGD())
    step.model.trainable = False

    error = refused(VariablesArgumentError, step, data)

    assert "there is no trainable variable" in str(error)
    assert "frozen" in str(error)


def test_an_unbuilt_model_outside_a_fit_is_refused(data):
    x, y = map(ops.convert_to_tensor, data)
    step = Custom(None, model=keras.Sequential([keras.layers.Dense(1)]))

    with pytest.raises(VariablesArgumentError, match="the model is not built"):
        step.gradients(lambda: squared(y, step.model(x)), step.model)


def test_an_optimizer_that_accumulates_by_itself_is_refused(data, refused):
    micro_batches = 4

    def body(step, x, y):
        return {
            "loss": step.minimize(lambda: squared(y, step.model(x)), step.optimizer, step.model)
        }

    optimizer = keras.optimizers.SGD(gradient_accumulation_steps=micro_batches)
    step = Custom(body, model=two_layers(), optimizer=optimizer)

    error = refused(OptimizerAccumulationError, step, data)

    assert error.code == "PG109"
    assert (error.optimizer, error.steps) == ("optimizer", micro_batches)
    assert f"`accumulate={micro_batches}`" in error.fix


def test_replacing_gradients_by_fewer_is_refused(data, refused):
    def body(step, x, y):
        grads = step.gradients(lambda: squared(y, step.model(x)), step.model)
        step.apply(step.optimizer, grads.replaced(grads[:-1]))
        return {"loss": grads.returned}

    step = Custom(body, model=two_layers(), optimizer=keras.optimizers.SGD())

    error = refused(GradientCountError, step, data)

    assert error.code == "PG108"
    assert (error.given, error.variables) == (3, 4)


def make_layer(step, x):
    return keras.layers.Dense(FEATURES, name="late")(x)


def make_variable(step, x):
    return x * keras.Variable(1.0, name="late")


def make_metric(step, x):
    keras.metrics.Mean(name="late").update_state(x)
    return x


def make_seed_generator(step, x):
    return x + keras.random.normal((1, 1), seed=keras.random.SeedGenerator(1, name="late"))


@pytest.mark.parametrize("make", [make_layer, make_variable, make_metric, make_seed_generator])
@pytest.mark.parametrize("is_inside", [True, False], ids=["inside", "outside"])
def test_what_is_made_inside_a_step_is_refused(data, refused, make, is_inside):
    def body(step, x, y):
        made = None if is_inside else make(step, x)

        def objective():
            return squared(y, step.model(make(step, x) if is_inside else made))

        return {"loss": step.minimize(objective, step.optimizer, step.model)}

    step = Custom(body, model=two_layers(), optimizer=keras.optimizers.SGD())

    error = refused(VariableMadeInStepError, step, data)

    assert error.code == "PG103"
    assert error.made
    assert f"The step made {len(error.made)} variables that the Step does not hold" in str(error)
    assert "`__init__`" in error.fix


@pytest.mark.parametrize("execution", ["auto", "eager"])
def test_an_optimizer_made_inside_a_step_is_refused(data, refused, execution):
    def body(step, x, y):
        optimizer = keras.optimizers.SGD()
        return {"loss": step.minimize(lambda: squared(y, step.model(x)), optimizer, step.model)}

    error = refused(
        VariableMadeInStepError, Custom(body, model=two_layers()), data, execution=execution
    )

    assert error.code == "PG103"
    assert any("iteration" in made for made in error.made)


def elsewhere_optimizer(step, x, y):
    loss = step.minimize(lambda: squared(y, step.model(x)), ELSEWHERE["optimizer"], step.model)
    return {"loss": loss}


def elsewhere_metric(step, x, y):
    ELSEWHERE["metric"].update_state(y)
    return {"mean": ELSEWHERE["metric"].result()}


def elsewhere_model(step, x, y):
    return {"mean": ops.mean(ELSEWHERE["model"](x, training=True))}


def elsewhere_seed(step, x, y):
    return {"mean": ops.mean(keras.random.normal((2,), seed=ELSEWHERE["seed"]))}


def elsewhere_variable(step, x, y):
    ELSEWHERE["variable"].assign_add(1.0)
    return {"mean": ops.mean(x)}


ELSEWHERE = {}


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (elsewhere_optimizer, ["iteration", "learning_rate"]),
        (elsewhere_metric, ["total", "count"]),
        (elsewhere_model, ["moving_mean", "moving_variance"]),
        (elsewhere_seed, ["seed_generator_state"]),
        (elsewhere_variable, ["elsewhere"]),
    ],
    ids=["optimizer", "metric", "model", "seed generator", "variable"],
)
@pytest.mark.parametrize("execution", ["auto", "eager"])
def test_writing_what_the_step_does_not_hold_is_refused(data, refused, body, names, execution):
    ELSEWHERE.update(
        optimizer=keras.optimizers.SGD(),
        metric=keras.metrics.Mean(),
        model=keras.Sequential([keras.Input((FEATURES,)), keras.layers.BatchNormalization()]),
        seed=keras.random.SeedGenerator(1),
        variable=keras.Variable(0.0, trainable=False, name="elsewhere"),
    )
    owners = [ELSEWHERE[name] for name in ("optimizer", "metric", "model")]
    variables = [v for owner in owners for v in owner.variables]
    variables += [ELSEWHERE["seed"].state, ELSEWHERE["variable"]]
    before = [ops.convert_to_numpy(v).tobytes() for v in variables]

    error = refused(
        UnheldVariablesError, Custom(body, model=two_layers()), data, execution=execution
    )

    assert error.code == "PG111"
    assert [item.split()[0].split("/")[-1] for item in error.unheld] == names
    assert f"The step writes {len(names)} variables that the Step does not hold" in str(error)
    assert "attribute of the Step" in error.fix
    assert [ops.convert_to_numpy(v).tobytes() for v in variables] == before


@pytest.mark.only_tensorflow
def test_a_framework_variable_in_a_layer_is_refused_as_untracked(data, refused):
    import tensorflow as tf

    class Scale(keras.Layer):
        def __init__(self):
            super().__init__()
            self.factor = tf.Variable(2.0, name="factor")

        def call(self, x):
            return x * self.factor

    def body(step, x, y):
        return {
            "loss": step.minimize(lambda: squared(y, step.model(x)), step.optimizer, step.model)
        }

    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1), Scale()])
    step = Custom(body, model=model, optimizer=keras.optimizers.SGD())

    error = refused(UntrackedVariablesError, step, data)

    assert error.code == "PG102"
    assert error.untracked == ("factor:0 ()",)
    assert "add_weight" in error.fix


def test_a_trainable_variable_that_no_optimizer_covers_is_a_finding(data):
    def body(step, x, y):
        return {"loss": step.minimize(lambda: squared(y, step.model(x)), step.optimizer, step.head)}

    model = two_layers()
    step = Custom(body, model=model, head=model.layers[1], optimizer=keras.optimizers.SGD())
    frozen, moving = model.layers
    before = [np.array(layer.kernel) for layer in (frozen, moving)]

    with pytest.warns(PerigeeWarning, match="PG110") as caught:
        history = pg.fit(step, data, epochs=2, progress="off")

    [warned] = [warning for warning in caught if warning.category is PerigeeWarning]
    [finding] = history.findings
    assert finding.code == "PG110"
    assert finding.severity == "warning"
    assert finding.items == ("model/body/kernel", "model/body/bias")
    assert str(finding) == str(warned.message)
    assert warned.filename == __file__
    assert len(history.history["loss"]) == 2
    assert np.array_equal(frozen.kernel, before[0])
    assert not np.array_equal(moving.kernel, before[1])


def test_a_step_that_forgets_to_minimize_is_told_at_the_first_batch(data):
    def body(step, x, y):
        heard.append(sum(issubclass(one.category, PerigeeWarning) for one in told.list))
        return {"loss": squared(y, step.model(x, training=True))}

    step = Custom(body, model=two_layers(), optimizer=keras.optimizers.SGD())
    heard = []

    with pytest.warns(PerigeeWarning, match="PG112") as told:
        history = pg.fit(step, data, epochs=2, progress="off", execution="eager")

    assert [finding.code for finding in history.findings] == ["PG112"]
    assert heard == sorted(heard) and heard.count(1) == history.clock.step


def test_a_step_that_is_not_meant_to_train_is_no_finding(data):
    def body(step, x, y):
        return {"loss": squared(y, step.model(x, training=True))}

    step = Custom(body, model=two_layers(), optimizer=keras.optimizers.SGD())
    step.ignore_findings = ("PG112",)

    assert list(pg.fit(step, data, progress="off", execution="eager").findings) == []


def test_a_variable_frozen_on_purpose_is_no_finding(data):
    def body(step, x, y):
        return {
            "loss": step.minimize(lambda: squared(y, step.model(x)), step.optimizer, step.model)
        }

    step = Custom(body, model=two_layers(), optimizer=keras.optimizers.SGD())
    step.model.layers[0].trainable = False

    assert list(pg.fit(step, data, progress="off").findings) == []
