"""How the doctor does: `python -m tests.examination.score [--held-out] [--operators] [--show]`.

A faulty program counts as found where the first error or warning is of its category. A corrected or
healthy one counts as right where there is no error and no warning.
"""

from __future__ import annotations

import argparse
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from perigee.diagnostics import Finding
from tests.examination.operators import OPERATORS, drawn, with_fault
from tests.examination.programs import Program, examined, programs
from tests.strangers.corpus import Case

RIGHT: dict[str, tuple[str, ...]] = {
    "labels": ("PG203", "PG204", "PG205"),
    "logits": ("PG206", "PG223", "PG225"),
    "head": ("PG206", "PG223", "PG224", "PG225", "PG226", "PG228"),
    "task": ("PG203", "PG204", "PG205", "PG226", "PG227", "PG228"),
    "metric": ("PG230", "PG231", "PG232", "PG234"),
    "inputs": ("PG321", "PG322", "PG326", "PG714"),
    "data": ("PG320", "PG322", "PG323", "PG324", "PG327", "PG328", "PG329", "PG330"),
    "rate": ("PG124", "PG711", "PG713"),
    "initial weights": ("PG122", "PG130", "PG131", "PG132", "PG133", "PG138", "PG715"),
    "activations": ("PG122", "PG123", "PG130", "PG132", "PG442"),
    "too little training": ("PG137", "PG716"),
    "not trained": ("PG101", "PG102", "PG104", "PG110", "PG112", "PG120", "PG121", "PG142"),
    "gradient": (
        "PG121", "PG127", "PG129", "PG135", "PG141", "PG208", "PG214", "PG215", "PG216", "PG220",
        "PG222", "PG229", "PG411",
    ),
    "pairing": ("PG203", "PG211", "PG212", "PG221", "PG233"),
    "mode": ("PG440", "PG441", "PG443", "PG461"),
    "state": ("PG103", "PG111", "PG125", "PG234", "PG245", "PG420", "PG462"),
    "constant in a program": ("PG444", "PG445", "PG446"),
}  # fmt: skip
"""The codes of each category."""

BY_TRIAL = ("rate", "initial weights", "activations", "inputs", "too little training")
"""Categories of which only training shows some."""


def first(found: Sequence[Finding]) -> str:
    """Return the code of the first error or warning; empty without one."""
    return next((each.code for each in found if each.severity != "hint"), "")


def verdict(category: str | None, code: str) -> str:
    """Return `right`, `missed` or the code that is wrong."""
    if category is None:
        return code or "right"
    return "right" if code in RIGHT[category] else code or "missed"


def scored(chosen: Iterable[Program], level: Any) -> Iterator[tuple[Program, str, str]]:
    """Yield each program, its verdict, and all that was found."""
    for program in chosen:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                report = examined(program, level)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            yield program, "raises", f"{type(error).__name__}: {error} ({last.name})"
            continue
        all_found = " ".join(f"{each.severity[0]}:{each.code}" for each in report)
        yield program, verdict(program.category, first(report.findings)), all_found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--held-out", action="store_true", help="the half that is only scored")
    parser.add_argument(
        "--only", default="", help="programs and categories with this in their name"
    )
    parser.add_argument("--set", choices=("first", "second"), help="one set; both by default")
    parser.add_argument("--level", default="default", choices=("default", "full"))
    parser.add_argument("--every", type=int, default=1, help="one program of so many")
    parser.add_argument("--show", default="", help="print the whole report of one program")
    parser.add_argument("--operators", type=int, default=0, help="so many programs with operators")
    arguments = parser.parse_args()
    began = time.perf_counter()
    if arguments.show:
        for program in programs():
            if program.name in (arguments.show, f"{arguments.show} mended"):
                print(f"== {program.name}\n{examined(program, arguments.level)}\n")
        return
    if arguments.operators:
        _operators(arguments.operators)
        return
    chosen = [
        program
        for program in programs()
        if program.is_held_out == arguments.held_out
        and (arguments.set is None or program.is_second == (arguments.set == "second"))
        and (arguments.only in program.name or arguments.only == program.category)
    ][:: arguments.every]
    told: dict[str, Counter[str]] = defaultdict(Counter)
    for program, said, found in scored(chosen, arguments.level):
        told[program.category or "healthy and mended"][said] += 1
        if said != "right":
            print(f"  {program.name} ({program.category}): {said} [{found}]", flush=True)
    _table(told)
    print(f"{time.perf_counter() - began:.0f} s")


def _operators(count: int) -> None:
    """Score programs of strangers with operators, as evenly by operator as they apply."""
    most = -(-count // len(OPERATORS))
    told: dict[str, Counter[str]] = defaultdict(Counter)
    for case, applied in drawn():
        key = f"{'last' if applied.is_last else 'first'}: {applied.category}: {applied.name}"
        if told[key].total() >= most or not _is_healthy(case):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                report = with_fault(case, applied)
        except Exception as error:
            print(f"  {applied.name} in {case.name}: raises {type(error).__name__}: {error}"[:300])
            told[key]["raises"] += 1
            continue
        if report is None:
            continue
        said = verdict(applied.category, first(report.findings))
        told[key][said] += 1
        if said != "right":
            print(f"  {applied.name} in {case.name}: {said}", flush=True)
    _table(told)
    for part in ("first", "last"):
        counts = sum((told[key] for key in told if key.startswith(part)), Counter())
        print(f"{part}: {counts['right']} of {counts.total()}")


@cache
def _is_healthy(case: Case) -> bool:
    """Return whether nothing is found in a program as it is."""
    try:
        report = with_fault(case, None)
    except Exception:
        return False
    return report is not None and report.ok


def _table(told: dict[str, Counter[str]]) -> None:
    for name in sorted(told):
        others = {code: n for code, n in told[name].most_common() if code != "right"}
        print(f"{name:60} {told[name]['right']:3} of {told[name].total():3}  {others or ''}")
    faulty = sum((c for name, c in told.items() if name != "healthy and mended"), Counter())
    print(f"{'all faulty':60} {faulty['right']:3} of {faulty.total():3}")


if __name__ == "__main__":
    main()
