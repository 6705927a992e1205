"""The benchmarks run, compare like with like, and their report says what was measured."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
from benchmarks import contest, render, run_all
from benchmarks.facts import RESULTS, ROOT
from benchmarks.options import WORKLOAD_NAMES
from benchmarks.timing import in_turn, median_interval, paired_ratios
from benchmarks.workloads import WORKLOADS

import perigee as pg

BACKEND = keras.backend.backend()
MOST_APART = 0.02
"""Of the length of an update, how far two ways of computing it may be apart."""


@pytest.fixture(autouse=True)
def _remembers_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# What is compared is the same.


def networks(holder: Any) -> list[keras.Model]:
    """Return the models that a Step, a loop by hand or a model for `fit` trains."""
    holder = getattr(holder, "networks", holder)
    names = [name for name in ("model", "generator", "discriminator") if hasattr(holder, name)]
    return [getattr(holder, name) for name in names] or [holder]


def weights(holder: Any) -> list[np.ndarray]:
    return [
        keras.ops.convert_to_numpy(variable)
        for network in networks(holder)
        for variable in network.trainable_variables
    ]


def begin_alike(holder: Any, other: Any) -> None:
    for network, like in zip(networks(holder), networks(other), strict=True):
        for variable, value in zip(
            network.trainable_variables, like.trainable_variables, strict=True
        ):
            variable.assign(value)


def trained_by_hand(workload: Any, data: Any, start: Any) -> list[np.ndarray]:
    """Train for one update, or one update on all micro-batches."""
    step = getattr(workload, f"{BACKEND}_step")()
    begin_alike(step, start)
    batch = keras.tree.map_structure(keras.ops.convert_to_tensor, data)
    if BACKEND != "jax":
        step.record(step.update(batch))
        return weights(step)
    state = step.update(step.state(), batch)
    found = [*state["generator"], *state["discriminator"]] if "generator" in state else None
    return [np.asarray(value) for value in found or state["weights"]]


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKLOAD_NAMES)
def test_every_way_of_training_a_workload_makes_the_same_update(name):
    batch_size = 16
    workload = WORKLOADS[name]()
    data = workload.data(batch_size * workload.micro_batches)
    arrays = data if isinstance(data, tuple) else (data,)
    step, model = workload.step(), workload.fitted(jit_compile=BACKEND == "jax")
    begin_alike(model, step)
    by_hand = trained_by_hand(workload, data, step)
    before = weights(step)

    pg.fit(
        step,
        data,
        batch_size=batch_size,
        shuffle=False,
        accumulate=workload.micro_batches,
        progress="off",
    )
    model.fit(*arrays, batch_size=batch_size, shuffle=False, verbose=0)

    start, ours, fitted = map(flat, (before, weights(step), weights(model)))
    moved = np.linalg.norm(ours - start)
    assert moved > 1e-3
    # Not closer: the first step of Adam is as long as the learning rate whatever the gradient, and
    # where that is all but zero its sign is a matter of rounding.
    for other in (flat(by_hand), fitted):
        assert np.linalg.norm(ours - other) < MOST_APART * moved


def flat(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays])


# The scripts write what the report reads.


def quick(module: Any, *words: str) -> dict[str, Any]:
    chosen = module.parser().parse_args(["--backend", BACKEND, "--quick", *words])
    # What is written is what JSON keeps of it.
    return json.loads(json.dumps(module.measure(chosen)))


@pytest.mark.slow
def test_a_contest_has_what_the_report_needs():
    result = quick(contest, "dense", "--fit-budget", "0", "--rounds", "2")

    report = render.render([result])

    names = [contestant["name"] for contestant in result["contestants"]]
    assert names[0] == "Perigee, arrays"
    assert "Keras fit" in names
    assert [name for name in names if f"\n| {name} |" not in report] == []
    assert all(len(contestant["microseconds"]) == 2 for contestant in result["contestants"])
    learning = [c["logged"] for c in result["contestants"] if c["key"] != "floor"]
    assert all(0 < loss < 3 for loss in learning)


@pytest.mark.spread(1)
@pytest.mark.skipif(BACKEND == "torch", reason="the others try it")
@pytest.mark.parametrize(
    "name",
    [
        "cost_of_data_size",
        "cost_of_writing",
        "long_run",
        "cost_of_guards",
        pytest.param("cost_of_check", marks=[pytest.mark.slow, pytest.mark.process]),
        pytest.param("cost_of_metrics", marks=pytest.mark.slow),
        pytest.param("fresh_process", marks=[pytest.mark.slow, pytest.mark.process]),
        pytest.param("peak_memory", marks=[pytest.mark.slow, pytest.mark.process]),
        pytest.param("functions", marks=pytest.mark.only_tensorflow),
        pytest.param("above_the_floor", marks=[pytest.mark.slow, pytest.mark.only_tensorflow]),
    ],
)
def test_a_script_has_what_the_report_needs(name):
    result = quick(importlib.import_module(f"benchmarks.{name}"))

    report = render.render([result])

    title, _, _ = render._SECTIONS[name]
    assert result["kind"] == name
    assert f"## {title}" in report


@pytest.mark.slow
@pytest.mark.only_tensorflow
def test_draws_are_measured_in_every_way():
    found = quick(importlib.import_module("benchmarks.draws_in_xla"))

    assert len(found) == 4
    assert all(value > 0 for values in found.values() for value in values)


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.only_tensorflow
def test_replicas_are_measured_in_a_process_that_has_them(tmp_path):
    words = ["--backend", "tensorflow", "--quick", "--out", str(tmp_path)]

    subprocess.run(
        [sys.executable, "-m", "benchmarks.replicas", *words], cwd=ROOT, check=True, timeout=300
    )

    report = render.render(render.read(tmp_path))
    assert "## Two replicas" in report
    assert "Perigee, arrays" in report


def test_every_command_of_a_whole_run_is_understood():
    chosen = run_all.parser().parse_args(["--quick", "--out", "somewhere"])

    jobs = list(run_all.jobs(chosen))

    assert len(jobs) > 24
    for backend, (name, *words) in jobs:
        parser = importlib.import_module(f"benchmarks.{name}").parser()
        assert parser.parse_args(["--backend", backend, *words]).quick


def test_the_report_is_what_the_results_say():
    results = render.read(RESULTS)
    if not results:
        pytest.skip("nothing was measured yet")
    assert render.render(results) == render.REPORT.read_text(encoding="utf-8")


def contest_of(rounds: int, **microseconds: float) -> dict[str, Any]:
    """Return the result of a contest in which every round was the same."""
    return {
        "kind": "contest",
        "backend": "tensorflow",
        "is_quick": False,
        "versions": {"perigee": "1"},
        "machine": {"system": "s", "processor": "p", "cores": 2},
        "command": "c",
        "workload": "dense",
        "title": "dense",
        "batch_size": 32,
        "rows": 1,
        "steps_an_epoch": 1,
        "epochs_a_round": 1,
        "rounds": rounds,
        "contestants": [
            {
                "key": key,
                "name": key,
                "note": "",
                "plan": "",
                "first_epoch_seconds": 1.0,
                "warm_up_microseconds": value,
                "microseconds": [value] * rounds,
                "logged": None,
            }
            for key, value in microseconds.items()
        ],
        "fit_settings": [],
    }


def not_ahead(report: str) -> str:
    return report.partition("### Where Perigee is not ahead")[2].partition("###")[0]


def test_the_readme_says_what_the_results_say():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").split("## Measured")[1].splitlines()
    rows = {"fit": 0, "fit_best": 1, "by_hand": 2, "orbit": 3, "scan": 4}
    table = [line for line in lines if line.startswith("|")][2:]

    for column, backend in ((2, "tensorflow"), (3, "jax")):
        contest = json.loads((RESULTS / f"dense-{backend}-32.json").read_text(encoding="utf-8"))
        by_key = {c["key"]: c["microseconds"] for c in contest["contestants"]}
        said = {key: table[row].split("|")[column].strip() for key, row in rows.items()}
        assert {key: ratio for key, ratio in said.items() if ratio} == {
            key: f"{np.median(paired_ratios(by_key['perigee_arrays'], by_key[key])):.2f}"
            for key in rows
            if key in by_key
        }
    assert len(table) == len(rows)


def test_the_report_says_where_perigee_is_behind():
    report = render.render([contest_of(15, perigee_arrays=110, fit=100, by_hand=200, floor=10)])
    assert "| perigee_arrays | fit | 1.10 (1.10 to 1.10) | behind |" in not_ahead(report)
    assert "by_hand" not in not_ahead(report)
    assert "floor |" not in not_ahead(report)


def test_the_report_says_so_where_perigee_is_nowhere_behind():
    report = render.render([contest_of(15, perigee_arrays=104, fit=100)])
    assert "nowhere slower" in not_ahead(report)


def test_the_report_says_when_pairs_are_too_few():
    report = render.render([contest_of(7, perigee_arrays=100, fit=100)])
    assert "wants 15 pairs; some of these have 7" in not_ahead(report)


# Timing.


@pytest.mark.parametrize(
    ("count", "first"), [(5, 1), (6, 1), (7, 1), (9, 2), (15, 4), (25, 8), (51, 19)]
)
def test_the_interval_of_a_median_has_the_ranks_of_the_tables(count, first):
    # Conover, Practical Nonparametric Statistics, table of the binomial distribution.
    values = list(range(count, 0, -1))
    assert median_interval(values) == (first, count + 1 - first)


def test_runs_take_turns_and_none_always_follows_the_same():
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}

    seconds = in_turn(runs, rounds=3)

    assert "".join(order) == "abcbcacab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}
