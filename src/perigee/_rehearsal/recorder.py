"""Records what a rehearsed step does, by listening to Keras's public methods."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import keras

from perigee import _backends
from perigee._errors import (
    AccumulationError,
    OptimizerSetError,
    RegularizationTwiceError,
    ReplicasError,
    SharedVariableError,
    UntrackedVariablesError,
    refuse,
)
from perigee._listening import Call, Listener, Talk, listening
from perigee._rehearsal.raw_updates import RawRecorder, RawUpdates
from perigee._step.averages import Average, Term
from perigee._step.batch_means import is_batch_mean
from perigee._step.frame import current_frame
from perigee._step.gradients import Gradients
from perigee._step.masks import mask_of
from perigee._step.samples import Sample
from perigee._step.state import Tracked, track
from perigee._step.step import Step
from perigee._step.updates import can_wait, counter_of, inner_of, internals


@dataclass(frozen=True, slots=True)
class LossCall:
    """One call of a Keras loss object during a rehearsal.

    Attributes:
        loss: The loss object. If one of Perigee's own replaces the user's, its attribute
            `perigee_stands_for` holds the user's; `None` there means none.
        y_true: Labels, as given to it.
        y_pred: Predictions, as given to it.
    """

    loss: keras.losses.Loss
    y_true: Any
    y_pred: Any


Observer = Callable[[LossCall], None]
"""Called before a loss runs; raises errors that are certain."""


class Witness(Protocol):
    """Receives what a recorder receives, for later rules."""

    def derived(self, gradients: Gradients, adds_losses: bool) -> None:
        """Gradients were taken for variables, with losses of layers added or not."""
        ...

    def applied(self, optimizer: Any, gradients: Gradients, is_conditional: bool) -> None:
        """An optimizer is to apply gradients, under a condition or not.

        Where the step itself applies it, some may be `None`.
        """
        ...

    def returned(self, logs: Mapping[str, Any]) -> None:
        """The step returned `logs`, in the code that made them."""
        ...


class StepRecorder:
    """Records what a step does, and raises errors that are certain. See `_step.Recorder`."""

    def __init__(
        self,
        step: Step,
        tracked: Tracked,
        observers: Sequence[Observer],
        accumulates: bool,
        witness: Witness | None = None,
        looks_at_all: bool = False,
    ) -> None:
        self.updates: list[tuple[Any, list[Any]]] = []
        self.raw = RawUpdates()
        self.metrics: dict[int, keras.Metric] = {}
        self._emptied: set[int] = set()
        self.of_one_step: set[str] = set()
        self.batch_means: dict[int, keras.Metric] = {}
        self.beside: dict[int, set[str] | None] = {}
        self.called_losses = False
        self.predicted: Any = None
        self.assigned: set[int] = set()
        self.unheld: dict[int, Any] = {}
        self.unheld_below: dict[int, Any] = {}
        self._below: set[int] = set()
        self._is_assigning = False
        self.made: Sequence[Any] = ()
        self.is_global_seed: Callable[[Any], bool] = lambda _: False
        self.keys: set[str] = set()
        self.has_results = False
        self.is_result: dict[str, bool] = {}
        self.of_examples: set[str] = set()
        self.samples: dict[str, Sample] = {}
        self._names: dict[int, str] = {}
        self._results: list[tuple[keras.Metric, Any]] = []
        self.results: dict[str, tuple[keras.Metric, int]] = {}
        self._step, self._tracked = step, tracked
        self._held = {id(v) for v in tracked.variables}
        self._observers = observers
        self._witness = witness
        self._left_out: set[int] = set()
        self._accumulates = accumulates
        replicas = internals(step).replicas
        self._is_split = replicas is not None and replicas.splits
        self._late_read: str | None = None
        self._raw = RawRecorder(
            step, tracked, self._raw_derived, self._raw_applied, self.leaves_out, looks_at_all
        )
        self._read: list[Any] = []
        self._unlisted: dict[int, Any] = {}

    def differentiated(self, read: Sequence[Any]) -> None:
        if not read:  # as on JAX, always
            return
        tracked = track(self._step)
        copies = _backends.current().copies
        listed = [entry.variable for entry in tracked.entries if entry.is_listed]
        known = {id(copy) for v in listed for copy in copies(v)}
        known |= {id(v.value) for v in listed} | {id(v) for v in listed}
        known |= {id(v) for v, _ in self.made}  # refused as created in the step, after it has run
        self._unlisted |= {
            id(each): entry.variable
            for entry in tracked.entries
            if not entry.is_listed
            for each in (entry.variable.value, *copies(entry.variable))
        }
        self._read += [v for v in read if id(v) not in known]
        untracked = [v for v in self._read if id(v) not in self._unlisted]
        if untracked:
            error = UntrackedVariablesError([f"{v.name} {tuple(v.shape)}" for v in untracked])
            refuse(error, self._step.ignore_findings)

    def refuse_untrained(self, written: Sequence[Any]) -> None:
        """Refuse trainable variables that an objective reads, unless the step assigns them."""
        assigned = {id(variable) for variable in written}
        untracked = [
            v
            for v in self._read
            if id(v) in self._unlisted and id(self._unlisted[id(v)]) not in assigned
        ]
        if untracked:
            error = UntrackedVariablesError([f"{v.name} {tuple(v.shape)}" for v in untracked])
            refuse(error, self._step.ignore_findings)

    def derived(self, gradients: Gradients, adds_losses: bool) -> None:
        if self._witness is not None:
            self._witness.derived(gradients, adds_losses)

    def applied(self, optimizer: Any, gradients: Gradients, is_conditional: bool) -> None:
        if self._witness is not None:
            self._witness.applied(optimizer, gradients, is_conditional)
        self._refuse_altered(gradients)
        variables = gradients.variables
        ids = {id(v) for v in variables}
        tracked = track(self._step)
        for other, others in self.updates:
            if other is optimizer:
                if {id(v) for v in others} != ids:
                    raise OptimizerSetError(
                        tracked.path_of(optimizer),
                        tracked.names_of(others),
                        tracked.names_of(variables),
                    )
                if self._accumulates:
                    raise AccumulationError(
                        "one optimizer is applied several times per step",
                        "separate the updates, or omit `accumulate`.",
                    )
                return
            shared = [v for v in others if id(v) in ids]
            if shared:
                error = SharedVariableError(
                    tracked.names_of(shared), tracked.path_of(other), tracked.path_of(optimizer)
                )
                refuse(error, self._step.ignore_findings)
        self.updates.append((optimizer, list(variables)))
        for variable in optimizer.variables:
            self._is_held(variable)

    def leaves_out(
        self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]
    ) -> bool:
        """See `Recorder`.

        A witness sees what each update changes. And where an optimizer makes a second update, code
        may wait for the effect of the first: `while loss > 0.1`.
        """
        if not can_wait(optimizer, gradients, variables):
            return False
        if not optimizer.built:  # but for the union of its variables, when the rehearsal is over
            return True
        if self._witness is not None or id(optimizer) in self._left_out:
            return False
        self._left_out.add(id(optimizer))
        rate = inner_of(optimizer).learning_rate
        moved = [v for v, g in zip(variables, gradients, strict=True) if g is not None]
        self.assigned |= {id(v) for v in (*moved, *optimizer.variables) if v is not rate}
        return True

    def _raw_derived(self, gradients: Gradients) -> None:
        if self._witness is not None:
            self._witness.derived(gradients, False)

    def _raw_applied(self, optimizer: Any, gradients: Gradients) -> None:
        if self._witness is not None:
            self._witness.applied(optimizer, gradients, False)
        self.assigned |= {id(v) for v in (*gradients.variables, counter_of(optimizer))}
        for variable, value in zip(gradients.variables, gradients, strict=True):
            if value is not None:  # an optimizer that is not built yet does not write it now
                self._is_held(variable)

    @property
    def is_in_doubt(self) -> bool:
        """See `RawRecorder`."""
        return self._raw.is_in_doubt

    def finish(self) -> None:
        """The step has run: take in the updates that it made itself, and refuse wrong ones."""
        self.refuse_late_read()
        self.raw = self._raw.finish(self.updates)

    def _refuse_altered(self, gradients: Gradients) -> None:
        if self._accumulates and gradients.is_altered:
            raise AccumulationError(
                "gradients are altered between `gradients` and `apply`, which for the gradient "
                "of a micro-batch differs from doing it to the mean",
                "clip in the optimizer (`global_clipnorm=...`), which sees the mean.",
            )

    def measured(self, terms: Sequence[Term], adds: bool) -> None:
        weighted = sum(term.is_weighted for term in terms)
        if self._is_split and any(t.is_weighted and t.count is None for t in terms):
            raise ReplicasError(
                "the loss is a sum over the batch, and Perigee averages the values of shares",
                "use a loss that is a mean, or `pg.mean(values) * size`.",
            )
        if self._accumulates and any(t.is_weighted and t.count is None for t in terms):
            raise AccumulationError(
                "the loss is a sum over the batch, and the mean of the sums of micro-batches is "
                "not the sum over the large batch",
                "use a loss that is a mean, or omit `accumulate`.",
            )
        if self._accumulates and weighted and (len(terms) > 1 or adds):
            what = "layers add terms to the loss" if adds else "the loss adds terms"
            raise AccumulationError(
                f"{what} that are divided by different counts",
                "divide all terms by the same count, or omit `accumulate`.",
            )

    def metric_of(self, returned: Any) -> str | None:
        value = returned[0] if isinstance(returned, tuple) and returned else returned
        paths = [track(self._step).path_of(m) for m, result in self._results if result is value]
        return next(iter(paths), None)

    def names(self, metric: keras.Metric, name: str) -> None:
        self._names[id(metric)] = name

    def name_of(self, metric: keras.Metric) -> str:
        """Return the name under which a metric is logged, unless two share it."""
        return self._names.get(id(metric)) or str(metric.name)

    @contextmanager
    def metrics_of_phase(self) -> Generator[dict[int, set[str] | None]]:
        outer, self.beside = self.beside, {}
        try:
            yield self.beside
        finally:
            self.beside = outer

    def alternated(self, updated: dict[int, set[str] | None], names: Mapping[str, str]) -> None:
        for metric, beside in updated.items():  # `None` if each step of the phase updates it
            logged = {names[name] for name in (names if beside is None else beside)}
            others = self.beside.setdefault(metric, set())
            if others is not None:
                others |= logged

    def read_losses(self, layer: keras.Layer, terms: int) -> None:
        frame = current_frame()
        if terms and frame is not None and frame.depth and frame.adds_losses:
            refuse(RegularizationTwiceError(layer.name, terms), self._step.ignore_findings)

    def read_variable(self, variable: Any) -> None:
        frame = current_frame()
        if frame is None or not frame.depth:
            return
        if any(variable is v for _, variables in self.updates for v in variables):
            # Not raised here: Keras replaces errors raised within a layer's call.
            self._late_read = self._late_read or self._tracked.name_of(variable)

    def refuse_late_read(self) -> None:
        if self._late_read is not None:
            raise AccumulationError(
                f"a later objective reads {self._late_read!r}, which an earlier update of the "
                "step changes",
                "separate the updates, or omit `accumulate`.",
            )

    def returned(self, logs: Mapping[str, Any]) -> None:
        """The step returned `logs`, in the code that made them."""
        results = {
            id(leaf): (metric, index)
            for metric, result in self._results
            for index, leaf in enumerate(keras.tree.flatten(result))
        }
        self.of_one_step = {
            name
            for name, value in logs.items()
            if id(value) in results and id(results[id(value)][0]) in self._emptied
        }
        results = {
            key: found for key, found in results.items() if id(found[0]) not in self._emptied
        }
        self.samples = {name: value for name, value in logs.items() if isinstance(value, Sample)}
        self.is_result = {
            name: id(value) in results for name, value in logs.items() if name not in self.samples
        }
        self.results = {name: results[id(v)] for name, v in logs.items() if id(v) in results}
        self.of_examples = {name for name in self.is_result if _is_of_examples(logs[name])}
        self._results.clear()
        if self._witness is not None:
            self._witness.returned(logs)

    def build_optimizers(self) -> None:
        """Build each optimizer for the variables that it was given to update."""
        for optimizer, variables in self.updates:
            if not optimizer.built:
                optimizer.build(variables)
                optimizer.built = True

    @contextmanager
    def listening(self) -> Generator[None]:
        """Listen to the relevant methods, for as long as the context is open."""
        heard: list[tuple[Any, str, Listener]] = [
            (keras.losses.Loss, "__call__", self._loss_call),
            (keras.Layer, "losses", self._losses),
            (keras.Variable, "assign", self._assigns),
            *((kind, name, self._writes) for kind, name in _backends.current().writers()),
        ]
        for metric in self._tracked.metrics.values():
            heard.append((metric, "update_state", partial(self._updates, metric)))
            heard.append((metric, "result", partial(self._result, metric)))
            heard.append((metric, "reset_state", partial(self._resets, metric)))
        if self._accumulates:
            heard.append((keras.Variable, "value", self._reads))
        with ExitStack() as stack:
            for owner, name, listener in heard:
                stack.enter_context(listening(owner, name, listener))
            stack.enter_context(self._raw.listening())
            stack.enter_context(_backends.current().drawing(listening, self._draws))
            yield

    def _draws(self, name: str, keys: Sequence[Any]) -> None:
        held = {id(tensor): path for path, tensor in self._tracked.tensors.items()}
        if all(id(key) in held for key in keys):  # others may be of the batch
            self.keys |= {held[id(key)] for key in keys} or {f"the number that seeds `{name}`"}

    def _loss_call(
        self, original: Any, loss: Any, y_true: Any, y_pred: Any, *args: Any, **kwargs: Any
    ) -> Talk:
        if self._is_split and not hasattr(loss, "perigee_stands_for"):
            _refuse_inexact(loss, y_pred)
        meant = getattr(loss, "perigee_stands_for", loss)
        if meant is not None:
            self.called_losses = True
            for observe in self._observers:
                observe(LossCall(meant, y_true, y_pred))
        yield

    def _losses(self, original: Any, layer: keras.Layer) -> Talk:
        found = yield
        self.read_losses(layer, len(found))

    def _updates(self, metric: keras.Metric, original: Any, *args: Any, **kwargs: Any) -> Talk:
        if id(metric) not in self._emptied:
            self.metrics[id(metric)] = metric
            if is_batch_mean(metric, args, kwargs):
                self.batch_means[id(metric)] = metric
            self.beside[id(metric)] = None
        yield

    def _resets(self, metric: keras.Metric, original: Any, *args: Any, **kwargs: Any) -> Talk:
        """A metric that the step itself resets covers one step: it holds nothing of the epoch."""
        self._emptied.add(id(metric))
        self.metrics.pop(id(metric), None)
        self.batch_means.pop(id(metric), None)
        self.beside.pop(id(metric), None)
        yield

    def _result(self, metric: keras.Metric, original: Any, *args: Any, **kwargs: Any) -> Talk:
        value = yield
        self.has_results = True
        self._results.append((metric, value))

    def _assigns(self, original: Any, variable: Any, value: Any) -> Talk:
        if self._is_held(variable):
            self.assigned.add(id(variable))
            was, self._is_assigning = self._is_assigning, True
            try:
                yield
            finally:
                self._is_assigning = was
        else:  # refused after the step has run; until then it keeps its value
            yield Call(lambda: value, (), {})

    def _writes(self, original: Any, variable: Any, *args: Any, **kwargs: Any) -> Talk:
        """The framework's own variable is changed: Keras's, or one that the user made."""
        if self._is_assigning or self._is_known(variable):
            yield
        else:
            self.unheld_below[id(variable)] = variable
            yield Call(lambda: variable, (), {})

    def _is_known(self, variable: Any) -> bool:
        """Return whether the Step holds a variable of the framework, or made it just now."""
        if id(variable) not in self._below:
            copies = _backends.current().copies
            held = track(self._step).variables
            self._below |= {id(v.value) for v in held}
            self._below |= {id(copy) for v in held for copy in copies(v)}
            self._below |= {id(v) for v, _ in self.made}
        return id(variable) in self._below

    def _reads(self, original: Any, variable: Any) -> Talk:
        self.read_variable(variable)
        yield

    def _is_held(self, variable: Any) -> bool:
        """Return whether the Step holds a written variable; records those that it does not."""
        if id(variable) not in self._held:
            # It may have been created meanwhile.
            self._held |= {id(v) for v in track(self._step).variables}
        if id(variable) not in self._held and not self.is_global_seed(variable):
            self.unheld[id(variable)] = variable
            return False
        return True


def _is_of_examples(value: Any) -> bool:
    """Tell whether a returned value is weighted by the number of examples, not by its own count."""
    return not isinstance(value, Average) or any(term.count is None for term in value.terms)


def _refuse_inexact(loss: keras.losses.Loss, y_pred: Any) -> None:
    """Refuse a loss object that divides by a number that a share of a batch does not determine."""
    reason = None
    if loss.reduction == "sum":
        reason = "is a sum over the batch"
    elif loss.reduction == "mean_with_sample_weight":
        reason = "divides by the weights of a share"
    elif any(mask_of(leaf) is not None for leaf in keras.tree.flatten(y_pred)):
        reason = "divides by the unmasked values of a share"
    if reason is not None:
        raise ReplicasError(
            f"the loss {loss.name!r} {reason}",
            "return `pg.mean(values, weights)` with values that the loss does not reduce "
            "(`reduction=None`), or use `pg.Supervised`.",
        )
