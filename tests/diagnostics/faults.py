"""What `check` finds in the corpora: `python -m tests.diagnostics.faults` prints it by fault class.

Held-out programs and mutants are left out; `--held-out` scores them, and them alone, once the
rules are finished.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter, defaultdict
from typing import Literal

import keras

import perigee as pg
from perigee.diagnostics import GUARDS
from tests.diagnostics.elsewhere import OPT_OUTS, names, program
from tests.diagnostics.healthy import BATCH, PROGRAMS, Parts
from tests.diagnostics.mutants import MUTANTS, Mutant
from tests.diagnostics.separations import table
from tests.diagnostics.split import is_held_out

LEAST_STEPS, LEAST_EPOCHS = 520, 6
"""A little more than what guards wait for."""

CODES: dict[str, tuple[str, ...]] = {
    "logits as probabilities": ("PG206",),
    "softmax twice": ("PG206", "PG225"),
    "not normalized": ("PG223",),
    "softmax over wrong axis": ("PG223",),
    "constant output": ("PG224",),
    "head of wrong range": ("PG206", "PG223", "PG225"),
    "label encoding": ("PG204", "PG203"),
    "label range": ("PG205",),
    "unreachable targets": ("PG226",),
    "classes as numbers": ("PG227",),
    "exclusive labels": ("PG227",),
    "labels ignored": ("PG221",),
    "loss of wrong sign": ("PG222",),
    "broadcast": ("PG203", "PG211", "PG212"),
    "mask ignored": ("PG214",),
    "weights unused": ("PG215",),
    "mean of means": ("PG216", "PG231"),
    "gradients exchanged": ("PG121",),
    "wrong model trained": ("PG104", "PG110"),
    "frozen variable changed": ("PG126",),
    "skipped step moves": ("PG127",),
    "layer called twice": ("PG128",),
    "labels sorted": ("PG327",),
    "id beyond embedding": ("PG326",),
    "misaligned": ("PG330",),
    "imbalanced": ("PG331",),
    "vanishing gradients": ("PG130",),
    "exploding gradients": ("PG131",),
    "initial scale": ("PG132",),
    "initial loss": ("PG133",),
    "penalty overwhelms": ("PG134",),
    "drawn once": ("PG444",),
    "counted once": ("PG445",),
    "examples mixed": ("PG233",),
    "loss not a mean": ("PG220",),
    "no gradient": ("PG101", "PG120"),
    "variable not reached": ("PG101",),
    "variable not tracked": ("PG102",),
    "variable not updated": ("PG110",),
    "two optimizers": ("PG104",),
    "optimizer begins anew": ("PG125",),
    "counter advances twice": ("PG125",),
    "inference mode in training": ("PG440",),
    "evaluation draws": ("PG441",),
    "penalty dropped": ("PG229",),
    "penalty twice": ("PG208",),
    "dropout rate": ("PG442",),
    "dropout last": ("PG442",),
    "metric does not fit": ("PG230",),
    "metric of logits": ("PG230",),
    "metric never updated": ("PG232",),
    "not finite": ("PG320",),
    "inputs far from unit scale": ("PG321",),
    "targets of large scale": ("PG325",),
    "constant labels": ("PG322",),
    "constant feature": ("PG322",),
    "validation in training": ("PG323",),
    "target in inputs": ("PG324",),
    "learning rate too high": ("PG124",),
    "learning rate too low": ("PG124",),
    "dead units": ("PG122",),
    "no nonlinearity": ("PG123",),
    "float16 underflow": ("PG120",),
}
"""The codes that are right for what an operator's rule is to find; others have no rule yet."""


def findings(parts: Parts, level: Literal["default", "full"] = "default") -> list[pg.Finding]:
    """Return what `check` says of a program."""
    step, data = parts.build()
    validation = parts.fit_arguments().get("validation")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = pg.check(step, data, validation=validation, batch_size=BATCH, level=level)
    return list(report)


def alarms(parts: Parts) -> list[pg.Finding]:
    """Return what the guards of `fit` say of a program that trains for long enough."""
    step, data = parts.build()
    arguments = parts.fit_arguments()
    rows = len(keras.tree.flatten(data)[0])
    epochs = max(LEAST_EPOCHS, -(-LEAST_STEPS // -(-rows // arguments["batch_size"])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = pg.fit(step, data, **{**arguments, "epochs": epochs, "progress": "off"})
    return [finding for finding in history.findings if finding.code in GUARDS]


def verdict(mutant: Mutant) -> str:
    """Return `found` where a right code comes first, else what came."""
    try:
        found = findings(mutant.parts)
    except Exception as error:
        return f"raises {type(error).__name__}"
    codes = [finding.code for finding in found]
    right = CODES.get(mutant.operator.rule, ())
    if codes and codes[0] in right:
        return "found"
    if any(code in right for code in codes):
        return "second"
    return f"other {codes[0]}" if codes else "missed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--held-out", action="store_true", help="score the held-out fifth alone")
    parser.add_argument("--only", default="", help="operators whose name contains this")
    parser.add_argument("--every", type=int, default=1, help="one mutant of so many")
    parser.add_argument("--skip-healthy", action="store_true")
    parser.add_argument("--trials", action="store_true", help="try healthy programs for some steps")
    parser.add_argument("--separations", action="store_true", help="print the probes' table alone")
    arguments = parser.parse_args()
    if arguments.separations:
        print(f"Probes, smallest and largest value:\n{table()}")
        return
    began = time.perf_counter()
    if not arguments.skip_healthy:
        said: Counter[str] = Counter()
        for healthy in PROGRAMS.values():
            if is_held_out(healthy.name) != arguments.held_out:
                continue
            found = findings(healthy.parts, "full" if arguments.trials else "default")
            said["programs"] += 1
            said.update(finding.severity for finding in found)
            for finding in found:
                print(f"  {healthy.name}: {finding.severity} {finding.code} {finding.happened}")
        for name in [] if arguments.held_out else names():
            found = program(name).findings(OPT_OUTS.get(name, ()))
            said["programs"] += 1
            said.update(finding.severity for finding in found)
            for finding in found:
                print(f"  {name}: {finding.severity} {finding.code} {finding.happened}")
        opt_outs = sum(map(len, OPT_OUTS.values()))
        print(f"Healthy: {dict(said)}, {opt_outs} opt-outs\n", flush=True)
        told = 0
        for healthy in PROGRAMS.values():
            if is_held_out(healthy.name) == arguments.held_out:
                for finding in alarms(healthy.parts):
                    told += 1
                    print(f"  {healthy.name}: {finding.code} {finding.happened}", flush=True)
        print(f"Guards: {told} alarms of healthy programs\n", flush=True)
    wanted = [
        m
        for m in MUTANTS.values()
        if is_held_out(m.name) == arguments.held_out and arguments.only in m.operator.name
    ][:: arguments.every]
    by_row: dict[str, Counter[str]] = defaultdict(Counter)
    by_class: dict[str, Counter[str]] = defaultdict(Counter)
    for mutant in wanted:
        operator, said_of = mutant.operator, verdict(mutant)
        if said_of != "found" and operator.rule in CODES:
            print(f"  {mutant.name} ({operator.fault}): {said_of}", flush=True)
        by_row[f"{operator.fault:5} {operator.rule}"][said_of] += 1
        by_class[operator.fault[0]][said_of] += 1
        by_class[operator.certainty][said_of] += 1
        if operator.certainty in ("certain", "low"):
            by_class["certain and low"][said_of] += 1
    for title, counts in (("By rule", by_row), ("By class and certainty", by_class)):
        print(f"\n{title}: found first, of all")
        for name in sorted(counts):
            print(f"  {name:45} {counts[name]['found']:3} of {counts[name].total():3}")
    total = sum(by_row.values(), Counter())
    if not arguments.skip_healthy and not arguments.held_out:
        print(f"\nProbes, smallest and largest value:\n{table()}")
    print(f"\n{total['found']} of {total.total()}, in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
