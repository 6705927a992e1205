"""The results of a profile as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perigee.writers.terminal import format_duration, format_value

PROFILE_NAME = "profile.json"

_UNITS = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def profile_lines(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the results of a profile as text, by topic.

    Args:
        facts: The result of `Profiled.facts`.
    """
    spent = {name: seconds for name, seconds in facts["spent"].items() if seconds > 0}
    total, step = sum(spent.values()), facts["step_seconds"]
    traced = facts["traced"]
    lines = {
        "trace": "none: the training was too short"
        if traced is None
        else f"steps {traced[0]} to {traced[1]}, in {facts['directory']}",
        "first step": f"done after {format_duration(facts['first_step_seconds'])}",
    }
    if step is not None:
        lines["step"] = f"{format_value(1000 * step)} ms, {format_value(1 / step)} steps per second"
    for name in sorted(spent, key=lambda name: -spent[name]):
        share = 100 * spent[name] / total
        lines[f"time: {name}"] = f"{share:5.1f} %  {format_duration(spent[name])}"
    lines["operations"] = "unknown"
    if facts["operations"] is not None:
        said = "in the matrix products and convolutions of a step"
        lines["operations"] = f"{_scaled(facts['operations'])} {said}"
    size, dtype = facts["matrix_size"], facts["dtype"]
    rate = f"{_scaled(facts['matrix_rate'])} per second, in products of {size} x {size} {dtype}"
    lines["machine"] = rate
    if facts["utilization"] is not None:
        lines["utilization"] = f"{100 * facts['utilization']:.2g} % of that"
    return lines


def _scaled(value: float) -> str:
    unit, size = next((pair for pair in _UNITS if value >= pair[1]), ("", 1.0))
    return f"{format_value(value / size)} {unit}FLOP"
