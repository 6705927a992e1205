"""Mistakes of the first hour: each message shows a line, and the line, pasted, works."""

import re
import textwrap
import warnings
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers, ops

import perigee as pg
from perigee._errors import (
    ArgumentError,
    CompiledCallError,
    LossTypeError,
    MissingMethodError,
    ScopeError,
    StepAttributeError,
    StepSignatureError,
    UnknownArgumentError,
    UnusedVariablesError,
    VariablesArgumentError,
)

ROWS, FEATURES = 6, 3


def make_model():
    return keras.Sequential([keras.Input((FEATURES,)), layers.Dense(2), layers.Dense(1)])


def data():
    draw = np.random.default_rng(0)
    return draw.normal(size=(ROWS, FEATURES)).astype("float32"), np.ones((ROWS, 1), "float32")


class Own(pg.Step):
    """A right step, in parts that mistakes replace."""

    def __init__(self):
        self.model = make_model()
        self.optimizer = keras.optimizers.SGD(0.01)
        self.loss = keras.losses.MeanSquaredError()

    def trained(self, x, y):
        def objective():
            return self.loss(y, self.model(x, training=True))

        return {"loss": self.minimize(objective, self.optimizer, self.model)}

    def train_step(self, batch):
        return self.trained(*batch)

    def test_step(self, batch):
        return {"loss": self.loss(batch[1], self.model(batch[0], training=False))}

    def predict_step(self, batch):
        return self.model(batch[0], training=False)


def trains(step):
    """Train the step; it must come out with a loss."""
    return np.isfinite(pg.fit(step, data(), progress="off").history["loss"]).all()


def refusal(error, mistake):
    with pytest.raises(error) as caught:
        mistake()
    return caught.value


def lines(error):
    """The code that the fix of an error shows."""
    return re.findall(r"`([^`]+)`", error.fix)


def with_method(head, body):
    """A subclass of `Own` with a method, made of text, as a user pastes it."""
    names = {"Own": Own, "pg": pg, "keras": keras, "ops": ops}
    text = "\n".join(f"        {line}" for line in body)
    exec(f"class Pasted(Own):\n    {head}\n{text}\n", names)
    return names["Pasted"]


# Signatures.


@pytest.mark.parametrize(
    "head",
    ["def {}(self, x, y):", "def {}(batch):", "def {}(self):", "def {}(self, x, y, *, size):"],
    ids=["arrays apart", "no self", "no batch", "keywords"],
)
@pytest.mark.parametrize(
    ("by", "method"),
    [(pg.fit, "train_step"), (pg.evaluate, "test_step"), (pg.predict, "predict_step")],
)
def test_a_method_that_takes_no_batch_is_shown_its_first_lines(by, method, head):
    right = {
        "train_step": "return self.trained(x, y)",
        "test_step": 'return {"loss": self.loss(y, self.model(x))}',
        "predict_step": "return self.model(x)",
    }
    wrong = with_method(head.format(method), ["return {}"])

    error = refusal(StepSignatureError, lambda: by(wrong(), data()))

    assert isinstance(error, TypeError)
    head, *rest = lines(error)
    begin = rest or ["x, y = batch"]
    body = [begin[0].replace(", size", ""), right[method]]
    assert by(with_method(head, body)(), data()) is not None


def test_validation_is_refused_before_training_where_its_method_takes_no_batch():
    step = with_method("def test_step(self, x, y):", ["return {}"])()

    refusal(StepSignatureError, lambda: pg.fit(step, data(), validation=data()))

    assert int(ops.convert_to_numpy(step.optimizer.iterations)) == 0


@pytest.mark.parametrize(
    "head",
    [
        "def train_step(self, batch, scale=1.0):",
        "def train_step(self, *parts):",
        "def train_step(self, data):",
    ],
)
def test_any_method_that_takes_a_batch_is_accepted(head):
    first = head.partition(", ")[2].rpartition(")")[0].partition(",")[0]
    batch = "parts[0]" if first == "*parts" else first
    assert trains(with_method(head, [f"return self.trained(*{batch})"])())


def test_a_phase_that_takes_no_batch_is_refused_too():
    class Turns(Own):
        train_step = pg.alternate(first=1, second=1)

        def first(self, x, y):
            return self.trained(x, y)

        def second(self, batch):
            return self.trained(*batch)

    error = refusal(StepSignatureError, lambda: pg.fit(Turns(), data(), progress="off"))

    assert lines(error) == ["def first(self, batch):", "x, y = batch"]


@pytest.mark.parametrize("name", ["training_step", "trian_step", "train"])
def test_a_method_of_another_name_is_asked_to_be_renamed(name):
    wrong = type("Named", (pg.Step,), {name: lambda self, batch: {}})

    error = refusal(MissingMethodError, lambda: pg.fit(wrong(), data()))

    assert lines(error)[0] == name
    assert lines(error)[1].startswith("def train_step(self, batch):")


# What `fit` is given in place of a Step.


def test_a_class_is_shown_how_to_make_an_instance():
    error = refusal(ArgumentError, lambda: pg.fit(Own, data()))

    assert eval(lines(error)[0], {"pg": pg, "Own": Own, "data": data()}).history["loss"]


def test_a_class_with_arguments_is_not_shown_a_call_without():
    error = refusal(ArgumentError, lambda: pg.fit(pg.Supervised, data()))

    assert lines(error) == ["pg.fit(Supervised(...), data)"]


@pytest.mark.parametrize("by", [pg.fit, pg.evaluate])
def test_a_method_is_shown_its_step(by):
    step = Own()

    error = refusal(ArgumentError, lambda: by(step.train_step, data()))

    assert eval(lines(error)[0], {"pg": pg, "step": step, "data": data()})


@pytest.mark.parametrize("is_compiled", [True, False])
def test_a_model_is_shown_the_step_that_holds_it(is_compiled):
    model = make_model()
    if is_compiled:
        model.compile("sgd", "mse")

    error = refusal(ArgumentError, lambda: pg.fit(model, data()))

    model.compile("sgd", "mse")
    assert eval(lines(error)[0], {"pg": pg, "model": model, "data": data()}).history["loss"]
    assert ("compile it" in error.fix) != is_compiled


def test_a_layer_is_shown_the_step_that_takes_it():
    layer = layers.Dense(1)

    error = refusal(ArgumentError, lambda: pg.fit(layer, data()))

    names = {"pg": pg, "model": layer, "optimizer": "sgd", "loss": "mse"}
    assert trains(eval(lines(error)[0], names))


@pytest.mark.parametrize("by", [lambda layer: pg.keras_fit(layer, *data()), pg.KerasStep])
def test_a_layer_in_place_of_a_model_is_shown_how_to_make_one(by):
    error = refusal(ArgumentError, lambda: by(layers.Dense(1)))

    names = {"keras": keras, "layer": layers.Dense(1)}
    exec(lines(error)[0], names)
    names["model"].compile("sgd", "mse")
    assert pg.keras_fit(names["model"], *data(), verbose=0).history["loss"]


def test_a_step_given_to_keras_fit_is_shown_fit():
    step = Own()

    error = refusal(ArgumentError, lambda: pg.keras_fit(step, *data()))

    assert eval(lines(error)[0], {"pg": pg, "step": step, "data": data()}).history["loss"]


# Names of Keras's models.


@pytest.mark.parametrize("name", ["fit", "evaluate", "predict"])
def test_a_method_of_keras_is_shown_the_function(name):
    step = Own()

    error = refusal(StepAttributeError, lambda: getattr(step, name)(*data()))

    assert isinstance(error, AttributeError)
    assert error.name == name
    assert eval(lines(error)[0], {"pg": pg, "step": step, "data": data()}) is not None


@pytest.mark.parametrize("name", ["train", "test", "predict"])
def test_a_method_for_one_batch_is_shown_prepare(name):
    step, batch = Own(), data()

    error = refusal(StepAttributeError, lambda: getattr(step, f"{name}_on_batch"))

    exec(
        f"{lines(error)[0]}\n    {lines(error)[1]}".replace("(step)", '(step, progress="off")'),
        {"pg": pg, "step": step, "batch": batch},
    )


@pytest.mark.parametrize("name", ["trainable_variables", "summary", "save_weights", "layers"])
def test_an_attribute_of_models_is_shown_the_model_that_has_it(name):
    step = Own()

    error = refusal(StepAttributeError, lambda: getattr(step, name))

    assert eval(lines(error)[0], {"step": step}) == getattr(step.model, name)


def test_compile_is_shown_what_takes_its_arguments():
    error = refusal(StepAttributeError, lambda: Own().compile("sgd", "mse"))

    names = {"pg": pg, "model": make_model(), "optimizer": "sgd", "loss": "mse", "metrics": []}
    exec(lines(error)[1], names)
    assert trains(names["step"])


@pytest.mark.parametrize(
    ("name", "at"), [("optimizer", 1), ("loss", 1), ("compute_loss", 1), ("compiled_metrics", 1)]
)
def test_what_a_step_must_hold_is_shown_being_made(name, at):
    class Empty(pg.Step):
        pass

    step = Empty()
    error = refusal(StepAttributeError, lambda: getattr(step, name))

    made = next(line for line in lines(error) if " = " in line)
    exec(made, {"self": step, "keras": keras})
    assert len(vars(step)) == at


@pytest.mark.parametrize("name", ["nonsense", "__deepcopy__", "optimiser"])
def test_any_other_name_is_answered_by_python(name):
    step = Own()

    assert not hasattr(step, name)
    with pytest.raises(AttributeError) as caught:
        getattr(step, name)
    assert not isinstance(caught.value, pg.PerigeeError)


def test_an_error_in_a_property_of_that_name_is_the_users():
    class WithProperty(Own):
        @property
        def metrics(self):
            return self.nonsense

    with pytest.raises(AttributeError, match="nonsense"):
        _ = WithProperty().metrics


# `Supervised`.


def supervised(**changed):
    return pg.Supervised(**{"model": make_model(), "optimizer": "sgd", "loss": "mse", **changed})


@pytest.mark.parametrize(
    ("argument", "wrong"),
    [
        ("optimizer", keras.optimizers.Adam),
        ("optimizer", "adamm"),
        ("optimizer", SimpleNamespace(step=None, zero_grad=None)),
        ("loss", keras.metrics.MeanSquaredError()),
        ("loss", keras.metrics.MeanSquaredError),
        ("loss", [keras.metrics.Mean()]),
        ("loss", "mean_square_error"),
        ("metrics", ["mean_square_error"]),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_an_argument_of_supervised_is_shown_one_that_works(argument, wrong):
    error = refusal(ArgumentError, lambda: supervised(**{argument: wrong}))

    assert error.name == argument
    right = eval(lines(error)[0], {"keras": keras})
    assert trains(supervised(**{argument: right}))


def test_a_metric_by_name_is_not_a_loss():
    error = refusal(ArgumentError, lambda: supervised(loss="accuracy"))

    metrics, loss = lines(error)
    step = supervised(
        model=keras.Sequential([layers.Dense(2, "softmax")]),
        loss=eval(loss),
        **eval(f"dict({metrics})"),
    )
    history = pg.fit(step, (data()[0], np.zeros(ROWS, "int32")), progress="off")
    assert {"loss", "accuracy"} <= history.history.keys()


@pytest.mark.parametrize("loss", [keras.losses.MeanSquaredError, "MSE", "MeanSquaredError"])
def test_a_loss_is_accepted_as_keras_does(loss):
    assert trains(supervised(loss=loss))


@pytest.mark.parametrize(
    ("model", "optimizer", "loss"),
    [(0, 2, 1), (1, 0, 2)],
    ids=["optimizer and loss", "model and optimizer"],
)
def test_an_exchanged_order_is_shown_the_right_one(model, optimizer, loss):
    right = [make_model(), keras.optimizers.SGD(0.01), keras.losses.MeanSquaredError()]
    given = [right[model], right[optimizer], right[loss]]

    error = refusal(ArgumentError, lambda: pg.Supervised(*given))

    names = {"pg": pg, **dict(zip(("model", "optimizer", "loss"), right, strict=True))}
    assert trains(eval(lines(error)[0], names))


def test_an_argument_of_compile_is_shown_that_of_fit():
    error = refusal(UnknownArgumentError, lambda: supervised(run_eagerly=True))

    assert error.function == "Supervised"
    argument, function = lines(error)
    call = eval(f"lambda step, data: {function}(step, data, {argument}, progress='off')")
    assert call(supervised(), data()).history["loss"]


# Inside a step.


def own(body):
    return with_method("def train_step(self, batch):", ["x, y = batch", *body])


OBJECTIVE = ["def objective():", "    return self.loss(y, self.model(x, training=True))"]


@pytest.mark.parametrize("given", ["adam", keras.optimizers.Adam], ids=["name", "class"])
def test_an_optimizer_that_is_none_is_shown_being_made(given):
    step = Own()
    step.optimizer = given

    error = refusal(ArgumentError, lambda: pg.fit(step, data(), progress="off"))

    exec(lines(error)[1], {"self": step, "keras": keras})
    assert trains(step)


@pytest.mark.parametrize(
    "call", ["self.optimizer, objective", "objective, self.model, self.optimizer"]
)
def test_exchanged_arguments_of_minimize_are_shown_the_order(call):
    wrong = own([*OBJECTIVE, f'return {{"loss": self.minimize({call})}}'])

    error = refusal(ArgumentError, lambda: pg.fit(wrong(), data(), progress="off"))

    line = lines(error)[0].replace(" optimizer", " self.optimizer").replace(" model", " self.model")
    assert trains(own([*OBJECTIVE, f'return {{"loss": {line}}}'])())


def test_an_objective_that_was_called_is_shown_being_passed():
    wrong = own([*OBJECTIVE, "self.minimize(objective(), self.optimizer)", "return {}"])

    error = refusal(ArgumentError, lambda: pg.fit(wrong(), data(), progress="off"))

    define, passed = lines(error)
    body = [define, OBJECTIVE[1], f"return {{'loss': self.minimize({passed}, self.optimizer)}}"]
    assert trains(own(body)())


def test_an_objective_with_parameters_is_shown_one_without():
    define = ["def objective(x):", OBJECTIVE[1]]
    wrong = own([*define, "self.minimize(objective, self.optimizer)", "return {}"])

    error = refusal(ArgumentError, lambda: pg.fit(wrong(), data(), progress="off"))

    body = [*define, f"return {{'loss': self.minimize({lines(error)[0]}, self.optimizer)}}"]
    assert trains(own(body)())


@pytest.mark.parametrize(
    ("last", "indent"),
    [("y_pred, loss", None), ("loss, y_pred, y", "return loss, (y_pred, ...)"), ("None", None)],
    ids=["order", "three", "nothing"],
)
def test_an_objective_that_returns_something_else_is_shown_its_last_line(last, indent):
    def body(end):
        begin = [
            "def objective():",
            "    y_pred = self.model(x)",
            "    loss = self.loss(y, y_pred)",
        ]
        after = ["returned = self.minimize(objective, self.optimizer)"]
        after += ['return {"loss": returned[0] if isinstance(returned, tuple) else returned}']
        return own([*begin, f"    {end}", *after])

    if last == "y_pred, loss":  # a tensor, and not one value per example
        with pytest.raises(pg.PerigeeError, match="PG201"):
            pg.fit(body(f"return {last}")(), data(), progress="off")
        return
    error = refusal(LossTypeError, lambda: pg.fit(body(f"return {last}")(), data(), progress="off"))

    line = lines(error)[0]
    assert indent in (line, None)
    assert trains(body(line.replace("...", "y"))())


@pytest.mark.parametrize("given", ["self.model", "self.model.layers", "self.model.layers[0]"])
def test_gradients_of_layers_and_models_are_those_of_their_variables(given):
    step = own(
        [
            *OBJECTIVE,
            "gradients = self.gradients(objective, self.model)",
            f"self.apply(self.optimizer, gradients.of({given}))",
            'return {"loss": gradients.returned}',
        ]
    )()
    step.ignore_findings = ("PG110",)
    before = [ops.convert_to_numpy(v) for v in step.model.trainable_variables]

    assert trains(step)

    after = [ops.convert_to_numpy(v) for v in step.model.trainable_variables]
    moved = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert moved == [True, True, *[given != "self.model.layers[0]"] * 2]


def test_gradients_of_a_model_that_was_not_differentiated_for_are_refused():
    step = own(
        [
            *OBJECTIVE,
            "gradients = self.gradients(objective, self.model)",
            "self.apply(self.optimizer, gradients.of(self.other))",
            "return {}",
        ]
    )()
    step.other = make_model()

    error = refusal(VariablesArgumentError, lambda: pg.fit(step, data(), progress="off"))

    assert [item.rpartition("/")[2] for item in error.items] == ["kernel", "bias"] * 2


def test_gradients_without_their_variables_are_shown_how_to_keep_them():
    head = [*OBJECTIVE, "optimizer = self.optimizer"]
    head += ["gradients = self.gradients(objective, self.model)"]
    head += ["values = [g / 2 for g in gradients]"]
    wrong = own([*head, "self.apply(optimizer, values)", "return {}"])

    error = refusal(ArgumentError, lambda: pg.fit(wrong(), data(), progress="off"))

    assert trains(own([*head, lines(error)[0], "return {'loss': gradients.returned}"])())


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="it has gradients there")
def test_a_metric_as_the_loss_of_an_objective_is_shown_a_loss():
    step = Own()
    step.loss = keras.metrics.MeanSquaredError(name="error")

    error = refusal(UnusedVariablesError, lambda: pg.fit(step, data(), progress="off"))

    assert error.metric == "loss"
    step.loss = eval(lines(error)[0].removesuffix("(y, y_pred)"), {"keras": keras})
    assert trains(step)


# Around a training.


@pytest.mark.parametrize("kind", [pg.Hook, keras.callbacks.Callback])
def test_a_class_among_callbacks_is_shown_being_made(kind):
    noted = type("Noted", (kind,), {})

    error = refusal(ArgumentError, lambda: pg.fit(Own(), data(), callbacks=[noted]))

    arguments = eval(f"dict({lines(error)[0]})", {"Noted": noted})
    assert pg.fit(Own(), data(), progress="off", **arguments).history["loss"]


def test_a_function_among_callbacks_is_shown_what_calls_it():
    error = refusal(ArgumentError, lambda: pg.fit(Own(), data(), callbacks=[print]))

    callback = eval(lines(error)[0].replace("...", "lambda *_: None"), {"keras": keras})
    assert pg.fit(Own(), data(), progress="off", callbacks=[callback]).history["loss"]


class Rates(pg.Hook):
    """Sets the learning rate, as if it were called at each step."""

    def __init__(self, step):
        self.step = step

    def on_steps(self, event):
        self.step.optimizer.learning_rate = 0.1 / (1 + event.clock.step)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="it runs one step a call")
def test_a_hook_that_sets_something_after_a_block_is_shown_a_cadence():
    step = Own()
    hear = Rates(step)

    with pytest.warns(pg.PerigeeWarning, match="PG447") as caught:
        history = pg.fit(step, data(), batch_size=1, callbacks=[hear], progress="off")

    (finding,) = history.findings
    assert finding.items == ("optimizer/learning_rate",)
    assert [each.filename for each in caught if "PG447" in str(each.message)] == [__file__]
    name, _, value = lines(finding)[0].partition(" = ")
    setattr(hear, name, eval(value, {"pg": pg}))
    with warnings.catch_warnings(action="error", category=pg.PerigeeWarning):
        history = pg.fit(step, data(), batch_size=1, callbacks=[hear], progress="off")
    assert not history.findings


def test_a_hook_that_sets_what_the_step_does_not_hold_is_right():
    kept = keras.Variable(0.0, trainable=False)

    class Counts(pg.Hook):
        def on_steps(self, event):
            kept.assign(event.clock.step)

    history = pg.fit(Own(), data(), batch_size=1, callbacks=[Counts()], progress="off")

    assert not history.findings
    assert float(kept) == ROWS


def test_a_hook_with_methods_of_keras_is_shown_those_of_hooks():
    class Told(pg.Hook):
        def on_epoch_end(self, epoch, logs=None):
            raise AssertionError("it is never called")

    with pytest.warns(pg.PerigeeWarning, match="PG448"):
        history = pg.fit(Own(), data(), callbacks=[Told()], progress="off")

    (finding,) = history.findings
    called = []
    names = {"pg": pg, "called": called}
    exec(f"class Pasted(pg.Hook):\n    {lines(finding)[0]}\n        called.append(event)\n", names)
    pg.fit(Own(), data(), callbacks=[names["Pasted"]()], progress="off")
    assert [event.scope for event in called] == ["epoch"]


def test_a_hook_that_is_a_callback_as_well_is_right_where_it_overrides_nothing():
    class Both(keras.callbacks.Callback, pg.Hook):
        pass

    assert not pg.fit(Own(), data(), callbacks=[Both()], progress="off").findings


@pytest.mark.parametrize("by", [pg.fit, pg.evaluate, pg.predict, pg.check])
def test_a_call_inside_a_function_that_is_compiled_is_refused(by):
    step = Own()

    def train():
        by(step, data())

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(train)
    elif keras.backend.backend() == "jax":
        import jax

        compiled = jax.jit(train)
    else:
        pytest.skip("`torch.compile` leaves out what it cannot compile")

    error = refusal(CompiledCallError, compiled)

    assert f"remove `{error.compiler}`" in error.fix
    train()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about tf.distribute")
def test_a_step_made_outside_a_strategy_and_trained_inside_is_shown_where_to_make_it():
    from tests.distribution.strategies import mirrored

    strategy = mirrored(2)
    step = Own()

    def train():
        with strategy.scope():
            pg.fit(step, data(), progress="off")

    error = refusal(ScopeError, train)

    assert "is used in the scope of MirroredStrategy" in error.happened
    names = {"strategy": strategy, "make_step": Own, "pg": pg, "data": data()}
    exec(textwrap.dedent(error.fix.partition("\n")[2]), names)
    step = names["step"]
    assert int(ops.convert_to_numpy(step.optimizer.iterations)) == 1


@pytest.mark.parametrize(
    ("body", "advice"),
    [
        (["return {'loss': self(x)}"], "self.model(x, training=True)"),
        (["self.optimizer.minimize(y, [])"], "self.minimize(objective, self.optimizer"),
    ],
    ids=["calls the step", "minimize of an optimizer"],
)
def test_an_error_of_python_gets_advice_with_the_line(body, advice):
    with pytest.raises((TypeError, AttributeError)) as caught:
        pg.fit(own(body)(), data(), progress="off")

    assert not isinstance(caught.value, pg.PerigeeError)
    assert sum(advice in note for note in caught.value.__notes__) == 1


@pytest.mark.parametrize("line", ["x[:, 0]", "x.shape"])
def test_a_dict_that_is_unpacked_gets_advice(line):
    x, y = data()

    with pytest.raises((TypeError, AttributeError)) as caught:
        pg.fit(own([f"return {{'loss': {line}}}"])(), {"x": x, "y": y}, progress="off")

    assert sum("Unpacking a dict gives its names" in note for note in caught.value.__notes__) == 1


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="its tensors have values")
def test_a_value_that_is_asked_of_a_compiled_step_gets_advice():
    body = ["logs = self.trained(x, y)", 'return {"loss": logs["loss"].numpy()}']

    with pytest.raises(AttributeError) as caught:
        pg.fit(own(body)(), data(), progress="off")

    assert any("return tensors as they are" in note for note in caught.value.__notes__)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch is the framework")
def test_another_framework_in_a_step_is_named():
    torch = pytest.importorskip("torch")

    class Foreign(Own):
        def train_step(self, batch):
            return {"loss": torch.nn.Linear(FEATURES, 1)(batch[0])}

    with pytest.raises(TypeError) as caught:
        pg.fit(Foreign(), data(), progress="off")

    assert any("KERAS_BACKEND=torch" in note for note in caught.value.__notes__)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="about jax.jit")
def test_a_method_under_jit_is_compiled_with_the_step():
    import jax

    class Jitted(Own):
        @jax.jit
        def train_step(self, batch):
            return self.trained(*batch)

    assert trains(Jitted())


def test_gradients_that_come_with_their_norm_are_shown_unpacked():
    class Clipped(Own):
        line = "gradients = gradients.clip_by_global_norm(1.0)"

        def trained(self, x, y):
            names = {
                "gradients": self.gradients(
                    lambda: self.loss(y, self.model(x, training=True)), self.model
                )
            }
            exec(self.line, names)
            self.apply(self.optimizer, names["gradients"])
            return {"mean": ops.mean(y)}

    step = Clipped()
    error = refusal(ArgumentError, lambda: pg.fit(step, data(), progress="off"))

    (step.line,) = lines(error)
    pg.fit(step, data(), progress="off")
    assert int(ops.convert_to_numpy(step.optimizer.iterations)) == 1
