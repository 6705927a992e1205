"""Updates that a step makes itself, by an optimizer's own `apply` instead of the Step's."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Any

import keras
import numpy as np

from perigee import _backends
from perigee._backends import Differentiated
from perigee._errors import AS_MINIMIZE, LossNotScaledError, ReplicasError, refuse
from perigee._listening import Call, Talk, listening
from perigee._rehearsal.own_gradients import held_by, names_of, path_in, with_optimizers
from perigee._step.frame import Watch, current_frame
from perigee._step.gradients import Gradients
from perigee._step.state import Tracked, track
from perigee._step.step import Step
from perigee._step.updates import inner_of, internals

_LOOKED_AT_FIRST = 2
"""How many gradients are computed first: of the kernel and the bias of the last layer."""


@dataclass(frozen=True, slots=True)
class Twice:
    """Variables that are updated in two ways in one step.

    Attributes:
        paths: The optimizers that update them, by attribute path.
        variables: For one optimizer, the sets that it updates in turn; for two, what both update.
    """

    paths: tuple[str, ...]
    variables: tuple[Sequence[Any], ...]


@dataclass(frozen=True, slots=True)
class RawUpdates:
    """The facts about the updates that a step makes itself.

    Attributes:
        paths: The optimizers that it applies itself, by attribute path.
        is_of_keras: Whether it is the step of a Keras model.
        hides_scale: Whether they are applied to gradients of a loss that is scaled.
        read: Variables that gradient tapes recorded, by id; `None` if there was no tape.
        unreached: Variables that are not updated since their gradient is `None`.
        exchanged: Variables that are updated by the gradient of another one.
        apart: Optimizers that are applied to different sets of variables.
        shared: Variables that two optimizers update.
        moved: The framework's own variables that its own optimizers have, by id.
        idle: Optimizers of the framework itself, by path, that were to make an update though none
            of their variables has a gradient.
        untrained: Names of the framework's own variables that an objective depends on, though they
            do not change and no optimizer has them.
        names: Names of the framework's own variables, by id.
        is_kept: Whether gradients were left in the variables themselves, outside any objective.
        zeroed: Variables of updates all of whose gradients are 0, where a gradient that is missing
            would be 0, too.
    """

    paths: frozenset[str] = frozenset()
    is_of_keras: bool = False
    hides_scale: bool = False
    read: frozenset[int] | None = None
    unreached: Sequence[Any] = ()
    exchanged: Sequence[Any] = ()
    apart: Sequence[Twice] = ()
    shared: Sequence[Twice] = ()
    moved: frozenset[int] = frozenset()
    idle: Sequence[str] = ()
    untrained: Sequence[str] = ()
    names: Mapping[int, str] = field(default_factory=dict[int, str])
    is_kept: bool = False
    zeroed: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class _Applied:
    """One call of an optimizer's `apply`: no variables, or `...` as gradients, if not known."""

    optimizer: Any
    gradients: Sequence[Any]
    variables: Sequence[Any]

    @property
    def moved(self) -> list[Any]:
        """The variables that got a gradient."""
        pairs = zip(self.variables, self.gradients, strict=True)
        return [variable for variable, gradient in pairs if gradient is not None]


class RawRecorder:
    """Observes a step's own calls of optimizers and gradient tapes, during a rehearsal.

    Args:
        step: The Step.
        tracked: What it holds.
        derived: Called with the gradients of each tape.
        applied: Called with an optimizer that is to apply gradients, some of them `None`.
        leaves_out: Tells whether an update is not made; see `Recorder`.
        looks_at_all: Whether to compute all gradients, to find updates in which all are 0. Where
            operations are compiled, the last ones are computed otherwise: those of the layers next
            to the loss, without most of the backward pass, which takes long to compile.

    Attributes:
        is_in_doubt: Whether those last ones were all 0, so that the others have to be looked at.
    """

    def __init__(
        self,
        step: Step,
        tracked: Tracked,
        derived: Callable[[Gradients], None],
        applied: Callable[[Any, Gradients], None],
        leaves_out: Callable[[Any, Sequence[Any], Sequence[Any]], bool],
        looks_at_all: bool = False,
    ) -> None:
        self.is_in_doubt: bool = False
        self._looks_at_all = looks_at_all
        self._step, self._tracked = step, tracked
        self._tell_derived, self._tell_applied = derived, applied
        self._leaves_out = leaves_out
        self._applied: list[_Applied] = []
        self._derived: list[Gradients] = []
        self._read: set[int] | None = None
        self._unscaled: dict[int, Any] = {}
        self._scaled: set[int] = set()
        self._known: dict[int, Any] = {}
        self._zeroed: list[Any] = []
        self._is_within = False
        self._stepped: list[_Applied] = []  # by optimizers of the framework itself
        self._foreign: dict[int, tuple[Any, Any]] = {}  # read, but no variable's; with their values
        self._is_kept = False
        replicas = internals(step).replicas
        self._is_split = replicas is not None and replicas.splits

    @contextmanager
    def listening(self) -> Generator[None]:
        """Listen to the optimizers and to tapes, for as long as the context is open."""
        with ExitStack() as stack:
            stack.enter_context(_backends.current().tapes(listening, self._derives))
            stack.enter_context(_backends.current().steps(self._steps))
            for optimizer in self._tracked.optimizers.values():
                for name, hears in (
                    ("apply", self._applies),
                    ("stateless_apply", self._applies_stateless),
                    ("scale_loss", self._scales),
                ):
                    stack.enter_context(listening(optimizer, name, partial(hears, optimizer)))
            yield

    def finish(self, updates: list[tuple[Any, list[Any]]]) -> RawUpdates:
        """Add the updates to those that the Step's verbs made, and return what is to be known.

        Args:
            updates: Optimizers with the variables that they update; extended.

        Raises:
            LossNotScaledError: If an optimizer divides by a scale that the loss did not get.
        """
        tracked = track(self._step)
        for optimizer in self._unscaled.values():
            if id(optimizer) not in self._scaled:
                error = LossNotScaledError(tracked.path_of(optimizer))
                refuse(error, self._step.ignore_findings)
        asked = {id(optimizer) for optimizer, _ in updates}
        for optimizer, variables in self._by_optimizer():
            known = next((listed for other, listed in updates if other is optimizer), None)
            if known is None:
                updates.append((optimizer, list(variables)))
            else:
                ids = {id(v) for v in known}
                known += [v for v in variables if id(v) not in ids]
        raw = {id(one.optimizer) for one in self._applied}
        # Only where torch runs: elsewhere nothing is foreign.
        held = held_by(self._step) if self._foreign or self._stepped or tracked.objects else {}
        names = names_of(held)
        by_path = {path_in(held, one.optimizer): one for one in self._stepped}
        moved = {id(v) for one in self._stepped for v in one.variables} | with_optimizers(held)
        found = RawUpdates(
            paths=frozenset({*(tracked.path_of(one.optimizer) for one in self._applied), *by_path}),
            moved=frozenset(
                moved | {id(v) for v in tracked.variables if moved and id(v.value) in moved}
            ),
            idle=[path for path, one in by_path.items() if not one.moved],
            untrained=[
                names.get(key) or f"a parameter {tuple(value.shape)}"
                for key, (value, before) in self._foreign.items()
                if key not in moved and np.array_equal(before, _host_copy(value), equal_nan=True)
            ],
            names=names,
            is_kept=self._is_kept,
            is_of_keras=self._step._keras_model is not None,
            hides_scale=any(divides(one.optimizer) for one in self._applied),
            read=None if self._read is None else frozenset(self._read),
            unreached=self._unreached(tracked, updates),
            exchanged=self._exchanged(),
            zeroed=self._zeroed,
            apart=self._apart(tracked),
            shared=[
                Twice((tracked.path_of(one), tracked.path_of(other)), (both,))
                for (one, ours), (other, theirs) in combinations(updates, 2)
                if not {id(one), id(other)} <= asked - raw
                and (both := self._moved_by_both(one, ours, other, theirs))
            ],
        )
        # Listeners that are gone may keep this recorder for a while: not the gradients.
        self._applied, self._derived, self._foreign = [], [], {}
        return found

    # Calls.

    def _derives(self, asked: Differentiated) -> None:
        frame = current_frame()
        self._is_kept |= asked.is_kept and frame is not None and not frame.depth
        known = [(each, self._keras_variable(each)) for each in asked.read]
        self._read = {id(v) for _, v in known if v is not None} | (self._read or set())
        for each in (each for each, v in known if v is None):
            self._foreign.setdefault(id(each), (each, _host_copy(each)))
        flat = zip(asked.sources, asked.gradients, strict=True)
        pairs = [(self._keras_variable(source), gradient) for source, gradient in flat]
        pairs = [(variable, gradient) for variable, gradient in pairs if variable is not None]
        if not pairs:
            return
        found = Gradients([g for _, g in pairs], [v for v, _ in pairs], loss=asked.target)
        self._derived.append(found)
        self._tell_derived(found)

    def _applies(
        self,
        optimizer: Any,
        original: Any,
        grads: Any,
        trainable_variables: Any = None,
        **kwargs: Any,
    ) -> Talk:
        if not self._is_heard():
            yield
            return
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
        update = self._update(optimizer, grads, trainable_variables)
        call = Call(original, (grads, trainable_variables), kwargs)
        if update.moved and self._leaves_out(optimizer, update.gradients, update.variables):
            call = Call(lambda: None, (), {})
        yield from self._within(call)

    def _steps(self, optimizer: Any, pairs: Sequence[tuple[Any, Any]]) -> None:
        if current_frame() is not None:
            known = [(self._keras_variable(each), each) for each, _ in pairs]
            variables = [each if variable is None else variable for variable, each in known]
            gradients = [gradient for _, gradient in pairs]
            self._stepped.append(_Applied(optimizer, gradients, variables))

    def _applies_stateless(
        self,
        optimizer: Any,
        original: Any,
        optimizer_variables: Any,
        grads: Any,
        trainable_variables: Any,
    ) -> Talk:
        if not self._is_heard():
            yield
            return
        model = self._step._keras_model
        self._update(optimizer, grads, None if model is None else model.trainable_variables)
        yield from self._within(
            Call(original, (optimizer_variables, grads, trainable_variables), {})
        )

    def _scales(self, optimizer: Any, original: Any, loss: Any) -> Talk:
        self._scaled.add(id(optimizer))
        yield

    def _is_heard(self) -> bool:
        """Return whether the step itself makes the call, not Perigee nor another optimizer."""
        frame = current_frame()
        return frame is not None and not frame.is_applying and not self._is_within

    def _within(self, call: Call) -> Talk:
        self._is_within = True
        try:
            yield call
        finally:
            self._is_within = False

    def _update(self, optimizer: Any, grads: Any, given: Sequence[Any] | None) -> _Applied:
        if self._is_split:
            raise ReplicasError(
                "it applies an optimizer itself, to gradients of a share of the batch", AS_MINIMIZE
            )
        if divides(optimizer):
            self._unscaled[id(optimizer)] = optimizer
        variables = list(self._default() if given is None else given)
        gradients = list(grads) if isinstance(grads, list | tuple) else []
        if len(variables) == len(gradients):
            held = [as_held(variable) for variable in variables]
            self._tell_applied(optimizer, Gradients(gradients, held, is_altered=True))
        elif given is None:
            variables, gradients = [], []
        else:
            gradients = [...] * len(variables)
        update = _Applied(optimizer, gradients, variables)
        self._applied.append(update)
        values = [g for g in gradients if g is not None and g is not ...]
        if values and _backends.current().capabilities.has_zero_gradients:
            is_partial = not self._looks_at_all and _backends.current().compiler() is not None
            chosen = values[-_LOOKED_AT_FIRST:] if is_partial else values
            # The largest absolute value takes no memory this way.
            ends = [(keras.ops.max(value), keras.ops.min(value)) for value in chosen]
            largest = keras.ops.stack([keras.ops.maximum(high, -low) for high, low in ends])

            def look(sizes: np.ndarray) -> None:
                if not sizes.any():
                    self.is_in_doubt |= len(chosen) < len(values)
                    self._zeroed.extend(variables)

            _backends.current().observe([largest], look)
        return update

    def _default(self) -> Sequence[Any]:
        """Return the variables of a call without any: those for which the optimizer was built."""
        model = self._step._keras_model
        return self._tracked.of_kind("trainable") if model is None else model.trainable_variables

    def _keras_variable(self, source: Any) -> Any | None:
        """Return the variable for which a tape differentiates; `None` if the Step holds none."""
        if _backends.current().is_tensor(source):
            return None
        if id(source) not in self._known:
            copies = _backends.current().copies
            held = track(self._step).variables
            self._known = {id(v): v for v in held} | {id(v.value): v for v in held}
            self._known |= {id(copy): v for v in held for copy in copies(v)}
            self._known.setdefault(id(source), None)
        return self._known.get(id(source))

    # What follows.

    def _by_optimizer(self) -> list[tuple[Any, list[Any]]]:
        """Return each optimizer with the union of the variables that it was given."""
        found: dict[int, tuple[Any, dict[int, Any]]] = {}
        for one in self._applied:
            _, union = found.setdefault(id(one.optimizer), (one.optimizer, {}))
            union |= {id(v): v for v in one.variables}
        return [(optimizer, list(union.values())) for optimizer, union in found.values() if union]

    def _unreached(self, tracked: Tracked, updates: Sequence[tuple[Any, list[Any]]]) -> list[Any]:
        raw = {id(one.optimizer) for one in self._applied}
        busy = [*self._applied, *(one for one in self._stepped if one.moved)]
        given = {id(v): v for one in busy for v in one.variables}
        moved = {id(v) for one in busy for v in one.moved}
        moved |= {id(v) for optimizer, vs in updates if id(optimizer) not in raw for v in vs}
        applied = {id(optimizer) for optimizer, _ in updates}
        if all(id(optimizer) in applied for optimizer in tracked.optimizers.values()):
            # Otherwise they may be left to another optimizer, in other steps.
            for found in self._derived:
                for variable, value in zip(found.variables, found.values, strict=True):
                    if value is not None:
                        moved.add(id(variable))
                    elif variable.trainable:
                        given[id(variable)] = variable
        kept = [v for key, v in given.items() if key not in moved]
        frozen = {id(v) for v in kept if isinstance(v, keras.Variable)}
        frozen -= {
            id(v) for v in _backends.current().unfrozen([v for v in kept if id(v) in frozen])
        }
        return [v for v in kept if id(v) not in frozen]

    def _exchanged(self) -> list[Any]:
        """Return variables that got the very gradient that a tape computed for another one.

        Only of those for which the same call of the tape computed one, too: gradients of a copy of
        a model are given to the model itself on purpose.
        """
        # For each gradient: the variables that it belongs to, and all sources of the tape.
        known: dict[int, list[tuple[set[int], set[int]]]] = {}
        for found in self._derived:
            sources = {id(v) for v in found.variables}
            owners: dict[int, set[int]] = {}
            for variable, value in zip(found.variables, found.values, strict=True):
                owners.setdefault(id(value), set()).add(id(variable))
            for key, own in owners.items():
                known.setdefault(key, []).append((own, sources))
        return [
            variable
            for one in self._applied
            for variable, gradient in zip(one.variables, one.gradients, strict=True)
            if gradient is not None
            and any(id(variable) in sources for _, sources in known.get(id(gradient), ()))
            and not any(id(variable) in own for own, _ in known[id(gradient)])
        ]

    def _apart(self, tracked: Tracked) -> list[Twice]:
        """Return optimizers that are applied to different sets of variables, and count twice."""
        found: dict[int, Twice] = {}
        first: dict[int, _Applied] = {}
        for one in self._applied:
            if not one.variables or not _counts(one.optimizer):
                continue
            before = first.setdefault(id(one.optimizer), one)
            if {id(v) for v in before.variables} != {id(v) for v in one.variables}:
                path = tracked.path_of(one.optimizer)
                found.setdefault(
                    id(one.optimizer), Twice((path,), (before.variables, one.variables))
                )
        return list(found.values())

    def _moved_by_both(
        self, one: Any, ours: Sequence[Any], other: Any, theirs: Sequence[Any]
    ) -> list[Any]:
        """Return the variables that two optimizers move; those without a gradient stay."""

        def moved(optimizer: Any, variables: Sequence[Any]) -> set[int]:
            raw = [each for each in self._applied if each.optimizer is optimizer]
            return {id(v) for each in raw for v in each.moved} if raw else set(map(id, variables))

        both = moved(one, ours) & moved(other, theirs)
        return [v for v in ours if id(v) in both]


def _host_copy(value: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(value))


def as_held(variable: Any) -> Any:
    """Return what stands for a variable of the framework among those of a Step, or itself."""
    wrapped = _backends.current().as_keras_variable(variable)
    return variable if wrapped is None else wrapped


def divides(optimizer: Any) -> bool:
    """Return whether an optimizer divides gradients by a scale that the loss should have."""
    return (
        isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        or optimizer.loss_scale_factor is not None
    )


_COUNTING = (
    keras.optimizers.Adam,
    keras.optimizers.Adamax,
    keras.optimizers.Nadam,
    keras.optimizers.Lamb,
    keras.optimizers.Adafactor,
)


def _counts(optimizer: Any) -> bool:
    """Return whether what an optimizer does depends on how often it was applied."""
    inner = inner_of(optimizer)
    if isinstance(inner, _COUNTING) or inner.use_ema or inner.gradient_accumulation_steps:
        return True
    return not isinstance(inner.learning_rate, keras.Variable)  # a schedule follows the count


@contextmanager
def shown(step: Step, tracked: Tracked, raw: RawUpdates, watch: Watch) -> Generator[None]:
    """Report the updates that a step itself makes to `watch`."""

    def is_own() -> bool:
        frame = current_frame()
        return frame is not None and not frame.is_applying

    def applies(optimizer: Any, original: Any, grads: Any, trainable_variables: Any = None) -> Talk:
        if trainable_variables is None or not is_own():  # maybe from within `stateless_apply`
            yield
            return
        variables = list(trainable_variables)
        before = watch.values(variables)
        yield Call(original, (grads, variables), {})
        watch.updated(optimizer, grads, variables, before)

    def applies_stateless(
        optimizer: Any, original: Any, optimizer_variables: Any, grads: Any, trainable: Any
    ) -> Talk:
        result = yield
        if step._keras_model is not None:
            variables, after = step._keras_model.trainable_variables, result[0]
            watch.updated(optimizer, grads, variables, trainable, after=after)

    with ExitStack() as stack:
        for optimizer in [o for path, o in tracked.optimizers.items() if path in raw.paths]:
            for name, hears in (("apply", applies), ("stateless_apply", applies_stateless)):
                stack.enter_context(listening(optimizer, name, partial(hears, optimizer)))
        yield
