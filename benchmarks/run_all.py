"""Run every benchmark, each in a process of its own, one after another, and write the report.

The machine should do nothing else meanwhile. JSON goes to `benchmarks/results`, and the report,
made from that alone, to `benchmarks/RESULTS.md`.

    python -m benchmarks.run_all
    python -m benchmarks.run_all --quick --out somewhere    # a smoke test
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import options, render
from benchmarks.facts import RESULTS, ROOT

BATCH_SIZES = (32, 256)


def main() -> None:
    chosen = parser().parse_args()
    if chosen.quick and chosen.out is None:
        raise SystemExit("--quick needs --out: its figures must not replace measured ones.")
    began, failed = time.perf_counter(), []
    for backend, words in jobs(chosen):
        if not _run(backend, words, chosen.out):
            failed.append(" ".join(words))
    out = chosen.out or RESULTS
    report = render.REPORT if chosen.out is None else out / "RESULTS.md"
    report.write_text(render.render(render.read(out)), encoding="utf-8")
    print(f"{time.perf_counter() - began:.0f} s in all")
    if failed:
        raise SystemExit("These failed:\n  " + "\n  ".join(failed))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--backends", nargs="+", default=["tensorflow", "jax"])
    made.add_argument(
        "--workloads", nargs="*", default=options.WORKLOAD_NAMES, choices=options.WORKLOAD_NAMES
    )
    made.add_argument("--batch-sizes", nargs="+", type=int, default=BATCH_SIZES)
    made.add_argument("--contests-only", action="store_true", help="leave out all but contests")
    made.add_argument("--rounds", type=int, help="of the contests")
    made.add_argument("--orbit", type=Path, help="a folder that holds Orbit")
    made.add_argument("--quick", action="store_true", help="a smoke test: figures mean nothing")
    made.add_argument("--out", type=Path, help="the folder for the JSON; benchmarks/results")
    return made


def jobs(chosen: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Yield the framework and the command of every process, in order."""
    quick = ["--quick"] if chosen.quick else []
    rounds = ["--rounds", str(chosen.rounds)] if chosen.rounds else []
    for backend in chosen.backends:
        orbit = ["--orbit", str(chosen.orbit)] if chosen.orbit and backend == "tensorflow" else []
        for workload in chosen.workloads:
            for batch_size in chosen.batch_sizes:
                words = ["contest", workload, "--batch-size", str(batch_size)]
                yield backend, words + rounds + orbit + quick
        if chosen.contests_only:
            continue
        yield backend, ["cost_of_check", *quick]
        for batch_size in chosen.batch_sizes:
            yield backend, ["cost_of_guards", "--batch-size", str(batch_size), *quick]
        if backend == "torch":
            continue
        for name in (
            "fresh_process",
            "peak_memory",
            "cost_of_metrics",
            "cost_of_data_size",
            "cost_of_writing",
        ):
            yield backend, [name, *quick]
        feeds = ("arrays", "tf.data") if backend == "tensorflow" else ("arrays",)
        for feed in feeds:
            yield backend, ["long_run", "--feed", feed, *quick]
        if backend == "tensorflow":
            yield backend, ["above_the_floor", *quick]
            yield backend, ["functions", *quick]
            yield backend, ["replicas", *quick]


def _run(backend: str, words: list[str], out: Path | None) -> bool:
    command = [sys.executable, "-m", f"benchmarks.{words[0]}", "--backend", backend, *words[1:]]
    command += ["--out", str(out.resolve())] if out else []
    print(f"== {backend}: {' '.join(words)}", flush=True)
    began = time.perf_counter()
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONHASHSEED": "0"}
    code = subprocess.run(command, cwd=ROOT, env=environment).returncode
    print(f"   {time.perf_counter() - began:.0f} s", flush=True)
    return code == 0


if __name__ == "__main__":
    main()
