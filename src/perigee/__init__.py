"""Custom training steps for Keras 3 models: compiled, fed, checked, measured and logged.

Importing this module imports no framework: each name is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from perigee._errors import PerigeeError as PerigeeError
from perigee._errors import PerigeeWarning as PerigeeWarning
from perigee._version import __version__ as __version__

if TYPE_CHECKING:
    from perigee._api.check import check as check
    from perigee._api.evaluate import evaluate as evaluate
    from perigee._api.evaluate import predict as predict
    from perigee._api.experiment import Experiment as Experiment
    from perigee._api.fit import fit as fit
    from perigee._api.keras_fit import keras_fit as keras_fit
    from perigee._api.prepare import prepare as prepare
    from perigee._events.deadlines import Preemption as Preemption
    from perigee._events.events import Hook as Hook
    from perigee._events.schedule import Every as Every
    from perigee._execution import Execution as Execution
    from perigee._runs.run import Run as Run
    from perigee._step.averages import Average as Average
    from perigee._step.averages import mean as mean
    from perigee._step.copies import copy_of as copy_of
    from perigee._step.samples import sample as sample
    from perigee._step.step import Step as Step
    from perigee.diagnostics import Finding as Finding
    from perigee.diagnostics import Report as Report
    from perigee.steps.alternate import alternate as alternate
    from perigee.steps.function_step import FunctionStep as FunctionStep
    from perigee.steps.keras_step import KerasStep as KerasStep
    from perigee.steps.supervised import Supervised as Supervised
    from perigee.writers.history import History as History

_HOMES = {
    "Average": "perigee._step.averages",
    "mean": "perigee._step.averages",
    "check": "perigee._api.check",
    "copy_of": "perigee._step.copies",
    "Hook": "perigee._events.events",
    "Experiment": "perigee._api.experiment",
    "Execution": "perigee._execution",
    "keras_fit": "perigee._api.keras_fit",
    "Preemption": "perigee._events.deadlines",
    "prepare": "perigee._api.prepare",
    "Run": "perigee._runs.run",
    "evaluate": "perigee._api.evaluate",
    "fit": "perigee._api.fit",
    "predict": "perigee._api.evaluate",
    "sample": "perigee._step.samples",
    "Every": "perigee._events.schedule",
    "Step": "perigee._step.step",
    "Finding": "perigee.diagnostics",
    "Report": "perigee.diagnostics",
    "alternate": "perigee.steps.alternate",
    "FunctionStep": "perigee.steps.function_step",
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
