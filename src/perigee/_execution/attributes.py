"""Whether a compiled program depends on attributes that the step itself changes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from perigee._errors import CompiledAttributeError, refuse
from perigee._rehearsal.discovery import Rehearsal
from perigee._rehearsal.outside import used_attributes
from perigee._step.frame import Method
from perigee._step.state import host_random, preserved, restore, set_host_random, track
from perigee._step.step import Step

_LATER = 10_000
"""How many steps later a number is looked at."""


def refuse_compiled_attributes(
    step: Step, method: Method, rehearsal: Rehearsal, program: Callable[[], Any]
) -> None:
    """Refuse a step whose program is another one after it has changed its attributes.

    Args:
        step: The Step.
        method: The method that is compiled.
        rehearsal: Its rehearsal: a step that changes no attribute is not traced.
        program: Traces the method, and returns what is equal for equal programs.

    Raises:
        CompiledAttributeError: If the programs differ, and in nothing but that.
    """
    if not rehearsal.changed:
        return
    found: list[str] = []
    # An error is of the step: it comes again where it is compiled, or is meant, as a limit.
    with suppress(Exception):
        found = _depends_on(step, method, rehearsal, program)
    if found:
        number = next((name for name in found if name in rehearsal.counted), None)
        is_float = isinstance(getattr(step, number or "", None), float)
        error = CompiledAttributeError(found, number, "float32" if is_float else "int32")
        refuse(error, step.ignore_findings)


def _depends_on(
    step: Step, method: Method, rehearsal: Rehearsal, program: Callable[[], Any]
) -> list[str]:
    """Return the attributes that the program depends on; not if equal traces differ, too."""
    objects = [*track(step, as_python=True).objects.values()]
    with preserved(objects) as before:
        here, known = host_random(), _integers(step, rehearsal)
        first = program()
        if first is None:
            return []
        grown = {name: now - known[name] for name, now in _integers(step, rehearsal).items()}
        found = used_attributes(step, method, rehearsal.changed) or [*rehearsal.changed]
        set_host_random(here)
        if program() == first:
            found = used_attributes(step, method, known)
            if not found:
                return []
            for name in found:
                setattr(step, name, known[name] + grown[name] * _LATER)
            set_host_random(here)
            if program() == first:
                return []
        restore(objects, before)
        set_host_random(here)
        return found if program() == first else []


def _integers(step: Step, rehearsal: Rehearsal) -> dict[str, int]:
    """Return the integers in attributes of the Step that it changes."""
    values = {name: getattr(step, name, None) for name in rehearsal.counted}
    return {name: value for name, value in values.items() if type(value) is int}
