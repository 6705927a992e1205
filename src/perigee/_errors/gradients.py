"""Errors about gradients, variables and optimizers (PG1xx)."""

from collections.abc import Sequence

from perigee._errors._tree import PerigeeError


class UnusedVariablesError(PerigeeError, ValueError):
    """No gradient reached some of the variables that an optimizer should update.

    The loss does not depend on them, so an update would silently leave them unchanged. Common
    causes: the forward pass ran outside the objective, so its result is a constant there; the loss
    was computed from something other than the model's output; `argmax`, NumPy or an integer cast
    cut the path; the variables belong to a part of the model that this loss does not use.

    Filtering out the missing gradients, as many tutorials advise, hides the problem and builds the
    optimizer on the wrong set of variables.

    For a step that applies its optimizers itself, and for a Keras model, it is a warning, which
    `ignore_findings` turns off. So it is for an optimizer of torch whose `step` is called though
    none of its parameters has a gradient: `backward` was forgotten, or `zero_grad` came after it.
    """

    code = "PG101"
    shown_by = "a gradient that is `None` for a variable that the update names"

    def __init__(
        self,
        unused: Sequence[str],
        total: int,
        metric: str | None = None,
        compiled: Sequence[str] = (),
    ) -> None:
        self.unused = tuple(unused)
        self.total = total
        self.metric, self.compiled = metric, tuple(compiled)
        fix = (
            "compute the loss from the output of the model call made inside the objective, "
            "without argmax, NumPy or integer casts in between, or pass `variables=` with only "
            "the ones that this optimizer trains."
        )
        if metric is not None:
            fix = (
                f"{metric!r} is a metric, whose result is read from its counts: return a loss, "
                "such as `keras.losses.MeanSquaredError()(y, y_pred)`, and update the metric "
                "besides."
            )
        elif compiled:
            fix = f"{_uncompiled(self.compiled)} Or {fix}"
        super().__init__(
            f"No gradient reached {len(self.unused)} of {total} trainable variables:",
            items=self.unused,
            expected="the objective depends on each variable that it is differentiated for.",
            fix=fix,
        )


def _uncompiled(functions: Sequence[str]) -> str:
    """Return what to do with functions that are compiled by JAX and read variables."""
    names = ", ".join(f"`{name.replace('/', '.')}`" for name in functions)
    return (
        f"call {names} without `jax.jit`: compiled apart, a function keeps the weights that it "
        "read at its first call, and the step is compiled as a whole."
    )


class LeakedStateError(PerigeeError, RuntimeError):
    """State leaves a function that JAX transforms otherwise than as its result.

    Inside `jax.jit`, `jax.checkpoint`, `jax.lax.scan`, `jax.lax.cond`, `jax.vmap` or `jax.grad`,
    what is computed belongs to the trace of that function. A layer that changes its state there
    (the seed of Dropout, the statistics of `BatchNormalization`, a recurrent layer's state) would
    assign a value of a trace that has ended. Layers without such state need nothing.

    `stateless_call` takes the state as an argument and returns the next one. In `jax.lax.scan`, the
    state is carried: `(state, y) = ...` in the body. Across `jax.vmap`, choose the state of one
    example, or use `GroupNormalization`, which has none.

    A function that is compiled by `jax.jit` and reads a model that it does not get as an argument
    keeps the values of its first call. A step is compiled as a whole, so it needs no `jit` inside.
    """

    code = "PG113"
    shown_by = "JAX's own error about a value that was used after its trace had ended"

    def __init__(self, variables: Sequence[str] = (), functions: Sequence[str] = ()) -> None:
        self.variables, self.functions = tuple(variables), tuple(functions)
        if variables:
            happened = (
                f"{len(self.variables)} variables are changed inside a function that JAX "
                "transforms, and their new values cannot leave it:"
            )
            fix = _STATELESS
        else:
            happened = "A function compiled by `jax.jit` reads variables of another trace:"
            fix = _uncompiled(self.functions)
        super().__init__(
            happened,
            items=self.variables or self.functions,
            expected="a transformed function that gets state as an argument and returns the next.",
            fix=fix,
        )


_STATELESS = """pass the state in and out, with `stateless_call`:
  weights = [v.value for v in model.trainable_variables]
  state = [v.value for v in model.non_trainable_variables]
  y_pred, state = jax.checkpoint(
      lambda w, s, x: model.stateless_call(w, s, x, training=True))(weights, state, x)
  for variable, value in zip(model.non_trainable_variables, state):
      variable.assign(value)"""


class UntrackedVariablesError(PerigeeError, ValueError):
    """The objective reads trainable variables that the Step does not hold.

    They would be neither trained nor saved. The common cause is a `tf.Variable` (or a
    `torch.nn.Parameter`) in a Keras 3 layer: Keras tracks only its own variables, so the layer
    seems complete and its weight never moves.
    """

    code = "PG102"
    shown_by = (
        "the framework's record of what the objective read: a trainable variable that the "
        "Step does not hold. It may be frozen on purpose"
    )
    can_be_ignored = True

    def __init__(self, untracked: Sequence[str]) -> None:
        self.untracked = tuple(untracked)
        super().__init__(
            f"The objective reads {len(self.untracked)} trainable variables that nothing tracks:",
            items=self.untracked,
            expected="every trainable variable belongs to a model, layer or `keras.Variable` "
            "held by the Step.",
            fix="create it with `self.add_weight(...)` in the layer, or hold a `keras.Variable` "
            "as an attribute of the Step.",
        )


class VariableMadeInStepError(PerigeeError, RuntimeError):
    """The step creates variables each time it runs, so they are never trained.

    A layer, an optimizer, a metric or a variable that is made inside `train_step` is new in every
    call (or in every compilation). Make it once, in `__init__`, and keep it on the Step.
    """

    code = "PG103"
    shown_by = "variables that were created while the step ran, and that nothing holds afterwards"

    def __init__(self, made: Sequence[str]) -> None:
        self.made = tuple(made)
        super().__init__(
            f"The step made {len(self.made)} variables that the Step does not hold:",
            items=self.made,
            expected="layers, optimizers, metrics and variables are made once, in `__init__`.",
            fix="make them in `__init__` and keep them as attributes of the Step.",
        )


class UnheldVariablesError(PerigeeError, ValueError):
    """The step writes variables that the Step does not hold.

    It updates an optimizer, a metric, a model or a variable that lives elsewhere: in a global, or
    inside an object that is neither a Step nor held by a layer or a loss. Such state is neither
    reset nor saved nor restored after a validation, and on JAX the writes are silently lost, so
    that nothing is trained.

    Variables inside layers and losses are found wherever they are kept: as attributes, in lists,
    tuples and dicts, in dataclasses and in objects of your own classes, even where Keras does not
    list them, such as the states of recurrent layers.

    A `FunctionStep` holds what its functions reach by the names in their code: through closures,
    globals, defaults, `functools.partial`, and attributes. What they compute is not followed:
    `globals()["model"]`, an item of a set, or what a cached factory returns.
    """

    code = "PG111"
    shown_by = "an assignment to a variable that the Step does not hold"

    def __init__(
        self, unheld: Sequence[str], fix: str | None = None, is_of_functions: bool = False
    ) -> None:
        self.unheld = tuple(unheld)
        fix = fix or (
            "give the optimizer, metric, model, seed generator or variable a name that the "
            "function reads: a global, a closure, a default, or "
            "`functools.partial(train_step, model=model)`."
            if is_of_functions
            else "keep the optimizer, metric, model, seed generator or variable as an attribute of "
            "the Step (lists, dicts, objects of your own classes and other Steps held by it are "
            "searched too)."
        )
        super().__init__(
            f"The step writes {len(self.unheld)} variables that the Step does not hold:",
            items=self.unheld,
            expected="the Step holds every variable that the step writes.",
            fix=fix,
        )


class SharedVariableError(PerigeeError, ValueError):
    """Two optimizers update the same variable in one step.

    Each keeps its own slots and count, and both move the variable, one after the other, from
    gradients taken at different points. Published methods do this (an adversarial autoencoder
    trains its encoder twice): then declare that it is intended, by `ignore_findings = ("PG104",)`
    in the Step.

    For a step that applies its optimizers itself, and for a Keras model, it is a warning.
    """

    code = "PG104"
    shown_by = "two updates of one step that name the same variable. Published methods do this"
    can_be_ignored = True

    def __init__(self, shared: Sequence[str], first: str, second: str) -> None:
        self.shared, self.first, self.second = tuple(shared), first, second
        super().__init__(
            f"{len(self.shared)} variables are updated by both {first!r} and {second!r}:",
            items=self.shared,
            expected="each trainable variable belongs to exactly one optimizer of a step.",
            fix="pass `variables=` so that the groups do not overlap; if both are intended, write "
            '`ignore_findings = ("PG104",)` in the Step.',
        )


class OptimizerSetError(PerigeeError, ValueError):
    """One optimizer is applied to two different sets of variables in one step.

    Its update counter would advance twice a step, so learning-rate schedules and Adam's bias
    correction would run at the wrong rate.

    For a step that applies its optimizers itself, and for a Keras model, it is a warning, which
    `ignore_findings` turns off, and only where the updates depend on the counter.
    """

    code = "PG105"
    shown_by = "two updates of one step by one optimizer, for different variables"

    def __init__(self, optimizer: str, first: Sequence[str], second: Sequence[str]) -> None:
        self.optimizer, self.first, self.second = optimizer, tuple(first), tuple(second)
        super().__init__(
            f"{optimizer!r} is applied to {len(self.first)} variables and then, in the same step, "
            f"to {len(self.second)} others:",
            items=[*self.first[:2], *self.second[:2]],
            expected="one optimizer updates one set of variables in a step.",
            fix="minimize one objective over all of them, or give each set its own optimizer.",
        )


class OptimizerVariablesError(PerigeeError, ValueError):
    """An optimizer was built for other variables than it should now update.

    This happens when a model has grown or been unfrozen after training began, or when an optimizer
    was first applied to a filtered list of gradients.
    """

    code = "PG106"
    shown_by = "the optimizer's own refusal of a variable"

    def __init__(self, optimizer: str, unknown: Sequence[str]) -> None:
        self.optimizer, self.unknown = optimizer, tuple(unknown)
        super().__init__(
            f"{optimizer!r} was built without {len(self.unknown)} of the variables given to it:",
            items=self.unknown,
            expected="an optimizer updates the variables that it was built with.",
            fix="create a new optimizer for the new phase and assign it to the Step.",
        )


class VariablesArgumentError(PerigeeError, ValueError):
    """`variables=` does not name variables, or was omitted where that is ambiguous."""

    code = "PG107"
    shown_by = "the argument itself"

    def __init__(self, given: str, candidates: Sequence[str] = (), is_module: bool = False) -> None:
        self.given, self.candidates = given, tuple(candidates)
        super().__init__(
            f"The variables to differentiate for are not clear: {given}.",
            items=self.candidates,
            expected="a model, a layer, or a list of built `keras.Variable`s; it may be omitted "
            "for a Step that holds exactly one model.",
            fix="make a layer of torch's module, in `__init__`, and pass that: "
            "`self.model = keras.layers.TorchModuleWrapper(module)`."
            if is_module
            else "pass `variables=self.model` (or the list of variables that this optimizer "
            "trains).",
        )


class GradientCountError(PerigeeError, ValueError):
    """Gradients were replaced by a list that does not match the variables they belong to."""

    code = "PG108"
    shown_by = "the count of the gradients"

    def __init__(self, given: int, variables: int) -> None:
        self.given, self.variables = given, variables
        super().__init__(
            f"{given} gradients were given for {variables} variables.",
            expected="one gradient for each variable, in the same order.",
            fix="keep the order and the length of the gradients, missing ones included.",
        )


class OptimizerAccumulationError(PerigeeError, ValueError):
    """An optimizer accumulates gradients itself (`gradient_accumulation_steps`).

    Keras then advances learning-rate schedules and weight averages once per micro-batch, gives
    micro-batches of different sizes equal weight, and carries a remainder over into the next epoch.
    """

    code = "PG109"
    shown_by = "the optimizer's setting"

    def __init__(self, optimizer: str, steps: int) -> None:
        self.optimizer, self.steps = optimizer, steps
        super().__init__(
            f"{optimizer!r} has gradient_accumulation_steps={steps}, which counts micro-batches "
            "as updates.",
            expected="schedules, averages and counters advance once per update.",
            fix=f"remove it from the optimizer and pass `accumulate={steps}` to `fit`.",
        )
