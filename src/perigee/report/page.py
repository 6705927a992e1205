"""The report page: one HTML file that needs no network, for one or several runs."""

from __future__ import annotations

import base64
import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from perigee.report.charts import Chart, Line, bars
from perigee.report.curves import PARTS, curves_of, joined
from perigee.report.profile import profile_lines
from perigee.report.reading import KeptRun, KeptSample
from perigee.report.table import row_of, usual_values
from perigee.writers.terminal import format_duration, format_value

_HERE = Path(__file__).parent

_MOST_SAMPLES = 8
_MOST_SAMPLE_BYTES = 8 * 2**20
"""The most samples of one name, and of all on a page."""
_MOST_TEXT = 20_000
_MOST_HISTOGRAMS, _MOST_TENSORS = 3, 24
"""The most histograms of one tensor, and tensors of one run."""

_GROUPS = {"values": "Curves", "rates": "Learning rates", "norms": "Gradients and updates"}

_LABELS = {"window": "windows of steps", "running": "running, over the epoch so far"}

_SPENT = {
    "device": ("running steps", 0),
    "data": ("waiting for data", 1),
    "validation": ("validation", 2),
    "saving": ("saving", 3),
    "compiling": ("preparing and compiling", 4),
    "host": ("host overhead", 7),
}


def render(runs: Sequence[KeptRun], title: str | None = None) -> str:
    """Return the page of one run, or of several side by side.

    Args:
        runs: The runs, at least one.
        title: The title; `None` derives it from the names of the runs.
    """
    charts = _charts(runs)
    names = ", ".join(run.name for run in runs)
    title = title or (runs[0].name if len(runs) == 1 else f"{len(runs)} runs: {names}")
    sections = [
        _head(runs, title),
        _errors(runs),
        _findings(runs),
        _changes(runs),
        *_curves(runs, charts),
        _samples(runs),
        _histograms(runs),
        _time(runs),
        _compared("Profile", runs, [_profiled(run) for run in runs]),
        _plans(runs),
        _compared("Configuration", runs, [_configured(run) for run in runs]),
        _compared("Environment", runs, [_environment(run) for run in runs]),
    ]
    data = {
        "runs": [{"name": run.name, "facts": dict(run.facts)} for run in runs],
        "charts": [
            {
                "name": chart.name,
                "curves": [
                    {
                        "run": line.curve.run,
                        "part": line.curve.part,
                        "label": line.label,
                        "color": line.color % 8,
                        "points": [
                            [p.step, p.epoch, round(p.seconds, 3), _json_number(p.value)]
                            for p in line.curve.points
                        ],
                    }
                    for line in chart.lines
                ],
            }
            for chart in charts
        ],
    }
    # `<` could end the element that holds the data.
    embedded = json.dumps(data, allow_nan=False, default=str).replace("<", "\\u003c")
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{(_HERE / 'page.css').read_text(encoding='utf-8')}</style></head>",
            "<body><main>",
            *filter(None, sections),
            "</main>",
            f'<script type="application/json" id="perigee-data">{embedded}</script>',
            f"<script>\n{(_HERE / 'page.js').read_text(encoding='utf-8')}</script>",
            "</body></html>\n",
        ]
    )


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


# The outcome.


def _head(runs: Sequence[KeptRun], title: str) -> str:
    if len(runs) > 1:
        return f"<header><h1>{escape(title)}</h1></header>{_comparison(runs)}"
    run = runs[0]
    state = run.state
    chip = f'<span class="state {escape(state.partition(":")[0])}">{escape(state)}</span>'
    said = [f"Started {_when(run.facts.get('started'))}"]
    resumed = run.facts.get("resumed") or []
    if resumed:
        steps = ", ".join(str(part.get("step")) for part in resumed)
        said.append(f"resumed after step {steps}")
    changed = _changed(run)
    if changed:
        steps = ", ".join(str(change["step"]) for change in changed)
        said.append(f"continued with other settings after step {steps}")
    seconds, clock = run.seconds, run.clock
    tiles = [(str(clock.get("epoch", 0)), "epochs"), (str(clock.get("step", 0)), "steps")]
    if seconds is not None:
        tiles.append((format_duration(seconds), "in all"))
    for name in usual_values(runs):
        best, last = run.best(name), run.values(name)[-1:]
        tiles += [(format_value(value), f"{name}, last") for value in last]
        if best is not None and last and best != last[0]:
            tiles.append((format_value(best), f"{name}, best"))
    drawn = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for value, name in tiles
    )
    return (
        f"<header><h1>{escape(title)}{chip}</h1>"
        f'<p class="quiet">{escape(", ".join(said))}. <code>{escape(str(run.path))}</code></p>'
        f'</header><div class="tiles">{drawn}</div>'
    )


def _changed(run: KeptRun) -> list[Mapping[str, Any]]:
    """Return what was accepted to differ from the start before, each time that it was."""
    changes = run.facts.get("changes")
    return [
        change
        for change in (changes if isinstance(changes, list) else [])
        if isinstance(change, dict) and isinstance(change.get("changed"), list) and "step" in change
    ]


def _changes(runs: Sequence[KeptRun]) -> str:
    cards: list[str] = []
    for run in runs:
        for change in _changed(run):
            shown = "".join(
                f"<li><code>{escape(str(line))}</code></li>" for line in change["changed"]
            )
            cards.append(
                f'<div class="card"><h3>{_of(run, runs)}After step {escape(str(change["step"]))}'
                f'<span class="quiet" style="font-weight:400"> {escape(_when(change.get("when")))}'
                f"</span></h3><ul>{shown}</ul></div>"
            )
    body = f'<div class="stack">{"".join(cards)}</div>'
    return _section("Changed settings (was -> is)", body) if cards else ""


def _comparison(runs: Sequence[KeptRun]) -> str:
    names = usual_values(runs)
    heads = ["run", "state", "epochs", "steps", "time"]
    for name in names:
        heads += [f"{name}, last", f"{name}, best"]
    rows: list[str] = []
    for number, run in enumerate(runs):
        name, state, *numbers = map(escape, row_of(run, names))
        cells = [
            f'<td><span class="swatch c{number % 8}"></span>{name}</td><td>{state}</td>',
            *(f'<td class="number">{each}</td>' for each in numbers),
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(
        f"<th{' class=number' if index > 1 else ''}>{escape(name)}</th>"
        for index, name in enumerate(heads)
    )
    return (
        '<div class="card scroll" style="margin-top:16px"><table class="runs">'
        f"<tr>{head}</tr>{''.join(rows)}</table></div>"
    )


def _errors(runs: Sequence[KeptRun]) -> str:
    cards = [
        f'<div class="card finding error"><h3>{_of(run, runs)}{escape(str(error.get("class")))}'
        f"</h3><pre>{escape(str(error.get('message')))}</pre></div>"
        for run in runs
        if (error := run.facts.get("error"))
    ]
    return _section("What ended it", f'<div class="stack">{"".join(cards)}</div>') if cards else ""


def _findings(runs: Sequence[KeptRun]) -> str:
    cards: list[str] = []
    for run in runs:
        for finding in run.facts.get("findings") or []:
            severity = str(finding.get("severity"))
            items = [str(item) for item in finding.get("items") or ()]
            shown = "".join(f"<li><code>{escape(item)}</code></li>" for item in items[:5])
            more = f"<li>and {len(items) - 5} more</li>" if len(items) > 5 else ""
            cards.append(
                f'<div class="card finding {escape(severity)}"><h3>{_of(run, runs)}'
                f"{escape(severity.capitalize())}: {escape(str(finding.get('name')))} "
                f"<code>{escape(str(finding.get('code')))}</code></h3>"
                f"<p>{escape(str(finding.get('happened')))}</p>"
                f"{f'<ul>{shown}{more}</ul>' if items else ''}"
                f"<p><b>Expected:</b> {escape(str(finding.get('expected')))}</p>"
                f"<p><b>Fix:</b> {escape(str(finding.get('fix')))}</p></div>"
            )
    return _section("Findings", f'<div class="stack">{"".join(cards)}</div>') if cards else ""


def _of(run: KeptRun, runs: Sequence[KeptRun]) -> str:
    return "" if len(runs) == 1 else f"{escape(run.name)}: "


# Curves.


def _charts(runs: Sequence[KeptRun]) -> list[Chart]:
    """Return a chart for each name, without values of mid-epoch if several runs are shown."""
    curves = [curve for number, run in enumerate(runs) for curve in curves_of(run, number)]
    charts: list[Chart] = []
    for name in dict.fromkeys(curve.name for curve in curves):
        own = [curve for curve in curves if curve.name == name]
        if _group(name) == "rates":  # not means: windows and epochs form one curve
            own = [joined([c for c in own if c.run == run]) for run in {c.run: 0 for c in own}]
        own.sort(key=lambda curve: (curve.run, PARTS.index(curve.part)))
        epochs = {c.run: len(c.points) for c in own if c.part == "training"}
        lines: list[Line] = []
        for curve in own:
            is_validated = any(c.part == "validation" and c.run == curve.run for c in own)
            is_extra = curve.part in ("window", "running") and curve.run in epochs
            if is_extra and (len(runs) > 1 or len(curve.points) <= epochs[curve.run]):
                continue  # too many lines, or coarser than the epochs
            if len(runs) == 1:
                color = 1 if curve.part == "validation" else 0
                style = "faint" if is_extra else "solid"
                label = _LABELS.get(curve.part, curve.part)
            else:
                color = curve.run
                style = "dashed" if curve.part != "validation" and is_validated else "solid"
                label = (
                    f"{runs[curve.run].name} {curve.part}"
                    if is_validated
                    else (runs[curve.run].name)
                )
            lines.append(Line(curve, label, color, style))
        charts.append(Chart(name, lines))
    return charts


def _curves(runs: Sequence[KeptRun], charts: Sequence[Chart]) -> list[str]:
    sections: list[str] = []
    for group, heading in _GROUPS.items():
        cards = [
            _chart_card(chart, index, runs)
            for index, chart in enumerate(charts)
            if _group(chart.name) == group
        ]
        if cards:
            sections.append(_section(heading, f'<div class="charts">{"".join(cards)}</div>'))
    return sections


def _group(name: str) -> str:
    last = name.rpartition("/")[2]
    if last == "learning_rate":
        return "rates"
    words = set(last.lower().split("_"))
    return "norms" if words & {"norm", "gradient", "gradients", "grad", "update"} else "values"


def _chart_card(chart: Chart, index: int, runs: Sequence[KeptRun]) -> str:
    scales = chart.scales
    marks = [
        int(part["step"])
        for part in (runs[0].facts.get("resumed") or [] if len(runs) == 1 else [])
        if isinstance(part.get("step"), int)
    ]
    drawn = "".join(chart.svg(scale, f"chart-{index}-{scale}", marks) for scale in scales)
    toggle = ""
    if len(scales) > 1:
        checked = " checked" if scales[0] == "log" else ""
        toggle = f'<label class="scale"><input type="checkbox"{checked}>log scale</label>'
    legend = ""
    if len(chart.lines) > 1 or len(runs) > 1:
        legend = "".join(
            f'<span><svg viewBox="0 0 22 8" aria-hidden="true" class="c{line.color % 8} '
            f'{line.style}"><line x1="1" x2="21" y1="4" y2="4"/></svg>{escape(line.label)}</span>'
            for line in chart.lines
        )
        legend = f'<div class="legend">{legend}</div>'
    return (
        f'<div class="card chart-card" data-chart="{index}"><div class="chart-head">'
        f"<h3>{escape(chart.name)}</h3>{toggle}</div>{legend}{drawn}</div>"
    )


# Samples.


def _samples(runs: Sequence[KeptRun]) -> str:
    cards: list[str] = []
    room = _MOST_SAMPLE_BYTES
    for run in runs:
        for name, kept in run.samples.items():
            if kept[0].is_histogram:
                continue
            figures: list[str] = []
            chosen = _spread(kept, _MOST_SAMPLES if len(runs) == 1 else 3)
            for sample in reversed(chosen):  # the newest must be included
                size = sample.path.stat().st_size
                if figures and size > room:
                    break
                room -= size
                figures.insert(0, _figure(sample, name))
            long = "" if kept[0].is_image else " long"
            cards.append(
                f'<div class="card"><h3>{_of(run, runs)}{escape(name)}</h3>'
                f'<div class="samples{long}">{"".join(figures)}</div></div>'
            )
    return _section("Samples", f'<div class="stack">{"".join(cards)}</div>') if cards else ""


def _histograms(runs: Sequence[KeptRun]) -> str:
    """Draw histograms of weights, gradients and updates: the first, a middle and the last."""
    cards: list[str] = []
    for run in runs:
        for name, kept in run.samples.items():
            if not kept[0].is_histogram:
                continue
            chosen = _spread(kept, _MOST_HISTOGRAMS)
            found = [sample.histograms() for sample in chosen]
            shown = list(found[-1])[:_MOST_TENSORS]
            rows = "".join(
                f"<tr><th><code>{escape(tensor)}</code></th>"
                + "".join(f"<td>{bars(*each[tensor])}</td>" for each in found if tensor in each)
                + "</tr>"
                for tensor in shown
            )
            heads = "".join(f"<th>step {sample.step}</th>" for sample in chosen)
            more = len(found[-1]) - len(shown)
            said = f'<p class="quiet">and {more} more, in TensorBoard</p>' if more else ""
            cards.append(
                f'<div class="card"><h3>{_of(run, runs)}{escape(name)}</h3><div class="scroll">'
                f'<table class="histograms"><tr><th></th>{heads}</tr>{rows}</table></div>{said}'
                "</div>"
            )
    return _section("Histograms", f'<div class="stack">{"".join(cards)}</div>') if cards else ""


def _spread(kept: Sequence[KeptSample], most: int) -> list[KeptSample]:
    """Return the last one and others, evenly spaced."""
    count = min(most, len(kept))
    if count < 2:
        return list(kept[-count:])
    return [kept[round(i * (len(kept) - 1) / (count - 1))] for i in range(count)]


def _figure(sample: KeptSample, name: str) -> str:
    if sample.is_image:
        encoded = base64.b64encode(sample.image()).decode("ascii")
        said = escape(f"{name} at step {sample.step}", quote=True)
        shown = f'<img src="data:image/png;base64,{encoded}" alt="{said}">'
    else:
        shown = "".join(f"<pre>{escape(text[:_MOST_TEXT])}</pre>" for text in sample.texts())
    return f"<figure>{shown}<figcaption>step {sample.step}</figcaption></figure>"


# How it ran.


def _time(runs: Sequence[KeptRun]) -> str:
    cards: list[str] = []
    for run in runs:
        spent = {k: v for k, v in (run.facts.get("spent") or {}).items() if k in _SPENT}
        total = sum(spent.values())
        if total <= 0:
            continue
        parts = [part for part in _SPENT if part in spent]
        bar = "".join(
            f'<i class="c{_SPENT[part][1]}" style="width:{100 * spent[part] / total:.2f}%" '
            f'title="{_SPENT[part][0]}: {format_duration(spent[part])}"></i>'
            for part in parts
        )
        rows = "".join(
            f'<tr><td><span class="swatch c{_SPENT[part][1]}"></span>{_SPENT[part][0]}</td>'
            f"{_number(format_duration(spent[part]))}"
            f"{_number(f'{100 * spent[part] / total:.1f} %')}</tr>"
            for part in parts
        )
        cards.append(
            f'<div class="card"><h3>{_of(run, runs)}{format_duration(total)}'
            f'<span class="quiet" style="font-weight:400">{escape(_pace(run, spent))}</span></h3>'
            f'<div class="bar">{bar}</div><div class="scroll"><table>{rows}</table></div></div>'
        )
    body = f'<div class="{"charts" if len(cards) > 1 else ""}">{"".join(cards)}</div>'
    return _section("Time spent", body) if cards else ""


def _pace(run: KeptRun, spent: Mapping[str, float]) -> str:
    """Describe the time per step, and the part of the run that this covers."""
    resumed = run.facts.get("resumed") or []
    steps = run.clock.get("step", 0) - (resumed[-1].get("step", 0) if resumed else 0)
    said = ", since it was last resumed" if resumed else ""
    if steps > 0 and spent.get("device"):
        milliseconds = 1000 * spent["device"] / steps
        said += f"; {format_value(milliseconds)} ms per step on the device, over {steps} steps"
    return said


def _profiled(run: KeptRun) -> dict[str, str]:
    """Return the facts of a profile, except the shares of time, which are shown above."""
    lines = {} if run.profile is None else profile_lines(run.profile)
    return {name: text for name, text in lines.items() if not name.startswith("time: ")}


def _plans(runs: Sequence[KeptRun]) -> str:
    cards: list[str] = []
    for run in runs:
        plan = run.facts.get("plan")
        if not plan:
            continue
        rows: list[str] = []
        for trial in plan.get("trials") or []:
            is_chosen = all(trial.get(key) == plan.get(key) for key in ("mode", "is_fused"))
            cost, ready = trial.get("microseconds"), trial.get("compile_seconds")
            rows.append(
                f"<tr{' class=chosen' if is_chosen else ''}><td>{escape(_way(trial))}</td>"
                f"{_number('not measured' if cost is None else f'{cost:.0f} us per step')}"
                f"{_number('' if ready is None else f'ready after {ready:.1f} s')}"
                f"<td>{escape(str(trial.get('note') or ''))}</td></tr>"
            )
        head = f"<h3>{_of(run, runs)}{escape(_way(plan))} ({escape(str(plan.get('origin')))})</h3>"
        body = f'<div class="scroll"><table>{"".join(rows)}</table></div>' if rows else ""
        cards.append(f'<div class="card">{head}{body}</div>')
    return (
        _section("How the step ran", f'<div class="stack">{"".join(cards)}</div>') if cards else ""
    )


def _way(plan: Mapping[str, Any]) -> str:
    return f"{plan.get('mode')}, {'many steps' if plan.get('is_fused') else 'one step'} per call"


def _configured(run: KeptRun) -> dict[str, str]:
    facts = dict(run.facts.get("configuration") or {})
    flat = dict(_flat(facts))
    return {**flat, "seed": _text(run.facts.get("seed"))}


def _environment(run: KeptRun) -> dict[str, str]:
    """Return the environment of the last part of a run."""
    facts = {**run.facts, **((run.facts.get("resumed") or [{}])[-1])}
    command = facts.get("command") or []
    shown = {
        "command": shlex.join(str(word) for word in command),
        "commit": facts.get("git_commit"),
        "backend": facts.get("backend"),
        **dict(_flat(facts.get("versions") or {})),
        **dict(_flat(facts.get("machine") or {})),
        "started": _when(run.facts.get("started")),
        "resumed": _when(facts.get("when")),
        "ended": _when(run.facts.get("ended")),
        "stop reason": run.facts.get("stop_reason"),
        **{
            f"failures of {name}": f"{counts.get('failed')} failed, {counts.get('lost')} lost"
            for name, counts in (run.facts.get("failures") or {}).items()
        },
    }
    return {name: _text(value) for name, value in shown.items() if value not in (None, "")}


def _compared(heading: str, runs: Sequence[KeptRun], columns: Sequence[Mapping[str, str]]) -> str:
    """Return a table of named facts, one column per run; differences are shown first."""
    names = list(dict.fromkeys(name for column in columns for name in column))
    if not names:
        return ""
    same: list[str] = []
    different: list[str] = []
    for name in names:
        values = [column.get(name, "") for column in columns]
        cells = "".join(f"<td><code>{escape(value)}</code></td>" for value in values)
        rows = different if len(set(values)) > 1 else same
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    head = ""
    if len(runs) > 1:
        head = "".join(f"<th>{escape(run.name)}</th>" for run in runs)
        head = f"<tr><th></th>{head}</tr>"
    tables = [f'<table class="facts">{head}{"".join(rows)}</table>' for rows in (different, same)]
    if len(runs) == 1:
        return _section(heading, f'<div class="card scroll">{tables[1]}</div>')
    body = f'<div class="card scroll">{tables[0]}</div>' if different else ""
    if same:
        said = f"{len(same)} more that are equal in all runs"
        body += f'<details class="card scroll"><summary>{said}</summary>{tables[1]}</details>'
    return _section(heading, body)


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    for name, value in facts.items():
        path = f"{before}.{name}" if before else str(name)
        if isinstance(value, Mapping):
            yield from _flat(value, path)
        elif value is not None:
            yield path, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    return format_value(value) if isinstance(value, float) else str(value)


def _when(timestamp: Any) -> str:
    return str(timestamp or "").replace("T", " ").replace("+00:00", " UTC")


def _number(text: str) -> str:
    return f'<td class="number">{escape(text)}</td>'


def _section(heading: str, body: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>{body}</section>"
