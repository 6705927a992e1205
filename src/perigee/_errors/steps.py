"""Errors about Steps and what their methods return (PG4xx)."""

from collections.abc import Mapping, Sequence

from perigee._errors._tree import PerigeeError
from perigee._errors.advice import AS_STEP


class MissingMethodError(PerigeeError, NotImplementedError):
    """The Step lacks the method that was to run."""

    code = "PG401"
    shown_by = "the class of the Step: it has no such method"

    def __init__(
        self, step: str, method: str, meant: str | None = None, is_of_functions: bool = False
    ) -> None:
        self.step, self.method, self.meant = step, method, meant
        if is_of_functions:
            fix = f"pass it: `pg.FunctionStep(train_step, {method}={method})`."
        elif meant is None:
            fix = f"write `def {method}(self, batch): ...` in the class."
        else:
            fix = f"rename `{meant}`: `def {method}(self, batch): ...`."
        super().__init__(
            f"{step} has no `{method}`.",
            expected=f"a function `{method}` for the parts of a batch."
            if is_of_functions
            else f"a method `{method}(self, batch)`.",
            fix=fix,
        )


class StepSignatureError(PerigeeError, TypeError):
    """A method of the Step cannot be called with one batch.

    A batch is one argument, in the structure of the data: a tuple `(x, y)` if the data is `(x, y)`.
    The method takes it apart itself.
    """

    code = "PG414"
    shown_by = "the signature of the method: a call with one argument fails"

    def __init__(self, method: str, parameters: Sequence[str], is_bound: bool = True) -> None:
        self.method, self.parameters = method, tuple(parameters)
        parts = self.parameters[1:] if is_bound else ()
        fix = f"write `def {method}(self, batch):`"
        super().__init__(
            f"`{method}({', '.join(parameters)})` cannot be called with one batch.",
            expected=f"`{method}(self, batch)`, where `batch` is what the data yields.",
            fix=f"{fix} and begin it with `{', '.join(parts)} = batch`."
            if len(parts) > 1
            else f"{fix}.",
        )


class FunctionBatchError(PerigeeError, TypeError):
    """A batch does not fit the arguments of a function that is used as a step.

    A tuple of n parts is passed as the n arguments that have no value yet, a dict by name. A
    function of one argument gets the batch whole. Arguments that are not part of the batch, such as
    models and optimizers, are bound with `functools.partial`.

    On JAX, a function that takes a state and returns the next one is not a step: write
    `train_step(self, batch)` of a `pg.Step`, which holds the model and the optimizer, and calls
    `self.minimize`.
    """

    code = "PG416"
    shown_by = "the signature of the function, and the first batch"

    def __init__(
        self,
        method: str,
        function: str,
        parameters: Sequence[str],
        needed: Sequence[str],
        batch: str,
        passes_state: bool = False,
    ) -> None:
        self.method, self.function, self.batch = method, function, batch
        self.parameters, self.needed = tuple(parameters), tuple(needed)
        fix = f"pass `lambda batch: {function}(...)`"
        held = [name for name in self.needed if any(part in name.lower() for part in _HELD)]
        if held:
            given = ", ".join(f"{name}={name}" for name in held[:3])
            bound = f"`functools.partial({function}, {given})`"
            fix = f"bind what is not part of the batch, as in {bound}, or {fix}"
        super().__init__(
            f"`{function}({', '.join(parameters)})` cannot be called with the batch {batch}.",
            expected="one argument for each part of the batch, or a single one for all of it.",
            fix=f"{fix}; {AS_STEP}" if passes_state else f"{fix}.",
        )


_HELD = ("model", "net", "opt", "loss", "metric", "generator", "critic", "encoder", "state")
"""Parts of names of what a batch seldom holds, to show as an example."""


class StepAttributeError(PerigeeError, AttributeError):
    """An attribute of Keras's models was read from a Step, which has none of that name.

    A Step is not a model: it holds models, optimizers, losses and metrics as attributes, and
    functions (`pg.fit`, `pg.evaluate`, `pg.predict`) train and run it.
    """

    code = "PG415"
    shown_by = "the name that was read, which the Step does not have"

    def __init__(self, step: str, name: str, fix: str) -> None:
        self.step = step
        super().__init__(
            f"{step} has no attribute {name!r}.",
            expected="an attribute that the Step sets in `__init__`, or a method of `pg.Step`.",
            fix=fix,
        )
        self.name = name  # `AttributeError` sets it to None


class StepReturnError(PerigeeError, TypeError):
    """A step returned something other than a dict of scalars to log.

    On JAX: a function returned a tuple, and changed no variable. If it returns the next state of
    the training, nothing passes that on; a Step holds the state.
    """

    code = "PG402"
    shown_by = "what the step returned"

    def __init__(
        self, method: str, given: str, suggestion: str, passes_state: bool = False
    ) -> None:
        self.method, self.given, self.suggestion = method, given, suggestion
        super().__init__(
            f"`{method}` returned {given}{', and changed no variable' if passes_state else ''}.",
            expected="a flat dict from names to scalars, or to one value per example.",
            fix=AS_STEP if passes_state else f"end it with `return {suggestion}`.",
        )


class LogValueError(PerigeeError, TypeError):
    """A value to log is not a scalar, a vector with one value per example, or an Average."""

    code = "PG403"
    shown_by = "what the step returned"

    def __init__(self, method: str, name: str, given: str) -> None:
        self.method, self.name, self.given = method, name, given
        super().__init__(
            f"`{method}` returned {given} under {name!r}.",
            expected="a number: a scalar (the batch's mean), a vector `(batch,)`, or "
            "`pg.mean(values, weights)`.",
            fix="put its values into the dict itself, under names of their own: `{**logs, ...}`."
            if given == "a dict"
            else "average it over all axes but the first, or remove it from the dict.",
        )


class SampleError(PerigeeError, TypeError):
    """`pg.sample` was given neither images nor token ids.

    A step is compiled, so it sees tensors and no text: a string made in its Python code would
    always be that of the first batch. Ids are converted to text on the host, by `decode`.
    """

    code = "PG413"
    shown_by = "what `sample` was given"

    def __init__(self, given: str) -> None:
        self.given = given
        super().__init__(
            f"`sample` was given {given}.",
            expected="either `image`, a tensor `(height, width)`, `(height, width, channels)` or "
            "with a batch axis in front, with 1, 3 or 4 channels; or `text`, integers `(length,)` "
            "or `(batch, length)`.",
            fix="`pg.sample(image=images)`, with the channels last; or "
            "`pg.sample(text=ids, decode=...)`, where `decode` converts ids to a string.",
        )


class LogNameError(PerigeeError, ValueError):
    """A returned value has the name of a metric that the step updates.

    Both would be logged under one name; Keras's `fit` silently drops one of them. Within an epoch
    the metric `accuracy` is logged as `running/accuracy`, so that name is taken, too.
    """

    code = "PG404"
    shown_by = "what the step returned, and a metric that it updated"

    def __init__(self, method: str, name: str, metric: str) -> None:
        self.method, self.name, self.metric = method, name, metric
        super().__init__(
            f"`{method}` returns a value named {name!r}, and updates the metric {metric!r}, which "
            "is logged under that name.",
            expected="each logged name has one source.",
            fix=f"remove {name!r} from the returned dict (updated metrics are logged "
            "automatically), or rename one of them.",
        )


class ForeignKerasError(PerigeeError, TypeError):
    """A Keras 3 Step holds a Keras 2 object (`tf_keras`).

    No program is shown: it takes Keras 2, installed beside Keras 3.
    """

    code = "PG405"
    shown_by = "an object of `tf_keras` that the Step holds"

    def __init__(self, path: str, kind: str) -> None:
        self.path, self.kind = path, kind
        super().__init__(
            f"{path} is a {kind} of Keras 2 (`tf_keras`).",
            expected="objects of Keras 3 (`import keras`).",
            fix="import layers, optimizers, losses and metrics from `keras`, and unset "
            "TF_USE_LEGACY_KERAS.",
        )


class KeptTensorError(PerigeeError, TypeError):
    """The step keeps tensors as attributes of the Step.

    A compiled step runs its Python code once, so the attribute would hold a symbolic tensor of that
    trace: it never has a value, and using it is an error. An eager step may keep tensors, but for
    those of a trace inside it, as of the objective on JAX: return them from it.

    State that a step replaces is held by variables, and random keys by a seed generator. The state
    of an optimizer of Optax is a tree of arrays: hold a variable for each. A module of Flax is
    split into its graph and its arrays, which variables hold.
    """

    code = "PG410"
    shown_by = "an attribute of the Step that the step set to a tensor"

    def __init__(self, paths: Sequence[str], held: Mapping[str, str] | None = None) -> None:
        self.paths = tuple(paths)
        lines = [_HELD_BY[kind].replace("NAME", name) for name, kind in (held or {}).items()]
        super().__init__(
            f"The step keeps {len(self.paths)} tensors as attributes:",
            items=self.paths,
            expected="a step returns tensors, and keeps state in variables.",
            fix="\n".join(dict.fromkeys(lines)) or _HELD_BY["unknown"],
        )


_HELD_BY = {
    "array": """hold it by a variable, at the end of `__init__`, and assign to it in the step:
  self.NAME = keras.Variable(self.NAME, trainable=False)
  self.NAME.assign(...)  # in place of `self.NAME = ...`""",
    "keys": """hold a seed generator in place of the key, and draw keys from it in the step:
  self.NAME = keras.random.SeedGenerator(0)
  key = self.NAME.next()  # in place of `jax.random.split`""",
    "tree": """hold it by variables, at the end of `__init__`, read and assign them in the step:
  self.NAME = jax.tree.map(lambda x: keras.Variable(x, trainable=False), self.NAME)
  before = jax.tree.map(lambda v: v.value, self.NAME)  # to read it
  jax.tree.map(lambda v, new: v.assign(new), self.NAME, ...)  # in place of `self.NAME = ...`""",
    "flax": """hold the arrays of a module of Flax by variables, which you train, in `__init__`:
  self.graph, weights = nnx.split(net)
  self.weights = jax.tree.map(keras.Variable, weights)
and merge them in the step, inside the objective:
  net = nnx.merge(self.graph, jax.tree.map(lambda v: v.value, self.weights))
  self.minimize(objective, self.optimizer, jax.tree.leaves(self.weights))  # of Keras""",
    "unknown": "return the value, or hold a `keras.Variable(..., trainable=False)` made in "
    "`__init__` and `assign` to it.",
}
"""What to write for an attribute, by what it was."""


class CompiledAttributeError(PerigeeError, ValueError):
    """What a compiled step computes depends on attributes that it changes itself.

    Python code runs only while a step is compiled: the attribute changes once, and each step
    computes with that one value. So a warm-up by a counter stays at its first rate.

    It is shown by tracing the step again with the attributes as the first trace has left them, and
    with numbers that have grown as over 10,000 steps, from the same state: the programs differ. A
    counter that is only printed does not matter.
    """

    code = "PG417"
    shown_by = "two traces of the step that differ in nothing but these attributes"
    can_be_ignored = True

    def __init__(self, names: Sequence[str], number: str | None = None, dtype: str = "") -> None:
        self.names = tuple(names)
        fix = 'pass `execution="eager"`, which runs the step as Python'
        lines = f"""hold it by a variable, at the end of `__init__`, and compute by `keras.ops`:
  self.{number} = keras.Variable(self.{number}, dtype="{dtype}", trainable=False)
  self.{number}.assign(self.{number} + ...)  # in place of `self.{number} = ...`
  keras.ops.minimum(1.0, self.{number} / 10)  # in place of `min`, and `keras.ops.where` of `if`
Or {fix}."""
        super().__init__(
            "What the step computes depends on attributes that it changes, and it is compiled "
            "with their first values:",
            items=self.names,
            expected="state that changes from step to step is in variables.",
            fix=f"{fix}, or hold it by a `keras.Variable`." if number is None else lines,
        )


class OptimizerGroupsError(PerigeeError, ValueError):
    """The groups of variables given to several optimizers do not cover the model exactly."""

    code = "PG406"
    shown_by = "the groups and the variables of the model"

    def __init__(self, missing: Sequence[str], doubled: Sequence[str]) -> None:
        self.missing, self.doubled = tuple(missing), tuple(doubled)
        super().__init__(
            f"{len(self.missing)} trainable variables are in no optimizer's group and "
            f"{len(self.doubled)} in several:",
            items=[*self.missing, *self.doubled],
            expected="each trainable variable of the model in exactly one group.",
            fix="give the remaining layers a group, or freeze them with `trainable = False`.",
        )


class OutputsError(PerigeeError, ValueError):
    """Losses, metrics or weights do not match the outputs of the model."""

    code = "PG407"
    shown_by = "the structure of what was given, and the outputs of the model"

    def __init__(self, what: str, given: Sequence[str], outputs: Sequence[str]) -> None:
        self.what, self.given, self.outputs = what, tuple(given), tuple(outputs)
        super().__init__(
            f"{what} is given for {list(self.given)}, and the outputs are {list(self.outputs)}.",
            expected="one entry for each output, by name or in order; `None` skips one.",
            fix=f"match {what} to the outputs of the model.",
        )


class NonFiniteError(PerigeeError, FloatingPointError):
    """A value that a step returned, or a variable that it wrote, became NaN or infinite.

    The state is looked at once a block of steps, before anything is logged, validated or saved: a
    loss can be finite in the very step that makes the weights NaN, and a ReLU, a `maximum` or a
    mask can hide it from then on. A variable counts if it was finite when training began, so a
    running minimum may begin at infinity.

    If the data can be replayed, the steps before it are run again, and the message names the data,
    the layer or the gradients where it began (see PG701).
    """

    code = "PG408"
    shown_by = "the value itself"

    def __init__(
        self,
        name: str,
        value: float,
        step: int,
        origin: str | None = None,
        mend: str | None = None,
        within: range | None = None,
    ) -> None:
        self.name, self.value, self.step, self.origin = name, value, step, origin
        happened = f"{name!r} was {value} at step {step}."
        if within is not None:
            when = f"step {step}" if len(within) == 1 else f"one of the steps {within[0]} to {step}"
            happened = f"{name!r} became {value} in {when}, which returned only finite values."
        super().__init__(
            happened if origin is None else origin,
            expected="finite values.",
            fix=(mend or "lower the learning rate, clip the gradients, or check the data for NaN.")
            + ' Or pass `nonfinite="stop"`, or to `keras_fit` the callback '
            "`keras.callbacks.TerminateOnNaN()`: the training ends at that step without an error.",
        )


class ModelCopyError(PerigeeError, ValueError):
    """A model has no exact copy.

    A copy is created from the model's config and then given its weights. That needs a class whose
    `get_config` returns everything that `__init__` takes, a `from_config` that makes new layers,
    and a `build` that makes every weight. Keras rejects `Lambda` layers around Python lambdas.
    """

    code = "PG409"
    shown_by = "an error of Keras's, or a copy that has other weights"

    def __init__(self, model: str, why: str) -> None:
        self.model, self.why = model, why
        super().__init__(
            f"{model} cannot be copied: {why}.",
            expected="a built model that Keras can recreate from its config.",
            fix="build it first, write `get_config`, or create the second model by the same code "
            "as the first and copy with `second.set_weights(first.get_weights())`.",
        )


class LossNotScaledError(PerigeeError, ValueError):
    """A step applies an optimizer itself that divides gradients by a scale the loss lacks.

    A `LossScaleOptimizer`, in which Keras's `compile` wraps the optimizer under `mixed_float16`,
    divides each gradient by 32768, as the loss is expected to be multiplied by that; so does an
    optimizer with a `loss_scale_factor` by this factor. A `train_step` that does not multiply
    hardly trains, and neither Keras's `fit` nor a hand-written loop says anything.
    """

    code = "PG411"
    shown_by = (
        "an optimizer that divides by a loss scale, and no call of its `scale_loss`. The step "
        "may do its own scaling"
    )
    can_be_ignored = True

    def __init__(self, optimizer: str) -> None:
        self.optimizer = optimizer
        super().__init__(
            f"`train_step` applies {optimizer!r}, which divides gradients by the scale of the "
            "loss, to gradients of a loss that was not scaled.",
            expected="the loss is scaled before it is differentiated.",
            fix="differentiate `self.optimizer.scale_loss(loss)`, or call `self.minimize` of a "
            "Step in place of the tape, or compile a model with `auto_scale_loss=False`.",
        )


class FrozenSinceBuiltError(PerigeeError, ValueError):
    """The trainable variables of a model changed after its optimizer was built.

    On JAX a model's step passes all trainable variables to the optimizer, which accepts only those
    that it was built for. Keras's `fit` keeps using the function that it compiled before, as if
    nothing had been frozen.
    """

    code = "PG412"
    shown_by = "an error of the optimizer's"

    def __init__(self, trainable: int) -> None:
        self.trainable = trainable
        super().__init__(
            f"The model has {trainable} trainable variables, and its optimizer was built for "
            "different ones.",
            expected="a model that is compiled after its layers were frozen or unfrozen.",
            fix="call `model.compile(...)` again, with a new optimizer.",
        )
