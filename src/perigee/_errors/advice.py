"""Advice on errors of users' own code whose message does not say what to write instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from perigee._errors._frames import packages_of

AS_MINIMIZE = (
    "write `def objective(): return loss_fn(y, self.model(x, training=True))` and "
    "`loss = self.minimize(objective, self.optimizer, self.model)` in place of the tape."
)
"""How a gradient tape becomes `minimize`, in a Step."""

AS_MINIMIZE_OF_TORCH = (
    "hold an optimizer of Keras's, `self.optimizer = keras.optimizers.SGD(0.01)`, and write "
    "`self.minimize(objective, self.optimizer, self.model)` in place of `backward` and `step`, "
    "where `objective()` calls the model and returns the loss."
)
"""How a hand-written backward becomes `minimize`, in a Step."""

_SIGNS = ("out of memory", "oom when allocating", "can't allocate memory", "resource_exhausted")


_FRAMEWORKS = ("tensorflow", "jax", "torch")


def advise(error: BaseException, step: str = "", framework: str = "") -> None:
    """Add advice as a note to an error of a known kind, once; the others stay as they are.

    Args:
        error: What user code raised, or a framework in it.
        step: The name of the class of the Step, if it runs.
        framework: The framework on which Keras runs, if a Step does.
    """
    advice = [text for text, is_meant in _ADVICE.items() if is_meant(error, step)]
    for other in _FRAMEWORKS if framework else ():
        if other != framework and other in packages_of(error.__traceback__):
            advice.append(
                f"The step calls {other}, and Keras runs on {framework}: set the environment "
                f"variable KERAS_BACKEND={other} before Keras is imported."
            )
    for text in advice:
        if text not in getattr(error, "__notes__", ()):
            error.add_note(text)


def _is_out_of_memory(error: BaseException, step: str) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in _SIGNS)


def _calls_the_step(error: BaseException, step: str) -> bool:
    return isinstance(error, TypeError) and str(error) == f"{step!r} object is not callable"


def _reads(error: BaseException, name: str, *others: str) -> bool:
    """Return whether a missing attribute was read from an object that has some others."""
    owner: Any = getattr(error, "obj", None)
    is_meant = isinstance(error, AttributeError) and error.name == name
    return is_meant and all(hasattr(owner, other) for other in others)


_WITHOUT_VALUES = (
    "ConcretizationTypeError",
    "TracerArrayConversionError",
    "TracerBoolConversionError",
    "TracerIntegerConversionError",
)
"""Errors of JAX."""

_OF_VALUES = ("Slice entries must be static integers", "Tracer.__format__")
"""What others of its errors say."""

AS_STEP = """where a state is passed in and returned, write a Step, which holds it:
  class Train(pg.Step):
      def __init__(self, model, optimizer):
          self.model, self.optimizer = model, optimizer
      def train_step(self, batch):
          x, y = batch
          def objective():
              return loss_fn(y, self.model(x, training=True))
          return {"loss": self.minimize(objective, self.optimizer, self.model)}"""
"""The Step that a function of a state becomes, as on JAX."""

_ADVICE: Mapping[str, Callable[[BaseException, str], bool]] = {
    "Memory ran out. A smaller `batch_size` with `accumulate=` makes the same updates in less; so "
    "do a `mixed_bfloat16` policy, fewer batches ahead (`Execution(steps_per_call=1)`), and no "
    "other model left in the process.": _is_out_of_memory,
    "A Step is not a model: call the one that it holds, `self.model(x, training=True)`.": (
        _calls_the_step
    ),
    "Optimizers of Keras 3 have no `minimize`: write `self.minimize(objective, self.optimizer, "
    "self.model)`, where `objective()` calls the model and returns the loss.": (
        lambda error, step: _reads(error, "minimize", "apply_gradients")
    ),
    "With a tape of your own, call the model and compute the loss inside "
    "`with tf.GradientTape() as tape:`; `self.minimize(objective, self.optimizer, self.model)` "
    "needs no tape.": lambda error, step: "No gradients provided for any variable" in str(error),
    "A compiled step has no values: return tensors as they are, without `float()` and `.numpy()`, "
    'and decide with `keras.ops.where` or `keras.ops.cond`; or pass `execution="eager"`.': (
        lambda error, step: (
            _reads(error, "numpy", "shape", "dtype")
            or type(error).__name__ in _WITHOUT_VALUES
            or any(text in str(error) for text in _OF_VALUES)
        )
    ),
    'Unpacking a dict gives its names. Where a batch is a dict, read it by name: `batch["x"]`.': (
        lambda error, step: (
            (isinstance(error, TypeError) and "string indices must be" in str(error))
            or any(_reads(error, name, "isidentifier") for name in ("shape", "dtype", "ndim"))
        )
    ),
    "What is differentiated was not recorded: compute it in the same method as `backward`, from "
    "parameters that require gradients, without `torch.no_grad()`, `detach()`, `.item()` or NumPy "
    "in between. Where other code calls `backward`, write `with torch.enable_grad():` around.": (
        lambda error, step: "does not require grad and does not have a grad_fn" in str(error)
    ),
    "A value left the trace to which it belongs. JAX reuses what it has traced of a function: give "
    "each call one of its own, `jax.checkpoint(lambda h: block(h))` for `jax.checkpoint(block)`. "
    "What a layer or an object keeps must be a `keras.Variable`.": (
        lambda error, step: type(error).__name__ == "UnexpectedTracerError"
    ),
}
"""Each advice, with what tells the errors that it is about."""
