"""The report, made from the JSON files alone.

python -m benchmarks.render
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.options import WORKLOAD_NAMES
from benchmarks.timing import median_interval, paired_ratios

FOLDER = Path(__file__).resolve().parent
REPORT = FOLDER / "RESULTS.md"

Result = dict[str, Any]

TITLES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "torch"}
LEAST_PAIRS = 15
TOLERATED = 1.05
"""Perigee counts as not slower where the upper end of the interval is at most this."""

GOALS = {
    ("tensorflow", 32): [
        ("perigee_arrays", "by_hand", 0.28, 0.25),
        ("perigee_arrays", "orbit", 0.90, 0.80),
        ("perigee_arrays", "floor", 1.55, 1.30),
        ("perigee_tf_data", "orbit", 1.08, None),
        ("perigee_tf_data", "by_hand", 0.33, None),
    ],
    ("tensorflow", 256): [
        ("perigee_arrays", "by_hand", 0.46, None),
        ("perigee_arrays", "orbit", 0.70, None),
        ("perigee_arrays", "floor", 1.25, None),
    ],
    ("jax", 32): [
        ("perigee_arrays", "fit", 0.36, None),
        ("perigee_arrays", "by_hand", 0.60, None),
    ],
}
"""Of the dense model, by framework and batch size: ours, theirs, the bound, and what is wished."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=FOLDER / "results")
    parser.add_argument("--report", type=Path, default=REPORT)
    chosen = parser.parse_args()
    chosen.report.write_text(render(read(chosen.results)), encoding="utf-8")


def read(folder: Path) -> list[Result]:
    """Return the results in a folder, in the order of their names."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def render(results: Sequence[Result]) -> str:
    """Return the report as Markdown."""
    contests = sorted((r for r in results if r["kind"] == "contest"), key=_place)
    parts = [
        _head(results),
        *(_contests(contests) if contests else []),
        *_others(results),
    ]
    return "\n\n".join(parts) + "\n"


def _head(results: Sequence[Result]) -> str:
    lines = [
        "# Results",
        "",
        "Written by `python -m benchmarks.render` from the files in `results/`; `make bench` "
        "measures anew.",
    ]
    if any(result["is_quick"] for result in results):
        lines += ["", "**These figures come from a smoke test and mean nothing.**"]
    for label, values in (
        ("Machine", {_machine(result) for result in results}),
        ("Versions", {_versions(result) for result in results}),
    ):
        lines += ["", f"{label}:", "", *(f"- {value}" for value in sorted(values))]
    return "\n".join(lines)


def _machine(result: Result) -> str:
    machine = result["machine"]
    cores = f"{machine['cores']} core{'' if machine['cores'] == 1 else 's'}"
    device = f", {machine['device']}" if machine.get("device") else ""
    return f"{machine['processor']}, {cores}, {machine['system']}{device}"


def _versions(result: Result) -> str:
    return f"{TITLES[result['backend']]}: " + ", ".join(
        f"{name} {version}" for name, version in result["versions"].items()
    )


# Contests.


def _contests(contests: Sequence[Result]) -> Iterator[str]:
    yield "## Microseconds a step"
    yield (
        "Each table is one process, in which all contestants train models of their own on the "
        "same arrays, in turn, in rounds of some epochs; the order moves on by one place each "
        "round. `fit` is timed from call to return, Perigee's and Keras's alike; loops by hand "
        "reset their metrics, go over the data and read their metrics, epoch by epoch. Compiling "
        "and planning fall into the warm-up. Ratios are taken round by round; the interval "
        "covers their median in 95 of 100 cases whatever their distribution (order statistics). "
        'Below 1, Perigee is faster. "Logged" is the loss of the last epoch: it shows that all '
        "learn, and no more, for the trainings are not equally long."
    )
    yield _summary(contests)
    goals = _goals(contests)
    if goals:
        yield "### The dense model against its goals"
        yield goals
    yield "### Where Perigee is not ahead"
    yield _not_ahead(contests)
    yield "### Every contestant"
    for contest in contests:
        yield _contest(contest)


def _summary(contests: Sequence[Result]) -> str:
    rows = []
    for contest in contests:
        by_key = _by_key(contest)
        ours = by_key["perigee_arrays"]
        rivals = _rivals(contest)
        best = min(rivals, key=_median) if rivals else None
        rows.append(
            [
                contest["title"],
                TITLES[contest["backend"]],
                contest["batch_size"],
                _micros(_median(ours)),
                "" if best is None else f"{_micros(_median(best))}, {best['name']}",
                "" if best is None else _ratio(ours, best),
                _ratio(ours, by_key["floor"]) if "floor" in by_key else "",
            ]
        )
    head = [
        "workload",
        "framework",
        "batch",
        "Perigee, arrays",
        "best of the others",
        "ratio (95%)",
        "to the floor",
    ]
    return _table(head, rows, "llrrlrr")


def _goals(contests: Sequence[Result]) -> str:
    rows = []
    for contest in contests:
        by_key = _by_key(contest)
        if contest["workload"] != "dense":
            continue
        for ours, theirs, bound, wish in GOALS.get((contest["backend"], contest["batch_size"]), []):
            if not _raced(by_key.get(ours)) or not _raced(by_key.get(theirs)):
                continue
            ratio = statistics.median(_ratios(by_key[ours], by_key[theirs]))
            rows.append(
                [
                    f"{TITLES[contest['backend']]}, batch {contest['batch_size']}",
                    f"{by_key[ours]['name']} / {by_key[theirs]['name']}",
                    f"{ratio:.2f}",
                    f"{bound:.2f}",
                    "" if wish is None else f"{wish:.2f}",
                    "yes" if ratio <= bound else "**no**",
                ]
            )
    head = ["contest", "ratio", "median", "at most", "wished", "reached"]
    return _table(head, rows, "llrrrl") if rows else ""


_WHY = """What explains it:

- With `accumulate`, micro-batches run one after another, each in the same compiled code, so that a
  training which goes on between two of them has the same bits. The steps by hand write four of them
  out in one program, and their framework adds four gradients up at once. Of a `tf.data.Dataset`,
  micro-batches are drawn one by one, where those by hand are cut from a batch four times as large.
- Of `tf.data`, `fit` begins a new pass at each call, as Keras's does, and fills its shuffle buffer
  anew; Orbit goes on with one iterator. Rounds of 0.3 seconds show it at 256 rows: the dense model
  stood at 1.13 (1.10 to 1.14) in them, and stands nearer with `--round-seconds 1.5`.
- On JAX each epoch has about 1 ms of Python in which the device waits: metrics are reset and read,
  the Step is looked at for changes. Epochs of the dense model at 256 rows take 22 ms (`--rows 520`
  makes it plain).
- In batches of 32 the floor on JAX stands at two thirds of the jitted loop by hand, so nothing that
  runs this step can come to 0.60 of it: XLA makes some 47 kernels of it, 1.5 microseconds each
  whoever calls them, three for the update of each variable. No option of its compiler for CPUs
  (vector width, schedulers, libraries, fusion, threads) made it faster by more than 2%.
"""


def _not_ahead(contests: Sequence[Result]) -> str:
    rows = []
    for contest in contests:
        for ours, rivals in _pairings(contest):
            for rival in rivals:
                ratios = _ratios(ours, rival)
                low, high = median_interval(ratios)
                if high <= TOLERATED:
                    continue
                rows.append(
                    [
                        contest["title"],
                        TITLES[contest["backend"]],
                        contest["batch_size"],
                        ours["name"],
                        rival["name"],
                        _ratio(ours, rival),
                        "behind" if low > 1 else "not settled",
                    ]
                )
    fewest = min(contest["rounds"] for contest in contests)
    claim = (
        f"Perigee counts as not slower where the upper end of the interval is at most {TOLERATED}. "
        "On arrays it is held against every other contestant but the floor, on `tf.data` against "
        "those that read `tf.data`."
    )
    if fewest < LEAST_PAIRS:
        claim += f" The claim wants {LEAST_PAIRS} pairs; some of these have {fewest}."
    if not rows:
        return f"{claim} By that it is nowhere slower."
    head = ["workload", "framework", "batch", "Perigee", "other", "ratio (95%)", ""]
    return f"{claim} It is not so here:\n\n{_table(head, rows, 'llrllrl')}\n\n{_WHY}"


def _contest(contest: Result) -> str:
    by_key = _by_key(contest)
    ours = by_key["perigee_arrays"]
    rows = []
    for contestant in sorted(contest["contestants"], key=_median):
        values = contestant["microseconds"]
        spread = f"{_micros(min(values))} to {_micros(max(values))}" if values else "not in rounds"
        logged = contestant["logged"]
        rows.append(
            [
                contestant["name"],
                _micros(_median(contestant)),
                spread,
                "" if contestant is ours or not values else _ratio(ours, contestant),
                f"{contestant['first_epoch_seconds']:.1f}",
                "" if logged is None else f"{logged:.3g}",
            ]
        )
    head = [
        "",
        "median",
        "least to most",
        "Perigee on arrays against it (95%)",
        "first epoch, s",
        "logged",
    ]
    lines = [
        f"#### {contest['title']}, {TITLES[contest['backend']]}, batch {contest['batch_size']}",
        "",
        f"{_count(contest['rounds'], 'round')} of {_count(contest['epochs_a_round'], 'epoch')} of "
        f"{_count(contest['steps_an_epoch'], 'step')}. `{contest['command']}`",
        "",
        _table(head, rows, "lrrrrr"),
    ]
    plans = [
        f"- {c['name']}: {c['plan'].splitlines()[0]}" for c in contest["contestants"] if c["plan"]
    ]
    notes = [f"- {c['name']}: {c['note']}" for c in contest["contestants"] if c["note"]]
    lines += ["", *plans, *notes] if plans or notes else []
    if contest["fit_settings"]:
        lines += ["", _settings(contest["fit_settings"])]
    return "\n".join(lines)


def _settings(settings: Iterable[Result]) -> str:
    tried = [
        f"{s['steps_per_execution']}/{s['jit_compile']}: "
        + (s["abandoned"] or _micros(s["microseconds"]))
        for s in settings
    ]
    return "Settings of `fit` tried (steps an execution/jit_compile): " + "; ".join(tried) + "."


def _by_key(contest: Result) -> dict[str, Result]:
    return {contestant["key"]: contestant for contestant in contest["contestants"]}


def _rivals(contest: Result) -> list[Result]:
    return [
        c
        for c in contest["contestants"]
        if c["microseconds"] and c["key"] != "floor" and not c["key"].startswith("perigee")
    ]


def _pairings(contest: Result) -> Iterator[tuple[Result, list[Result]]]:
    by_key = _by_key(contest)
    yield by_key["perigee_arrays"], _rivals(contest)
    if "perigee_tf_data" in by_key:
        rivals = [by_key[key] for key in ("by_hand", "orbit") if _raced(by_key.get(key))]
        yield by_key["perigee_tf_data"], rivals


def _raced(contestant: Result | None) -> bool:
    return contestant is not None and bool(contestant["microseconds"])


def _median(contestant: Result) -> float:
    values = contestant["microseconds"]
    return statistics.median(values) if values else contestant["warm_up_microseconds"]


def _ratios(ours: Result, theirs: Result) -> list[float]:
    return list(paired_ratios(ours["microseconds"], theirs["microseconds"]))


def _ratio(ours: Result, theirs: Result, digits: int = 2) -> str:
    if not _raced(ours) or not _raced(theirs):
        return ""
    ratios = _ratios(ours, theirs)
    low, high = median_interval(ratios)
    middle = statistics.median(ratios)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


# All the others.


def _others(results: Sequence[Result]) -> Iterator[str]:
    for kind, (title, text, make) in _SECTIONS.items():
        found = sorted((r for r in results if r["kind"] == kind), key=_place)
        if found:
            yield f"## {title}"
            yield text
            yield "\n\n".join(f"{make(result)}\n\n`{result['command']}`" for result in found)


def _fresh_process(result: Result) -> str:
    rows = []
    for way in result["ways"]:
        rows.append(
            [
                way["name"],
                *(
                    f"{statistics.median(run[mark] for run in way['runs']):.1f}"
                    if mark in way["runs"][0]
                    else ""
                    for mark in ("imported", "first_step", "trained")
                ),
                f"{statistics.median(run['peak_mebibytes'] for run in way['runs']):.0f}",
            ]
        )
    epochs = _count(result["epochs"], "epoch")
    head = ["", "imported, s", "first step, s", f"{epochs}, s", "peak memory, MiB"]
    label = f"{TITLES[result['backend']]}, {result['workload']}, batch {result['batch_size']}, "
    label += f"medians of {_count(result['repeats'], 'process', 'processes')}:"
    return f"{label}\n\n{_table(head, rows, 'lrrrr')}"


def _peak_memory(result: Result) -> str:
    least = next(way["models"] for way in result["ways"] if way["key"] == "fit")
    rows = [
        [way["name"], f"{way['models']:.2f}", f"{way['models'] / least:.2f}"]
        for way in result["ways"]
    ]
    table = _table(["", "sizes of the model", "of Keras fit"], rows, "lrr")
    return f"{TITLES[result['backend']]}:\n\n{table}"


def _cost_of_metrics(result: Result) -> str:
    return _columns(result, "num_metrics", "{} metrics")


def _cost_of_data_size(result: Result) -> str:
    return _columns(result, "rows", "{} rows")


def _columns(result: Result, by: str, title: str) -> str:
    """Return a table with a line for each contestant, and a column for each value of `by`."""
    names: dict[str, dict[Any, str]] = {}
    for run in result["runs"]:
        names.setdefault(run["name"], {})[run[by]] = _micros(statistics.median(run["microseconds"]))
    columns = sorted({run[by] for run in result["runs"]})
    rows = [[name, *(cells.get(column, "") for column in columns)] for name, cells in names.items()]
    head = ["microseconds a step", *(title.format(f"{column:,}") for column in columns)]
    label = f"{TITLES[result['backend']]}, batch {result['batch_size']}, "
    label += f"medians of {_count(result['rounds'], 'round')}:"
    return f"{label}\n\n{_table(head, rows, 'l' + 'r' * len(columns))}"


def _long_run(result: Result) -> str:
    first, last = result["first"], result["last"]
    growth = last["resident_mebibytes"] - first["resident_mebibytes"]
    traces = last["calls"] - first["calls"]
    micros = (last["seconds"] - first["seconds"]) / (last["step"] - first["step"]) * 1e6
    return (
        f"{TITLES[result['backend']]}, {result['feed']}, batch {result['batch_size']}: resident "
        f"memory was {first['resident_mebibytes']:.1f} MiB after {first['step']:,} steps and "
        f"{last['resident_mebibytes']:.1f} MiB after {last['step']:,}, {growth:+.1f} MiB. The "
        f"step's Python code had been called {_count(first['calls'], 'time')} by then, to rehearse "
        f"and to trace it, and {_count(traces, 'time')} after that. {_micros(micros)} microseconds "
        "a step, JSON lines and ten checkpoints included."
    )


def _cost_of_writing(result: Result) -> str:
    nothing = result["runs"][0]
    rows = []
    for run in result["runs"]:
        is_first = run is nothing
        rows.append(
            [
                run["name"],
                _micros(statistics.median(run["microseconds"])),
                "" if is_first else _ratio(run, nothing),
            ]
        )
    head = ["written", "microseconds a step", "against nothing (95%)"]
    label = f"{TITLES[result['backend']]}, {result['steps']:,} steps, "
    label += f"a record every {result['every_steps']}, {_count(result['rounds'], 'round')}:"
    missing = "" if result["has_tensorboard"] else "\n\nTensorBoard was not at hand."
    return f"{label}\n\n{_table(head, rows, 'lrr')}{missing}"


def _cost_of_guards(result: Result) -> str:
    without, *others = result["runs"]
    rows = [
        [run["name"], _micros(statistics.median(run["microseconds"])), said]
        for run, said in ((without, ""), *((o, _ratio(o, without, digits=3)) for o in others))
    ]
    head = ["", "microseconds a step", "against without (95%)"]
    label = f"{TITLES[result['backend']]}, batch {result['batch_size']}, {result['steps']:,} "
    label += f"steps, {_count(result['rounds'], 'round')}:"
    return f"{label}\n\n{_table(head, rows, 'lrr')}"


def _cost_of_check(result: Result) -> str:
    rows = [
        [
            title,
            *(
                f"{statistics.median(run[key][unit] for run in result['runs']):.1f}"
                for unit in ("seconds", "processor_seconds")
            ),
        ]
        for key, title in (("first", "the first time"), ("again", "again"))
    ]
    label = f"{TITLES[result['backend']]}, batch {result['batch_size']}, medians of "
    label += f"{_count(result['repeats'], 'process', 'processes')}:"
    return f"{label}\n\n{_table(['', 'seconds', 'of the processor'], rows, 'lrr')}"


def _reliability(result: Result) -> str:
    rows = [
        [name, *(met.get(key, "") for key in ("faults", "lost", "silent"))]
        for name, met in result["faults"].items()
        if met is not None  # where no disk can be mounted
    ]
    label = f"{TITLES[result['backend']]}, {result['seconds']:,} seconds in all:"
    return f"{label}\n\n{_table(['', 'times', 'lost', 'silent'], rows, 'lrrr')}"


def _functions(result: Result) -> str:
    ours = result["runs"][0]
    rows = [
        [
            run["name"],
            _micros(statistics.median(run["microseconds"])),
            "" if run is ours else _ratio(ours, run),
            "" if run is ours else f"{run['limit']:.2f}",
        ]
        for run in result["runs"]
    ]
    head = ["", "microseconds a step", "functions against it (95%)", "at most"]
    label = f"{TITLES[result['backend']]}, batch {result['batch_size']}, blocks of "
    label += f"{result['steps_per_call']} steps, {_count(result['rounds'], 'round')}:"
    return f"{label}\n\n{_table(head, rows, 'lrrr')}"


def _above_the_floor(result: Result) -> str:
    tables = []
    sizes = sorted({run["batch_size"] for run in result["runs"]})
    for group in ("added", "optimizer"):
        lines: dict[str, dict[int, Result]] = {}
        for run in result["runs"]:
            if run["group"] == group:
                lines.setdefault(run["name"], {})[run["batch_size"]] = run
        rows = []
        before: dict[int, Result] | None = None
        for name, runs in lines.items():
            cells = []
            for size in sizes:
                cells.append(_micros(statistics.median(runs[size]["microseconds"])))
                cells.append(_more(runs[size], before[size]) if before else "")
            rows.append([name, *cells])
            if group == "added":
                before = runs
        head = [""]
        for size in sizes:
            head += [f"batch {size}", "more" if group == "added" else ""]
        tables.append(_table(head, rows, "l" + "rr" * len(sizes)))
    return "\n\n".join(tables)


def _more(run: Result, before: Result) -> str:
    """Return the median of the differences, round by round."""
    pairs = zip(run["microseconds"], before["microseconds"], strict=True)
    return f"{statistics.median(a - b for a, b in pairs):+.1f}"


def _replicas(result: Result) -> str:
    names = {"by_hand": "by hand, `tf.data`", "perigee": "Perigee, `tf.data`"}
    names["perigee_arrays"] = "Perigee, arrays"
    rows = [[name, _micros(result[key])] for key, name in names.items()]
    low, high = result["interval"]
    said = (
        f"Over `tf.data`, Perigee takes {result['ratio']:.2f} ({low:.2f} to {high:.2f}) of the "
        f"time by hand, the median of {result['rounds']} rounds with its 95% interval."
    )
    return f"{_table(['', 'microseconds a step'], rows, 'lr')}\n\n{said}"


_SECTIONS = {
    "fresh_process": (
        "Time to the first step, and memory",
        "Each line is a process of its own, and seconds count from its start. The first step is "
        'done when the first call that trains has come back. "Again" finds the plan of the '
        "process before.",
        _fresh_process,
    ),
    "peak_memory": (
        "Peak memory",
        "A dense model of 190 MiB, trained with Adam on arrays, each way in a process of its own: "
        "the largest memory that training added, the model and the optimizer included.",
        _peak_memory,
    ),
    "cost_of_metrics": (
        "What metrics cost",
        "The dense model with no metric (`fit` has its loss even so), with the loss and its "
        "accuracy, and with eight more.",
        _cost_of_metrics,
    ),
    "cost_of_data_size": (
        "What more data costs",
        "The same number of steps of the dense model over more and more rows; `fit` makes whole "
        "epochs.",
        _cost_of_data_size,
    ),
    "long_run": ("A long run", "The dense model, in one call of `fit`.", _long_run),
    "cost_of_writing": (
        "What being told costs",
        "The dense model with a display that is drawn (into memory), JSON lines, and TensorBoard, "
        "from the end of the first epoch to that of the last.",
        _cost_of_writing,
    ),
    "cost_of_guards": (
        "What guards cost, and looking at the state",
        "The dense model, from the end of the first epoch to that of the last.",
        _cost_of_guards,
    ),
    "cost_of_check": (
        "What `check` takes",
        "The digits example, once the framework is imported and the model is built.",
        _cost_of_check,
    ),
    "functions": (
        "Functions as they are",
        "The dense model trained by a tutorial's `train_step(x, y)` with a tape: given to "
        "`FunctionStep`, written as a Step, and in the tutorial's loop over `tf.data`.",
        _functions,
    ),
    "reliability": (
        "What a training survives",
        "A small training is killed, its files are damaged, its disk is full, its directory is "
        "deleted or renamed. Lost is what had been saved and cannot be resumed as if nothing had "
        "happened; silent is what was lost, or other than undisturbed, and was not said.",
        _reliability,
    ),
    "replicas": (
        "Two replicas",
        "A small dense model under `MirroredStrategy` on two logical CPUs, in batches of 32: "
        "the loop that TensorFlow's tutorial writes, one compiled call a step, and Perigee.",
        _replicas,
    ),
    "above_the_floor": (
        "What is left above the floor",
        "The dense step on TensorFlow in a graph loop, with one thing more in each line; "
        '"more" is the median of the differences, round by round. Below: the floor with another '
        "optimizer, and compiled by XLA.",
        _above_the_floor,
    ),
}


# Words and tables.


def _place(result: Result) -> tuple[int, int, int, str]:
    """Return what puts results in order: workload, framework, batch size, feed."""
    workload = result.get("workload")
    order = WORKLOAD_NAMES.index(workload) if workload in WORKLOAD_NAMES else 0
    framework = list(TITLES).index(result["backend"])
    return order, framework, result.get("batch_size", 0), result.get("feed", "")


def _micros(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _table(head: Sequence[Any], rows: Iterable[Sequence[Any]], sides: str) -> str:
    """Return a Markdown table; `sides` has an `l` or an `r` for each column."""
    rules = ["---" if side == "l" else "---:" for side in sides]
    lines = [head, rules, *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    main()
