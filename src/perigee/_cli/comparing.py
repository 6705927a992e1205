"""`perigee bench` and `perigee parity`: compare execution modes, or a step with another."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perigee._cli.answering import answering
from perigee._cli.experiments import Settings, experiment_of, imported, opened
from perigee._cli.files import FileError, needed_by, similar, split
from perigee._cli.training import BatchSize, File, Seed, Set, fit_arguments, seed_all

if TYPE_CHECKING:
    from perigee._api.experiment import Experiment
    from perigee._backends import Mode
    from perigee._execution import Execution

_NOT_TIMED = (
    *("epochs", "steps", "run", "callbacks", "progress", "seed", "execution"),
    *("validate_every", "validation_steps"),
)


@answering
def bench(
    file: File,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each measurement.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each mode, alternating.")] = 5,
    batch_size: BatchSize = None,
    seed: Seed = None,
    set_: Set = None,
) -> None:
    """Time the step of FILE in each execution mode; saves nothing.

    Compiling is not counted, and nothing is validated or saved. Only times measured together are
    comparable: the last column is the speed of each mode relative to the first. The measurement
    that is running is named on the standard error stream.
    """
    settings = Settings.parsed(set_ or ())
    with opened(file) as experiment:
        arguments = fit_arguments(experiment, {"batch_size": batch_size, "seed": seed}, None, None)
        given_seed = arguments.get("seed")
        for name in _NOT_TIMED:
            arguments.pop(name, None)
        ways = [_Way(experiment, settings, execution, given_seed) for execution in _executions()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `perigee check` reports findings
            for turn in range(rounds + 1):  # the first one compiles
                for way in ways:
                    if way.failure is None:
                        what = f"round {turn} of {rounds}" if turn else "compiling"
                        typer.echo(f"{what}: {way.name}", err=True)
                    way.measure(steps, arguments)
    typer.echo(_table(ways))


def _executions() -> list[Execution]:
    """Return every execution mode on this framework, the usual one first."""
    import perigee as pg
    from perigee._backends import MOST_STEPS_A_BLOCK, current

    capabilities = current().capabilities
    singly: list[tuple[Mode, bool]] = [(mode, False) for mode in capabilities.modes]
    plans = [*capabilities.plans, *singly]
    return [
        pg.Execution(mode, MOST_STEPS_A_BLOCK if is_fused else 1)
        for mode, is_fused in dict.fromkeys(plans)
    ]


class _Way:
    """An execution mode, and its measurements."""

    def __init__(
        self, experiment: Experiment, settings: Settings, execution: Execution, seed: int | None
    ) -> None:
        self.execution = execution
        self.rates: list[float] = []
        self.spent: dict[str, float] = {}
        self.failure: str | None = None
        self._experiment, self._settings = experiment, settings
        seed_all(seed)
        self._step = experiment.make_step(settings.step)
        self._data = experiment.make_data("data", settings.data)
        self._is_warm = False

    @property
    def name(self) -> str:
        """Its readable name."""
        many = "one step" if self.execution.steps_per_call == 1 else "many steps"
        return f"{self.execution.mode}, {many} per call"

    def measure(self, steps: int, arguments: Mapping[str, Any]) -> None:
        """Train for some steps; the first time does not count."""
        from perigee._api.fit import fit

        if self.failure is not None:
            return
        if isinstance(self._data, Iterator):
            self._data = self._experiment.make_data("data", self._settings.data)
        own: dict[str, Any] = {"execution": self.execution, "progress": "off", "seed": 0}
        try:
            history = fit(self._step, self._data, steps=steps, **arguments, **own)
        except Exception as error:
            if self.execution.mode != "xla":  # whose compiler supports less than the others
                raise
            self.failure = f"skipped: {type(error).__name__}"
            return
        if self._is_warm:
            spent = {name: s for name, s in history.spent.items() if name != "compiling"}
            self.rates.append(steps / sum(spent.values()))
            for name, seconds in spent.items():
                self.spent[name] = self.spent.get(name, 0.0) + seconds
        self._is_warm = True


def _table(ways: Sequence[_Way]) -> str:
    from statistics import median  # slow to import

    first = median(ways[0].rates)
    rows = [("", "steps/s", "ratio")]
    for way in ways:
        if way.failure is not None:
            rows.append((way.name, way.failure, ""))
            continue
        rate = median(way.rates)
        rows.append((way.name, f"{rate:.4g}", f"{rate / first:.2f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"{name.ljust(widths[0])}  {rate.rjust(widths[1])}  {ratio.rjust(widths[2])}".rstrip()
        for name, rate, ratio in rows
    ]
    timed = [way for way in ways if way.failure is None]
    best = max(timed, key=lambda way: median(way.rates))
    total = sum(best.spent.values())
    shares = ", ".join(
        f"{name} {100 * seconds / total:.1f} %"
        for name, seconds in sorted(best.spent.items(), key=lambda item: -item[1])
        if seconds > 0
    )
    return "\n".join([*lines, f"Time spent ({best.name}): {shares}."])


@answering
def parity(
    file: File,
    against: Annotated[
        str,
        typer.Argument(
            metavar="AGAINST",
            help="A name in FILE, or another FILE:NAME: an experiment, a Step, a compiled model, a "
            "function without arguments that returns one of them, or a function of a batch.",
        ),
    ],
    steps: Annotated[int, typer.Option(min=1, help="Steps to compare.")] = 20,
    batch_size: BatchSize = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Largest difference of an update, relative to it.")
    ] = 1e-4,
    seed: Seed = None,
    set_: Set = None,
) -> None:
    """Check that FILE trains like something else, step by step.

    The exit status is 0 if the two are equal, and 1 if they differ, with the step, the variable and
    the likely cause.
    """
    settings = Settings.parsed(set_ or ())
    path, name = split(file)
    with ExitStack() as stack:
        names = stack.enter_context(imported(path))
        experiment = experiment_of(path, name, names)
        arguments = fit_arguments(experiment, {"batch_size": batch_size, "seed": seed}, None, None)
        seed_all(arguments.get("seed"))
        other, holds = _other(*_named(against, path, names, stack))
        from perigee.testing import parity as compare

        report = compare(
            experiment.make_step(settings.step),
            other,
            experiment.make_data("data", settings.data),
            steps,
            batch_size=arguments.get("batch_size"),
            holds=holds,
            tolerance=tolerance,
        )
    typer.echo(str(report))
    if not report:
        raise typer.Exit(1)


def _named(
    given: str, path: Path, names: dict[str, Any], stack: ExitStack
) -> tuple[Path, str, Any]:
    """Return the object to compare the experiment with, and its file."""
    other, name = split(given)
    if given.isidentifier() and not other.exists():
        other, name = path, given
    else:
        names = stack.enter_context(imported(other))
    if name is None:
        return other, "experiment", experiment_of(other, name, names)
    if name not in names:
        raise FileError(f"{other} has no {name!r}.{similar(name, names)}")
    return other, name, names[name]


def _other(path: Path, name: str, found: Any) -> tuple[Any, Any]:
    """Return a Step, a model or a function of a batch, and the objects it uses, if given."""
    import keras

    from perigee._api.experiment import Experiment
    from perigee._step.step import Step

    if isinstance(found, Experiment):
        return found.make_step(), None
    if (inspect.isfunction(found) or inspect.isclass(found)) and not needed_by(found):
        found = found()
    holds = None
    if isinstance(found, tuple) and len(found) == 2:
        found, holds = found
    if not isinstance(found, Step | keras.Model) and not callable(found):
        raise FileError(
            f"{path}:{name} provides a {type(found).__name__}, not an experiment, Step, compiled "
            "model or function of a batch."
        )
    return found, holds
