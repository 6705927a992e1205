"""The rehearsal: one run of a step that leaves no trace, before anything is compiled.

It builds lazy layers, builds each optimizer for the union of the variables that it updates, finds
which metrics are updated and what returned values depend on, and refuses certain errors while user
code still runs as plain Python, so that its exceptions are raised unchanged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import keras
import numpy as np

from perigee import _backends
from perigee._backends import Mode, Watch
from perigee._errors import (
    AS_MINIMIZE,
    AS_MINIMIZE_OF_TORCH,
    AccumulationError,
    KeptTensorError,
    LogNameError,
    LogValueError,
    PerigeeError,
    ReplicasError,
    StepReturnError,
    UnheldVariablesError,
    VariableMadeInStepError,
)
from perigee._errors.advice import advise
from perigee._events.events import RUNNING
from perigee._listening import Talk, listening
from perigee._rehearsal.own_gradients import held_by, misses_a_graph, takes_gradients
from perigee._rehearsal.raw_updates import RawUpdates, as_held
from perigee._rehearsal.recorder import Observer, StepRecorder, Witness
from perigee._step.averages import Average
from perigee._step.frame import Method, rehearsal
from perigee._step.own_code import is_own_class
from perigee._step.samples import Sample, Slot
from perigee._step.state import (
    Tracked,
    are_same_bits,
    attributes_preserved,
    hold,
    nested_layers,
    preserved,
    restore,
    runs_as_python,
    snapshot,
    track,
    variables_of,
)
from perigee._step.step import Step, call, layers_of
from perigee._step.updates import Accumulator, counter_of, in_scope
from perigee._step.updates import internals as internals_of
from perigee._typing import Batch, Tree


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The facts about a step found by its rehearsal.

    Attributes:
        tracked: The contents of the Step, built.
        kinds: For each returned name, `"mean"` for an average over the steps, `"last"` if the
            value already covers the pass so far (it depends on metric state), or `"aside"` if it is
            not logged, since a metric has its name.
        of_examples: The averages among these that the number of examples of a batch weights, since
            they have no count of their own.
        metrics: Metrics that the step updates, by the name under which they are logged.
        beside: For metrics that only some steps update, phases of `alternate`: the names of what
            these phases log, whose counts tell whether one of them ran.
        updated: For each optimizer by path, the variables that it updates.
        written: Variables that the step assigns.
        carried: The part of these that is state inside layers and not listed by Keras, without
            seeds.
        volatile: Attribute paths of Python values that the step itself changes.
        called_losses: Whether the step called Keras loss objects.
        predicted: The result of `predict_step`, with `KerasTensor`s in place of tensors.
        loops_well: Whether the step may be fast in a compiled loop; see `Backend.rehearse`.
        results: For returned values that are a metric's result: the metric, and the leaf of its
            result.
        samples: The slots of samples for the host, by the names under which they are returned.
        raw: The updates that the step makes itself.
        keys: Attribute paths of random keys that the step draws from, and does not replace; of
            constant seeds, what they seed.
        counted: Numbers in attributes that the step changes.
        changed: Attributes that it changes: numbers and texts, and the content of arrays,
            containers and generators.
    """

    tracked: Tracked
    kinds: Mapping[str, Literal["mean", "last", "aside"]]
    of_examples: Set[str]
    metrics: Mapping[str, keras.Metric]
    beside: Mapping[str, Set[str]]
    updated: Mapping[str, Sequence[Any]]
    written: Sequence[Any]
    carried: Sequence[Any]
    volatile: frozenset[str]
    called_losses: bool
    predicted: Tree
    loops_well: bool
    results: Mapping[str, tuple[keras.Metric, int]]
    samples: Mapping[str, Slot]
    raw: RawUpdates
    keys: Set[str]
    counted: Sequence[str]
    changed: Sequence[str]


def rehearse(
    step: Step,
    method: Method,
    batch: Batch,
    *,
    observers: Sequence[Observer] = (),
    accumulate: int = 1,
    computes: bool = True,
    witness: Witness | None = None,
) -> Rehearsal:
    """Run one method of a Step once, and undo all its effects.

    Args:
        step: The Step.
        method: The name of the method.
        batch: Tensors.
        observers: Called with each call of a loss object.
        accumulate: Micro-batches per update; more than 1 is checked to be exact.
        computes: Whether to compute values; if false, only what the method builds matters.
        witness: Receives what the recorder receives.

    Returns:
        The facts. Lazy layers and optimizers are built afterwards, which is the only effect.
    """
    own = internals_of(step)
    if _backends.current().capabilities.modes[0] == "eager":
        held = [*layers_of(track(step)), *held_by(step).values()]
        own.hold_modules(_backends.current().modules(held))
        if takes_gradients(step, method):
            own.recorded.add(method)
    arguments = step, method, batch, observers, accumulate, computes, witness
    try:
        return _rehearsed(*arguments)
    except RuntimeError as error:
        # Code of others, which is not read, took gradients.
        if method in own.recorded or not misses_a_graph(error):
            raise
        own.recorded.add(method)
    return _rehearsed(*arguments)


def _rehearsed(
    step: Step,
    method: Method,
    batch: Batch,
    observers: Sequence[Observer],
    accumulate: int,
    computes: bool,
    witness: Witness | None,
) -> Rehearsal:
    with rehearsal(), in_scope(step):
        step._before_rehearsal(method, batch)
        before, attributes_before = track(step), dict(vars(step))
        _prepare_loss_scale(step, before)
        recorder = StepRecorder(step, before, observers, accumulate > 1, witness)
        watching = _backends.current().watch(listening, layers_of(before))
        attributes = attributes_preserved(step, keeps_new=True)
        with attributes as changed, undone(before.state) as undo, watching as watch:
            recorder.made = undo.made = watch.made
            recorder.is_global_seed = undo.is_global_seed
            loops_well = _run(step, method, batch, recorder, before, computes)
            after = track(step)
            _refuse_made(after, undo)
            _refuse_unheld(step, after, recorder, watch)
            _refuse_kept_tensors(step, before, after, attributes_before)
            written = _written(before, after, recorder, undo)
            recorder.refuse_untrained(written)
            if recorder.is_in_doubt:
                _look_at_all_gradients(step, method, batch, recorder, before, accumulate, undo)
        if _is_split(step):
            _refuse_samples(recorder)
            _refuse_counts(step, method, batch, after, written)
        recorder.build_optimizers()
        if step._is_as_written:
            for metric in recorder.batch_means.values():
                internals_of(step).batch_means.keep(after.path_of(metric), metric)
        built = track(step)
        if accumulate > 1:
            _refuse_raw_updates(built, recorder, written)
            _prepare_accumulators(step, built, recorder)
            built = track(step)
        if method == "predict_step":
            kinds: dict[str, Literal["mean", "last", "aside"]] = {}
        else:
            kinds = _kinds(step, method, batch, recorder, built, computes)
            _check_names(step, method, kinds, recorder, built)
        of_examples = {name for name in recorder.of_examples if kinds.get(name) == "mean"}
        metrics = _logged_names(recorder, built)
        beside = {name: recorder.beside.get(id(metric)) for name, metric in metrics.items()}
        return Rehearsal(
            tracked=built,
            kinds=kinds,
            of_examples=of_examples,
            metrics=metrics,
            beside={name: names for name, names in beside.items() if names},
            updated={built.path_of(o): [as_held(v) for v in vs] for o, vs in recorder.updates},
            written=written,
            carried=_carried(built, written),
            volatile=_volatile(before, after),
            called_losses=recorder.called_losses,
            predicted=recorder.predicted,
            loops_well=loops_well,
            results=recorder.results,
            samples={name: Slot(value) for name, value in recorder.samples.items()},
            raw=recorder.raw,
            keys={k for k in recorder.keys if before.tensors.get(k) is after.tensors.get(k)},
            counted=_numbers(step, before, after),
            changed=changed,
        )


# Running it, and undoing it.


@dataclass(slots=True)
class _Undo:
    values: list[Any]
    made: list[Any] = field(default_factory=list)
    global_seed: tuple[Any, np.ndarray | None] | None = None

    def is_global_seed(self, variable: Any) -> bool:
        """Return whether it is the state of Keras's global seed generator, if that was used."""
        return self.global_seed is not None and variable is self.global_seed[0]

    def draws(self, original: Any, generator: Any, ordered: bool = True) -> Talk:
        """Keep the state of Keras's global seed generator from before its first draw."""
        if not ordered and self.global_seed is None:  # how Keras draws if no seed is given
            try:
                value = snapshot([generator.state])[0]
            except NotImplementedError:  # not known inside a function that the user compiles
                value = None
            self.global_seed = generator.state, value
        yield


@contextmanager
def undone(variables: Sequence[Any]) -> Generator[_Undo]:
    """Restore variables, including those created meanwhile, and the host's random state."""
    with preserved(variables, take=hold) as values:
        undo = _Undo(values)
        try:
            with listening(keras.random.SeedGenerator, "next", undo.draws):
                yield undo
        finally:
            made = undo.made if undo.global_seed is None else [undo.global_seed, *undo.made]
            for variable, initial in made:
                if initial is not None:
                    variable.assign(initial)
            undo.made.clear()  # a recorder may keep the list, with a copy of each value


def _run(
    step: Step,
    method: Method,
    batch: Batch,
    recorder: StepRecorder,
    tracked: Tracked,
    computes: bool,
) -> bool:
    def run() -> Any:
        given = _backends.current().copied(batch)
        returned, _ = call(step, method, given, recorder=recorder, is_probed=_is_split(step))
        if method == "predict_step":
            recorder.predicted = keras.tree.map_structure(_described, returned)
        else:
            _check_logs(method, returned)
            recorder.returned(returned)
        return returned

    with _noting(step, method), recorder.listening():
        overwrites = _may_overwrite(tracked)
        loops_well = _backends.current().rehearse(run, tracked.variables, computes, overwrites)
    recorder.finish()
    return loops_well


def _look_at_all_gradients(
    step: Step,
    method: Method,
    batch: Batch,
    recorder: StepRecorder,
    tracked: Tracked,
    accumulate: int,
    undo: _Undo,
) -> None:
    """Run the step again, to find updates in which every gradient is 0, not only the last ones."""
    again = StepRecorder(step, tracked, (), accumulate > 1, looks_at_all=True)
    again.made, again.is_global_seed = undo.made, undo.is_global_seed
    _run(step, method, batch, again, tracked, computes=True)
    recorder.raw = replace(recorder.raw, zeroed=again.raw.zeroed)


def _may_overwrite(tracked: Tracked) -> bool:
    """Return whether there is state that Keras does not list, or may come when a layer is built."""
    is_built = all(layer.built for layer in layers_of(tracked))
    return not is_built or not all(entry.is_listed for entry in tracked.entries)


def _is_split(step: Step) -> bool:
    """Return whether the step runs on shares of a batch, but is rehearsed on the whole batch."""
    replicas = internals_of(step).replicas
    return replicas is not None and replicas.splits


def _refuse_samples(recorder: StepRecorder) -> None:
    if recorder.samples:
        raise ReplicasError(
            f"it shows {', '.join(recorder.samples)}, and each replica has its own samples",
            "show them in a callback, from a few fixed examples.",
        )


def _refuse_counts(
    step: Step, method: Method, batch: Batch, tracked: Tracked, written: Sequence[Any]
) -> None:
    """Refuse variables that sum over the batch, if replicas see only a share of it.

    A variable that a step assigns becomes the mean over the replicas. The step runs on both halves
    of the batch: integers must change by as much as with the whole batch, and floats must not
    change by as much as with both halves together.
    """
    kinds = {id(e.variable): e.kind for e in tracked.entries if not e.key.startswith("perigee/")}
    held = [v for v in written if kinds.get(id(v)) in ("variable", "non_trainable")]
    is_whole = ["int" in keras.backend.standardize_dtype(v.dtype) for v in held]
    chosen = [v for v, w in zip(held, is_whole, strict=True) if w or kinds[id(v)] == "variable"]
    leaf = next(leaf for leaf in keras.tree.flatten(batch) if leaf is not None)
    rows = int(leaf.shape[0])
    if not chosen or rows < 2:
        return

    def changes(first: int, last: int) -> list[np.ndarray]:
        before = snapshot(chosen)
        part = keras.tree.map_structure(lambda x: None if x is None else x[first:last], batch)
        with undone(tracked.state), _noting(step, method):
            call(step, method, part, is_probed=True)
            after = snapshot(chosen)
        return [new.astype("float64") - old for new, old in zip(after, before, strict=True)]

    halves = changes(0, rows // 2), changes(rows // 2, rows)
    counted: list[Any] = []
    for variable, whole, one, other in zip(chosen, changes(0, rows), *halves, strict=True):
        if "int" in keras.backend.standardize_dtype(variable.dtype):
            is_count = not np.array_equal(whole, one)
        else:
            adds_up = np.allclose(whole, one + other, rtol=1e-3)
            is_count = bool(np.any(whole)) and adds_up and not np.allclose(whole, one, rtol=1e-3)
        if is_count:
            counted.append(variable)
    if counted:
        raise ReplicasError(
            f"{', '.join(tracked.names_of(counted))} is a sum over the batch, and a variable "
            "that a step assigns becomes the mean over the replicas",
            "hold a `keras.metrics.Sum`, which sums over replicas, or count in `host_state`.",
        )


def _described(value: Any) -> Any:
    if _backends.current().is_tensor(value):
        return keras.KerasTensor(value.shape, keras.backend.standardize_dtype(value.dtype))
    return value


@contextmanager
def _noting(step: Step, method: Method) -> Generator[None]:
    try:
        with _leaks_of_layers(step):
            yield
    except BaseException as error:
        if not isinstance(error, PerigeeError):
            error.add_note(f"While Perigee rehearsed `{method}` on a first batch, before training.")
            advise(error, type(step).__name__, _backends.current().name)
        raise


def _changed(variables: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    read = _backends.current().read  # one at a time: all of them may be most of the memory
    return [
        variable
        for variable, old in zip(variables, values, strict=True)
        if variable.value is not old and not are_same_bits(read(variable), np.asarray(old))
    ]


def _written(before: Tracked, after: Tracked, recorder: StepRecorder, undo: _Undo) -> list[Any]:
    """Return variables that the step assigned through Keras, and those that changed.

    Assignments that bypass Keras's method are seen only by their effect.
    """
    initial = {id(raw): value for raw, value in undo.made if value is not None}
    for v in after.variables:
        if id(v.value) in initial:
            initial[id(v)] = initial[id(v.value)]
    made = [v for v in after.variables if id(v) in initial]
    changed = _changed(before.state, undo.values)
    changed += _changed(made, [initial[id(v)] for v in made])
    ids = {id(v) for v in changed} | recorder.assigned
    seed = [] if undo.global_seed is None else [undo.global_seed[0]]
    return [*(v for v in after.variables if id(v) in ids), *seed]


def _carried(tracked: Tracked, written: Sequence[Any]) -> list[Any]:
    """Return the state inside layers that a step writes and Keras does not list."""
    models = tracked.models.values()
    unlisted = {id(v) for model in models for v in variables_of(model)}
    unlisted -= {id(v) for model in models for v in model.variables}
    unlisted -= {id(v) for v in tracked.of_kind("seed")}
    return [variable for variable in written if id(variable) in unlisted]


def _volatile(before: Tracked, after: Tracked) -> frozenset[str]:
    missing = object()
    return frozenset(k for k, v in after.plain.items() if before.plain.get(k, missing) != v)


def _numbers(step: Step, before: Tracked, after: Tracked) -> list[str]:
    """Return the numbers in attributes that the step changes; flags are no numbers."""
    kinds = (int, float)
    numbers = {name: value for name, value in after.plain.items() if type(value) in kinds}
    known = {name: before.plain.get(name, getattr(type(step), name, None)) for name in numbers}
    return [n for n, value in numbers.items() if type(known[n]) in kinds and value != known[n]]


def _prepare_loss_scale(step: Step, tracked: Tracked) -> None:
    if any(getattr(layer, "compute_dtype", None) == "float16" for layer in layers_of(tracked)):
        internals_of(step).scale_losses()


def _prepare_accumulators(step: Step, tracked: Tracked, recorder: StepRecorder) -> None:
    own = internals_of(step)
    own.count_micro_batches()
    for optimizer, variables in recorder.updates:
        path = tracked.path_of(optimizer)
        known = own.accumulators.get(path)
        if known is None or known.optimizer is not optimizer:
            own.accumulators[path] = Accumulator(optimizer, variables)


# Evaluating it.


def _refuse_made(tracked: Tracked, undo: _Undo) -> None:
    """Refuse variables that the step created and that nothing holds.

    Keras creates its global seed generator at the first unseeded draw.
    """
    known = [*tracked.variables, *([] if undo.global_seed is None else [undo.global_seed[0]])]
    held = {id(v) for v in known} | {id(v.value) for v in known}
    loose = [v for v, _ in undo.made if id(v) not in held]
    if loose:
        raise VariableMadeInStepError([f"{v.name} {tuple(v.shape)}" for v in loose])


def _refuse_unheld(step: Step, tracked: Tracked, recorder: StepRecorder, watch: Watch) -> None:
    below = {id(v.value) for v in tracked.variables}
    names = watch.loose(below | {id(found.owner) for found in tracked.objects.values()})
    if names:
        raise UnheldVariablesError(names, is_of_functions=step._is_as_written)
    held = {id(v) for v in tracked.variables}
    loose = [v for v in recorder.unheld.values() if id(v) not in held]
    if loose:
        names = [f"{v.path} {tuple(v.shape)}" for v in loose]
        raise UnheldVariablesError(names, is_of_functions=step._is_as_written)
    if recorder.unheld_below:  # also those inside the above
        names = [f"{v.name} {tuple(v.shape)}" for v in recorder.unheld_below.values()]
        raise UnheldVariablesError(names, is_of_functions=step._is_as_written)


def _refuse_raw_updates(tracked: Tracked, recorder: StepRecorder, written: Sequence[Any]) -> None:
    """Refuse optimizers that the step applied itself: they update at each micro-batch."""
    asked = {id(optimizer) for optimizer, _ in recorder.updates}
    changed = {id(variable) for variable in written}
    for path, optimizer in tracked.optimizers.items():
        is_unseen = id(optimizer) not in asked and id(counter_of(optimizer)) in changed
        if is_unseen or path in recorder.raw.paths:
            _refuse_raw(f"the step itself applies {path!r}", AS_MINIMIZE)
    for path in recorder.raw.paths - tracked.optimizers.keys():
        _refuse_raw(f"the step itself calls `{path}.step()`", AS_MINIMIZE_OF_TORCH)
    if recorder.raw.is_kept and not asked:
        _refuse_raw("the step itself calls `backward` and updates", AS_MINIMIZE_OF_TORCH)


def _refuse_raw(what: str, fix: str) -> None:
    raise AccumulationError(
        f"{what}, which updates at each micro-batch", f"{fix} Or omit `accumulate`."
    )


def _refuse_kept_tensors(
    step: Step, before: Tracked, after: Tracked, attributes: Mapping[str, Any]
) -> None:
    """Refuse tensors that the step kept as attributes, if steps are compiled; restores these.

    Compiled, such an attribute is set once, to a symbolic tensor. Eagerly, a tensor of a trace
    inside the step is refused.
    """
    if _backends.current().capabilities.modes[0] == "eager":
        return
    kept = [path for path, value in after.tensors.items() if before.tensors.get(path) is not value]
    if runs_as_python(step):
        held, as_plain = vars(step), _backends.current().as_plain
        kept = [
            path
            for path in kept
            if as_plain(after.tensors[path]) is None or _is_of_package(held.get(path.split("/")[0]))
        ]
    if not kept:
        return
    roots = list(dict.fromkeys(path.partition("/")[0] for path in kept))
    for name in roots:
        if name in attributes:
            setattr(step, name, attributes[name])
    held = {} if step._is_as_written else {name: attributes.get(name) for name in roots}
    raise KeptTensorError(kept, {name: _kept_as(value) for name, value in held.items()})


@contextmanager
def _leaks_of_layers(step: Step) -> Generator[None]:
    """Name the attributes of layers that hold a value of a trace, where one left its trace."""
    backend = _backends.current()
    try:
        yield
    except Exception as error:
        if "different trace level" in str(error):  # of Flax: a module was made in another trace
            modules = [name for name, value in vars(step).items() if _is_of_flax(value)]
            if modules:
                raise KeptTensorError(modules, dict.fromkeys(modules, "flax")) from error
        if not backend.is_leak(error):
            raise
        kept = {
            f"{path}/{layer.name}/{name}" if layer is not top else f"{path}/{name}": name
            for path, top in track(step).models.items()
            for layer in nested_layers(top)
            for name, value in vars(layer).items()
            if backend.is_tensor(value) and not _is_known(value)
        }
        if not kept:
            raise
        raise KeptTensorError([*kept], dict.fromkeys(kept.values(), "array")) from error


def _is_of_flax(value: Any) -> bool:
    """Return whether it is a module or an optimizer of Flax NNX, which keep arrays themselves."""
    return any(one.__module__.startswith("flax.nnx") for one in type(value).__mro__)


def _is_of_package(value: Any) -> bool:
    """Return whether an object with tensors is of an installed class: nothing is known of it."""
    is_plain = isinstance(value, list | tuple | dict | deque) or is_own_class(type(value))
    return not is_plain and bool(_backends.current().tensors_in(value))


def _is_known(value: Any) -> bool:
    try:
        _backends.current().to_host([value])
    except Exception:  # of the framework: it is symbolic
        return False
    return True


def _kept_as(value: Any) -> Literal["array", "keys", "tree", "flax", "unknown"]:
    """Return what an attribute was before a step set it."""
    backend = _backends.current()
    if _is_of_flax(value):
        return "flax"
    if backend.is_tensor(value):
        return "keys" if backend.holds_keys(value) else "array"
    is_tree = isinstance(value, list | tuple | Mapping) or bool(backend.tensors_in(value))
    flat = [leaf for leaf in keras.tree.flatten(value) if leaf is not None] if is_tree else []
    leaves = [*backend.tensors_in(value).values()] or flat
    if not leaves or not all(backend.is_tensor(leaf) for leaf in leaves):
        return "unknown"
    return "unknown" if any(map(backend.holds_keys, leaves)) else "tree"


def _check_logs(method: Method, returned: Any) -> None:
    if not isinstance(returned, Mapping):
        given = "nothing" if returned is None else f"a {type(returned).__name__}"
        if isinstance(returned, tuple | list):
            names = ["loss", *(f"value_{i}" for i in range(1, len(returned)))]
            suggestion = "{" + ", ".join(f'"{name}": ...' for name in names) + "}"
        else:
            suggestion = '{"loss": loss}'
        raise StepReturnError(method, given, suggestion)
    for name, value in returned.items():
        if not isinstance(name, str):
            raise LogValueError(method, str(name), "a value under a name that is not a string")
        if isinstance(value, Average | Sample | int | float | np.generic):
            continue
        shape = getattr(value, "shape", None)
        if shape is None or isinstance(value, str):
            raise LogValueError(method, name, f"a {type(value).__name__}")
        if len(shape) > 1:
            raise LogValueError(method, name, f"a tensor of shape {tuple(shape)}")


def _check_names(
    step: Step, method: Method, kinds: dict[str, Any], recorder: StepRecorder, tracked: Tracked
) -> None:
    """Refuse a value under the name of a metric; that of a function gives way to the metric."""
    for metric in recorder.metrics.values():
        name = recorder.name_of(metric)
        for taken in (name, f"{RUNNING}{name}"):
            if kinds.get(taken) == "mean":
                if step._is_as_written:
                    kinds[taken] = "aside"
                    continue
                raise LogNameError(method, taken, tracked.path_of(metric))


def _logged_names(recorder: StepRecorder, tracked: Tracked) -> dict[str, keras.Metric]:
    """Name each updated metric: its own name, or its attribute path where two share one."""
    metrics = list(recorder.metrics.values())
    names = [recorder.name_of(metric) for metric in metrics]
    return {
        (name if names.count(name) == 1 else tracked.path_of(metric)): metric
        for name, metric in zip(names, metrics, strict=True)
    }


def _kinds(
    step: Step,
    method: Method,
    batch: Batch,
    recorder: StepRecorder,
    tracked: Tracked,
    computes: bool,
) -> dict[str, Literal["mean", "last", "aside"]]:
    """Find returned values that depend on metric state: they already cover the pass.

    A value that is a metric's result is found by identity. Values computed from results are found
    by running the step again from the same state, once unchanged and once with the metrics'
    variables changed; for a step whose values differ between equal runs only identity counts. The
    result of a metric that the step itself resets covers one step.
    """
    kinds: dict[str, Literal["mean", "last", "aside"]] = {
        name: "last" if is_result else "mean" for name, is_result in recorder.is_result.items()
    }
    if not computes or not recorder.has_results or "mean" not in kinds.values():
        return kinds
    probe = Probe(step, method, tracked)
    first, again, moved = probe(batch), probe(batch), probe(batch, change_metrics=True)
    for name in kinds.keys() - recorder.of_one_step:
        if _equal(first[name], again[name]) and not _equal(first[name], moved[name]):
            if kinds[name] == "mean" and _is_split(step):
                raise ReplicasError(
                    f"{name!r} is computed from the result of a metric, which holds only a share "
                    "there",
                    "return `metric.result()` unchanged, or hold the metric and return nothing.",
                )
            kinds[name] = "last"
    return kinds


class Probe:
    """A step to be run repeatedly from the same state, to compare its results."""

    def __init__(self, step: Step, method: Method, tracked: Tracked) -> None:
        self._tracked = tracked
        self._method: Method = method
        backend = _backends.current()
        mode: Mode = "graph" if backend.capabilities.compiles_operations else "eager"
        self._run = backend.compile(self._values, tracked.variables, mode, is_probe=True)
        self._step = step

    def __call__(
        self, batch: Batch, change_metrics: bool = False, change_weights: bool = False
    ) -> Mapping[str, Any]:
        """Run the step on a batch, undo its effects, and return its values on the host.

        Args:
            batch: Tensors.
            change_metrics: Whether metric variables begin with other values.
            change_weights: Whether trainable variables do, with the same values in each call.
        """
        with attributes_preserved(self._step, keeps_new=True), undone(self._tracked.state):
            if change_weights:
                draw, weights = np.random.default_rng(0), self._tracked.of_kind("trainable")
                values = snapshot(weights)
                noise = [draw.normal(scale=0.1, size=value.shape) for value in values]
                moved = [v + n.astype(v.dtype) for v, n in zip(values, noise, strict=True)]
                restore(weights, moved)
            if change_metrics:
                # Each element by another amount: a ratio does not change if both of its counts grow
                # alike, as 3 of 3 and 6 of 6.
                draw = np.random.default_rng(0)
                for variable in self._tracked.of_kind("metric"):
                    value = keras.ops.convert_to_tensor(variable)
                    more = draw.uniform(1, 9, value.shape)
                    variable.assign(value + keras.ops.cast(more, value.dtype))
            with rehearsal(), _noting(self._step, self._method):
                backend = _backends.current()
                return backend.to_host(self._run(backend.copied(batch)))

    def _values(self, batch: Batch) -> dict[str, list[Any]]:
        """Return the tensors of each returned value."""
        returned, _ = call(self._step, self._method, batch, is_probed=_is_split(self._step))
        return {
            name: [part for part in value.tree_flatten()[0] if part is not None]
            if isinstance(value, Average)
            else [keras.ops.convert_to_tensor(value)]
            for name, value in returned.items()
            if not isinstance(value, Sample)
        }


def _equal(a: Any, b: Any) -> bool:
    return all(
        x is y or np.allclose(x, y, rtol=1e-5, atol=0, equal_nan=True)
        for x, y in zip(keras.tree.flatten(a), keras.tree.flatten(b), strict=True)
    )
