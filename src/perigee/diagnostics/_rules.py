"""The rules of `check` and of `fit`; `_causes.py` orders what they find."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, Literal

from perigee._errors import PerigeeError, keeping_refusals
from perigee._rehearsal.discovery import Rehearsal
from perigee.diagnostics._causes import first_by_cause, sorted_out
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding, of_error
from perigee.diagnostics._guards import GUARDS
from perigee.diagnostics._trying import OF_TRIALS
from perigee.diagnostics.fence import CODE as RULE_FAILED
from perigee.diagnostics.fence import Fence, telling
from perigee.diagnostics.rules import (
    activation_scale,
    averages_apart,
    batch_statistics,
    batches_shuffled,
    broadcast_pairs,
    broadcast_targets,
    classes_as_numbers,
    clipped_away,
    constant_data,
    constant_output,
    counted_once,
    coupled_logs,
    coupled_rows,
    data_ended,
    dead_units,
    decay_twice,
    drawn_once,
    dropout_rate,
    eager_function,
    evaluation_draws,
    examples_mixed,
    examples_unknown,
    exploding_gradients,
    few_updates,
    fixed_in_training,
    frozen_changed,
    frozen_number,
    frozen_untrained,
    gradients_exchanged,
    hook_late,
    hook_of_keras,
    inexact_resume,
    inference_mode,
    label_encodings,
    label_ranges,
    labels_ignored,
    labels_sorted,
    labels_unrelated,
    large_loss,
    large_position,
    large_targets,
    layer_twice,
    learning_rate,
    linear_layers,
    logits_given,
    loss_grows,
    mean_of_batch_means,
    mean_of_means,
    metric_misfit,
    metric_not_reset,
    metric_not_updated,
    norm_of_one,
    not_finite,
    not_normalized,
    nothing_trained,
    optimizer_state,
    padding_counts,
    paired_rows,
    penalty_dominates,
    penalty_dropped,
    penalty_twice,
    program_edited,
    rare_class,
    raw_updates,
    recompiled,
    remembered_rows,
    repeated_rows,
    shared_rows,
    statistics_forget,
    summed_parts,
    target_in_inputs,
    task_mismatch,
    told_twice,
    uncovered_variables,
    undivided_batch,
    units_alike,
    unknown_ids,
    unreachable_targets,
    unscaled_inputs,
    unused_layers,
    validation_differs,
    vanishing_gradients,
    weights_ignored,
    wrong_head,
    wrong_sign,
    zero_gradients,
    zeroed_update,
)

Rule = Callable[[Evidence], list[Finding]]
"""Tables map each rule to the code of what it finds or raises."""


def _of_rehearsals(rule: Callable[[Sequence[Rehearsal]], list[Finding]]) -> Rule:
    """Return a rule that needs nothing but the rehearsals."""
    return wraps(rule)(lambda evidence: rule(evidence.rehearsals))


OF_DATA: Mapping[Rule, str] = {
    not_finite.check: "PG320",
    constant_data.check: "PG322",
    target_in_inputs.check: "PG324",
    shared_rows.check: "PG323",
    validation_differs.check: "PG329",
    batches_shuffled.check: "PG328",
    labels_sorted.check: "PG327",
    labels_unrelated.check: "PG330",
}
"""Rules about the data alone; they run first, since faulty data affects everything."""

FIRST: Mapping[Rule, str] = {unknown_ids.check: "PG326"}
"""Where one finds something, the step is not run again: some frameworks refuse unknown ids."""

OF_STEPS: Mapping[Rule, str] = {
    unknown_ids.check_rows: "PG326",
    constant_data.check_labels: "PG322",
    label_encodings.check: "PG204",
    label_ranges.check: "PG205",
    rare_class.check: "PG331",
    _of_rehearsals(nothing_trained.check_rehearsals): "PG112",
    unused_layers.check: "PG101",
    _of_rehearsals(raw_updates.check_shared): "PG104",
    _of_rehearsals(raw_updates.check_apart): "PG105",
    gradients_exchanged.check: "PG121",
    summed_parts.check: "PG129",
    unscaled_inputs.check: "PG321",
    large_targets.check: "PG325",
    broadcast_pairs.check: "PG211",
    broadcast_targets.check: "PG212",
    wrong_sign.check: "PG222",
    examples_mixed.check: "PG233",
    logits_given.check: "PG206",
    not_normalized.check: "PG223",
    wrong_head.check: "PG225",
    unreachable_targets.check: "PG226",
    labels_ignored.check: "PG221",
    weights_ignored.check: "PG215",
    padding_counts.check: "PG214",
    loss_grows.check: "PG220",
    units_alike.check: "PG138",
    dead_units.check: "PG122",
    constant_output.check: "PG224",
    zero_gradients.check: "PG120",
    linear_layers.check: "PG123",
    layer_twice.check: "PG128",
    vanishing_gradients.check: "PG130",
    exploding_gradients.check: "PG131",
    activation_scale.check: "PG132",
    large_loss.check: "PG133",
    penalty_dominates.check: "PG134",
    decay_twice.check: "PG135",
    repeated_rows.check: "PG136",
    frozen_changed.check: "PG126",
    zeroed_update.check: "PG127",
    clipped_away.check: "PG141",
    drawn_once.check: "PG444",
    counted_once.check: "PG445",
    inference_mode.check: "PG440",
    norm_of_one.check: "PG443",
    evaluation_draws.check: "PG441",
    fixed_in_training.check: "PG461",
    dropout_rate.check: "PG442",
    penalty_dropped.check: "PG229",
    penalty_twice.check: "PG208",
    frozen_untrained.check: "PG142",
    optimizer_state.check: "PG125",
    few_updates.check: "PG137",
    learning_rate.check: "PG124",
    _of_rehearsals(uncovered_variables.check_rehearsals): "PG110",
    metric_not_updated.check: "PG232",
    mean_of_batch_means.check: "PG231",
    metric_not_reset.check: "PG234",
    told_twice.check: "PG245",
    statistics_forget.check: "PG462",
    metric_misfit.check: "PG230",
    mean_of_means.check: "PG216",
    examples_unknown.check: "PG239",
    task_mismatch.check: "PG228",
    classes_as_numbers.check: "PG227",
}
"""Rules about the Step's behavior on a batch."""

Moment = Literal[
    "rehearsed",
    "first batch",
    "weighted",
    "averages",
    "divided",
    "updates",
    "ran",
    "changed",
    "hook",
    "hook set",
    "kept",
    "kept validation",
    "kept program",
    "kept callbacks",
    "resumed",
    "moved",
    "saved",
    "data ended",
    "passed",
    "best",
    "eager",
]

OF_FIT: Mapping[Moment, Mapping[Callable[..., list[Finding] | None], str]] = {
    # After the rehearsal: the Step, the rehearsal, the batch, whether to trust loss objects.
    "rehearsed": {broadcast_pairs.check_rehearsal: "PG211"},
    # That batch, as tensors.
    "first batch": {undivided_batch.check: "PG761"},
    # The same of any method: the Step, the rehearsal, the batch.
    "weighted": {examples_unknown.check_step: "PG239"},
    # An update adds up parts of a batch: the step, run with its rows exchanged.
    "divided": {
        coupled_rows.check: "PG217",
        paired_rows.check: "PG236",
        batch_statistics.check: "PG235",
        coupled_logs.check: "PG237",
        remembered_rows.check: "PG238",
    },
    # All that the Step updates is known: rehearsals on batches of whatever structure.
    "updates": {
        nothing_trained.check_rehearsals: "PG112",
        uncovered_variables.check_rehearsals: "PG110",
        unused_layers.check_rehearsals: "PG101",
        raw_updates.check_shared: "PG104",
        raw_updates.check_apart: "PG105",
        gradients_exchanged.check_rehearsals: "PG121",
        zero_gradients.check_rehearsals: "PG120",
        drawn_once.check_rehearsals: "PG444",
    },
    # A program has run.
    "ran": {
        recompiled.check: "PG420",
        frozen_number.check: "PG446",
        counted_once.check_program: "PG445",
    },
    # The Step has changed: how often since it was first compiled, and its attributes that did.
    "changed": {recompiled.check_changes: "PG420"},
    # Training begins: Keras's callbacks, and whether it begins with averages of an earlier one.
    "averages": {averages_apart.check: "PG240"},
    # A hook is given.
    "hook": {hook_of_keras.check: "PG448"},
    # A hook has set variables: its class, the steps for which it was called, their names.
    "hook set": {hook_late.check: "PG447"},
    # The training may be resumed: the feed of its data.
    "kept": {inexact_resume.check_feed: "PG430"},
    # So may its validations: their feed.
    "kept validation": {inexact_resume.check_validation_feed: "PG430"},
    # A program has run that may be resumed.
    "kept program": {inexact_resume.check_program: "PG430"},
    # A training was saved: what of its callbacks could not be.
    "kept callbacks": {inexact_resume.check_callbacks: "PG430"},
    # A run is resumed: what may change its training, as it was and is.
    "resumed": {program_edited.check: "PG432"},
    # A run was opened: what of the place where it was trained is not exact here.
    "moved": {inexact_resume.check_place: "PG430"},
    # A position in the data was saved: its kind, its bytes, how many are usual, what to do.
    "saved": {large_position.check: "PG431"},
    # Data that is drawn once has ended: which, its kind, where the training stands.
    "data ended": {data_ended.check: "PG332"},
    # A pass has ended: means of batch means that differ from the exact ones.
    "passed": {mean_of_batch_means.check_pass: "PG231"},
    # The best checkpoint is chosen by a value: its name, and the names of means of batch means.
    "best": {mean_of_batch_means.check_best: "PG231"},
    # A function runs eagerly though nothing was requested: its name, or `None`.
    "eager": {eager_function.check: "PG449"},
}
"""Rules that are cheap enough for every training, by the moment at which they run."""


def known_codes() -> frozenset[str]:
    """Return the codes of all errors and findings."""
    tables = OF_DATA, FIRST, OF_STEPS, OF_TRIALS, *OF_FIT.values()
    rules = {code for table in tables for code in table.values()}
    return frozenset({PerigeeError.code, RULE_FAILED, *GUARDS, *rules, *_codes_below(PerigeeError)})


def _codes_below(error: type[PerigeeError]) -> set[str]:
    return {code for sub in error.__subclasses__() for code in (sub.code, *_codes_below(sub))}


def findings_of(moment: Moment, *about: Any) -> list[Finding]:
    """Run the rules of a training for one moment; a rule that fails becomes a finding.

    Args:
        moment: The moment; see `OF_FIT`.
        about: The arguments of its rules.

    Raises:
        PairingError: If the loss does not depend on which label belongs to which example.
        CoupledRowsError: If an update adds up parts of a batch whose rows the loss compares.
    """
    fence = Fence()
    found = [finding for rule in OF_FIT[moment] for finding in fence.run(rule, *about)]
    return [*found, *fence.findings()]


@contextmanager
def by_cause() -> Generator[None]:
    """Raise, of errors that could be ignored, the first cause, with a note about the others."""
    with keeping_refusals() as refused:
        try:
            yield
        except PerigeeError as error:
            refused.append(error)
        except Exception:
            if not refused:  # otherwise the refusal is the cause
                raise
    if refused:
        raise first_by_cause(refused)


def examine(evidence: Evidence) -> list[Finding]:
    """Run all rules; one that fails is reported, and ends nothing.

    Returns:
        Findings, the most severe first, including errors raised by the rehearsal. If the step runs
        despite them, the other rules run as well.
    """
    fence = Fence()
    found = _run(OF_DATA, evidence, fence)
    is_recorded = False
    with keeping_refusals() as refused:
        try:
            is_recorded = _rehearse(evidence, fence)
        except PerigeeError as error:
            refused.append(error)
        except Exception:
            if not refused:  # otherwise the refusal is the cause
                raise
    found += [of_error(error) for error in refused]
    if is_recorded:
        unknown = _run(FIRST, evidence, fence)
        told = {error.code for error in refused}
        found += unknown or [f for f in _run(OF_STEPS, evidence, fence) if f.code not in told]
    return sorted_out([*found, *fence.findings()])


def _rehearse(evidence: Evidence, fence: Fence) -> bool:
    """Run the step and record what it does; false if Perigee failed.

    Errors of the user's code are raised. Errors caused by recording are not: running the step
    without it tells the two apart.
    """
    try:
        with telling(fence):
            evidence.rehearse()
    except PerigeeError:
        raise
    except Exception as error:
        evidence.rehearse_alone()
        fence.add("that records a step", error)
        return False
    return True


def _run(rules: Iterable[Rule], evidence: Evidence, fence: Fence) -> list[Finding]:
    found: list[Finding] = []
    for rule in rules:
        try:
            found += fence.run(rule, evidence)
        except PerigeeError as error:
            found.append(of_error(error))
    return list(dict.fromkeys(found))
