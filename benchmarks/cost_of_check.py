"""What `check` takes, once the framework is imported and the model is built.

The digits example, as it stands, each time in a process of its own. "Again" is a second check of
the same Step, which finds what the framework has made ready.

With `--programs`, also programs of `tests/examination`, in one process: the first check of each,
beside the first training of another copy of it, to the end of its first epoch and to its own end,
in seconds of the processor, in turn.

    python -m benchmarks.cost_of_check --backend tensorflow --programs 40
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks import options
from benchmarks.facts import ROOT, facts, write

if TYPE_CHECKING:
    from tests.examination.programs import Program

BATCH_SIZE = 64
SEED, WORST = 7, 5


def parser() -> argparse.ArgumentParser:
    made = options.parser(__doc__)
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--programs", type=int, default=0, help="so many programs beside the example")
    made.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return made


def main() -> None:
    if "--child" in sys.argv:  # what the parent chose stands in the environment already
        print(json.dumps(checked()))
        return
    chosen = options.parse(parser())
    result = measure(chosen)
    for run in result["runs"]:
        print(run)
    if result["programs"]:
        print("\n".join(told(result["programs"])))
    write(result, f"cost_of_check-{chosen.backend}", chosen.out)


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Start the processes, one after another, and return what the report needs of them."""
    repeats = 1 if chosen.quick else chosen.repeats
    return {
        "kind": "cost_of_check",
        **facts(chosen.backend),
        "batch_size": BATCH_SIZE,
        "repeats": repeats,
        "runs": [_fresh() for _ in range(repeats)],
        "programs": list(beside_fit(min(chosen.programs, 2) if chosen.quick else chosen.programs)),
    }


def _fresh() -> dict[str, Any]:
    words = [sys.executable, "-m", "benchmarks.cost_of_check", "--child"]
    ran = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    if ran.returncode:
        raise RuntimeError(f"The process failed:\n{ran.stderr}")
    return json.loads(ran.stdout.splitlines()[-1])


def checked() -> dict[str, Any]:
    """Check the example twice, and return what each time took, and what was found."""
    import keras
    from examples import digits

    import perigee as pg

    keras.utils.set_random_seed(digits.SEED)
    data, _ = digits.load_data()
    step = digits.Agreement(digits.make_model())
    # The framework starts with its first operation.
    keras.ops.convert_to_numpy(keras.ops.ones((2, 2)) + 1.0)
    found: dict[str, Any] = {}
    for name in ("first", "again"):
        wall, processor = time.perf_counter(), time.process_time()
        report = pg.check(step, data, batch_size=BATCH_SIZE)
        found[name] = {
            "seconds": round(time.perf_counter() - wall, 3),
            "processor_seconds": round(time.process_time() - processor, 3),
            "findings": [finding.code for finding in report],
        }
    return found


def beside_fit(count: int) -> Iterator[dict[str, Any]]:
    """Yield what each of some programs took: its check, the first epoch of `fit`, all of `fit`."""
    if not count:
        return
    from tests.examination.programs import Examination, programs

    warnings.simplefilter("ignore")
    known = [program for program in programs() if not program.is_held_out]
    first, *chosen = random.Random(SEED).sample(known, min(count + 1, len(known)))
    for by in (Examination(), _timed()):  # the framework starts with its first program
        _processor_seconds(first, by)
    for turn, program in enumerate(chosen):
        took: dict[str, Any] = {"name": program.name}
        by = _timed()
        for name, user in (("check", Examination()), ("fit", by))[:: 1 if turn % 2 else -1]:
            took[name] = _processor_seconds(program, user)
        took["epoch"] = round(by.first_epoch_seconds, 3)
        print(took, flush=True)
        yield took


def _processor_seconds(program: Program, by: Any) -> float:
    """Return the time from where a program begins to train, or to be checked, to its end."""
    import keras

    from tests.examination.programs import SEED as OF_PROGRAMS
    from tests.examination.programs import Examined

    keras.utils.set_random_seed(OF_PROGRAMS)
    keras.utils.clear_session()
    by.began, own = 0.0, by.fit

    def fit(*args: Any, **given: Any) -> Any:
        by.began = by.began or time.process_time()
        return own(*args, **given)

    by.fit = fit
    with contextlib.suppress(Examined):
        program.run(by)
    return round(time.process_time() - by.began, 3)


def _timed() -> Any:
    """Return what trains a program, and knows when its first epoch has ended."""
    import keras

    from tests.examination.programs import Training

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            by.first_epoch_seconds = by.first_epoch_seconds or time.process_time() - by.began

    class Timed(Training):
        began = first_epoch_seconds = 0.0

        def fit(self, target: Any, *args: Any, **given: Any) -> Any:
            quiet = {} if isinstance(target, keras.Model) else {"progress": "off"}
            given["callbacks"] = [*(given.get("callbacks") or ()), Watch()]
            return super().fit(target, *args, **quiet, **given)

    by = Timed()
    return by


def told(programs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield how `check` compares with `fit`, and the programs where it takes most."""
    for against, words in (("epoch", "the first epoch of fit"), ("fit", "all of fit")):
        ratios = sorted(each["check"] / each[against] for each in programs if each[against])
        low, middle, high = (
            statistics.quantiles(ratios, method="inclusive") if len(ratios) > 1 else 3 * ratios
        )
        yield f"check against {words}: median {middle:.2f}, quartiles {low:.2f} and {high:.2f}"
    yield "seconds of the processor: check, first epoch, all of fit; the worst ones"
    for each in sorted(programs, key=lambda each: -each["check"] / (each["epoch"] or 1e9))[:WORST]:
        yield f"  {each['check']:6.2f} {each['epoch']:6.2f} {each['fit']:6.2f}  {each['name']}"


if __name__ == "__main__":
    main()
