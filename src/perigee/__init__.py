"""Custom training steps for Keras 3 models: compiled, fed, checked, measured and logged.

Importing this module imports no framework: each name is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from perigee._errors import PerigeeError as PerigeeError
from perigee._errors import PerigeeWarning as PerigeeWarning
from perigee._version import __version__ as __version__

if TYPE_CHECKING:
    from perigee._averages import Average as Average
    from perigee._averages import mean as mean
    from perigee._check import check as check
    from perigee._copies import copy_of as copy_of
    from perigee._events import Hook as Hook
    from perigee._execution import Execution as Execution
    from perigee._experiment import Experiment as Experiment
    from perigee._keras_fit import keras_fit as keras_fit
    from perigee._preemption import Preemption as Preemption
    from perigee._prepared import prepare as prepare
    from perigee._run import evaluate as evaluate
    from perigee._run import fit as fit
    from perigee._run import predict as predict
    from perigee._runs import Run as Run
    from perigee._samples import sample as sample
    from perigee._schedule import Every as Every
    from perigee._step import Step as Step
    from perigee.diagnostics import Finding as Finding
    from perigee.diagnostics import Report as Report
    from perigee.steps.alternate import alternate as alternate
    from perigee.steps.keras_step import KerasStep as KerasStep
    from perigee.steps.supervised import Supervised as Supervised
    from perigee.writers.history import History as History

_HOMES = {
    "Average": "perigee._averages",
    "mean": "perigee._averages",
    "check": "perigee._check",
    "copy_of": "perigee._copies",
    "Hook": "perigee._events",
    "Experiment": "perigee._experiment",
    "Execution": "perigee._execution",
    "keras_fit": "perigee._keras_fit",
    "Preemption": "perigee._preemption",
    "prepare": "perigee._prepared",
    "Run": "perigee._runs",
    "evaluate": "perigee._run",
    "fit": "perigee._run",
    "predict": "perigee._run",
    "sample": "perigee._samples",
    "Every": "perigee._schedule",
    "Step": "perigee._step",
    "Finding": "perigee.diagnostics",
    "Report": "perigee.diagnostics",
    "alternate": "perigee.steps.alternate",
    "KerasStep": "perigee.steps.keras_step",
    "Supervised": "perigee.steps.supervised",
    "History": "perigee.writers.history",
}

__all__ = ["PerigeeError", "PerigeeWarning", "__version__", *sorted(_HOMES)]  # pyright: ignore


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'perigee' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
