"""Causes before symptoms: in which order findings are told, and which one explains which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from perigee._errors import PerigeeError
from perigee.diagnostics._finding import Finding

SEVERITIES = ("error", "warning", "hint")

_ORDER = (
    # Data that is broken.
    *("PG320", "PG326", "PG301", "PG324", "PG323", "PG329", "PG328", "PG327", "PG322"),
    # Labels and the task that they are of.
    *("PG204", "PG205", "PG228", "PG227"),
    # The head and the loss.
    *("PG224", "PG206", "PG225", "PG223", "PG226", "PG222"),
    # Which prediction meets which label, and a metric that measures it.
    *("PG203", "PG211", "PG212", "PG233", "PG221", "PG239", "PG230"),
    # The scale of the data, of which most numbers are a consequence.
    *("PG321", "PG325"),
    # Gradients and updates.
    *("PG102", "PG112", "PG101", "PG110", "PG142", "PG104", "PG105", "PG121", "PG129", "PG138"),
    *("PG141", "PG122", "PG120", "PG220", "PG214", "PG215", "PG216", "PG229", "PG208", "PG126"),
    *("PG127", "PG125", "PG137", "PG124", "PG128"),
    # Modes, and values that a program holds.
    *("PG440", "PG441", "PG461", "PG442", "PG443", "PG444", "PG445", "PG231", "PG232", "PG234"),
    *("PG245", "PG462"),
    # Numbers.
    *("PG123", "PG130", "PG131", "PG132", "PG133", "PG134", "PG135", "PG331", "PG330"),
)
"""Codes of findings of one severity, the first causes first; others follow."""

_RANK = {code: place for place, code in enumerate(_ORDER)}

EXPLAINS: Mapping[str, Sequence[str]] = {
    "PG320": ("PG133", "PG222", "PG321", "PG325", "PG330", "PG710"),
    "PG322": ("PG120", "PG122", "PG132", "PG221", "PG224", "PG330", "PG331"),
    "PG203": ("PG211", "PG212", "PG222", "PG227", "PG230"),
    "PG204": ("PG120", "PG133", "PG221", "PG222", "PG223", "PG224", "PG230"),
    # A loss of labels that it is not defined for has neither a sign nor a scale.
    "PG205": ("PG120", "PG133", "PG221", "PG222", "PG226", "PG227", "PG230"),
    "PG228": ("PG133", "PG222", "PG223", "PG226", "PG230"),
    "PG227": ("PG222", "PG226", "PG230"),
    "PG224": ("PG120", "PG133", "PG221", "PG222", "PG230"),
    # Logits have no threshold of 0.5, and clipped ones no gradient.
    "PG206": ("PG120", "PG122", "PG133", "PG222", "PG223", "PG225", "PG230"),
    "PG225": ("PG120", "PG122", "PG133", "PG222", "PG230"),
    "PG223": ("PG133", "PG222"),
    "PG226": ("PG120", "PG122", "PG222"),  # a ReLU that is to go below 0 dies
    "PG211": ("PG222", "PG230"),
    "PG212": ("PG222", "PG230"),
    "PG233": ("PG223",),  # a softmax over the batch is no distribution over the classes either
    "PG321": (*("PG120", "PG122", "PG131", "PG132", "PG133", "PG221", "PG222", "PG224", "PG714"),),
    "PG325": ("PG131",),
    "PG122": ("PG120", "PG130", "PG132", "PG221", "PG224"),  # no gradient passes dead units
    "PG138": (
        *("PG120", "PG122", "PG130", "PG132", "PG221", "PG224"),
        *("PG711", "PG713", "PG714", "PG715", "PG716"),
    ),
    "PG130": ("PG132",),
    "PG131": ("PG133",),
    # Nearly equal outputs have nearly the same loss for all labels, and no gradient.
    "PG132": ("PG120", "PG221", "PG224"),
    "PG120": ("PG711", "PG713"),
    "PG124": ("PG711", "PG713", "PG714", "PG715", "PG716"),
    "PG137": ("PG711", "PG713", "PG714", "PG715", "PG716"),
    "PG442": ("PG713",),
    # What a trial has shown to be the cause explains what shows at the first step.
    "PG713": ("PG131", "PG710", "PG711"),
    "PG714": ("PG122", "PG224", "PG131", "PG132", "PG133", "PG710", "PG711"),
    "PG715": (
        *("PG120", "PG122", "PG130", "PG131", "PG132", "PG133", "PG221", "PG224", "PG710", "PG711"),
    ),
}
"""For each code, the codes of findings that it explains."""


def sorted_out(
    found: Iterable[Finding], explains: Mapping[str, Sequence[str]] = EXPLAINS
) -> list[Finding]:
    """Fold findings into those that explain them, and sort the rest: the worst, then causes first.

    Args:
        found: Findings.
        explains: For each code, the codes that it explains; a hint explains nothing.
    """
    told = sorted(dict.fromkeys(found), key=_place)
    causes = {finding.code for finding in told if finding.severity != "hint"}
    explained = {code for cause in causes for code in explains.get(cause, ()) if code != cause}
    left = [finding for finding in told if finding.code not in explained]
    waiting = [finding for finding in told if finding.code in explained]
    folded: list[tuple[tuple[int, int], Finding]] = []
    for cause in left:
        codes = _below(cause.code, causes, explains) if cause.severity != "hint" else set[str]()
        beneath = [finding for finding in waiting if finding.code in codes]
        waiting = [finding for finding in waiting if finding.code not in codes]
        names = [n for f in beneath for n in (f"{f.code} {f.name}", *f.explains)]
        names = list(dict.fromkeys([*cause.explains, *names]))
        # What explains an error comes where the error would.
        place = min([_place(cause)[0], *(_place(f)[0] for f in beneath)]), _place(cause)[1]
        folded.append((place, replace(cause, explains=tuple(names))))
    return [finding for _, finding in sorted(folded, key=lambda pair: pair[0])]


def first_by_cause(errors: Sequence[PerigeeError]) -> PerigeeError:
    """Return the error that comes first, with a note about the others."""
    first, *others = sorted(errors, key=lambda error: _RANK.get(error.code, len(_ORDER)))
    names = dict.fromkeys(f"{e.code} {type(e).__name__}" for e in others if e.code != first.code)
    if names:
        first.add_note(f"Also found: {', '.join(names)}. They may follow from it.")
    return first


def _place(finding: Finding) -> tuple[int, int]:
    return SEVERITIES.index(finding.severity), _RANK.get(finding.code, len(_ORDER))


def _below(code: str, causes: set[str], explains: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the codes that one explains, by others in between, too."""
    found: set[str] = set()
    waiting = [code]
    while waiting:
        new = set(explains.get(waiting.pop(), ())) - found - {code}
        found |= new
        waiting += new & causes
    return found
