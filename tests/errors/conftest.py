"""What every refusal must leave behind: a message of four parts, and nothing else."""

import re
from collections.abc import Callable
from typing import Any

import keras
import pytest

import perigee as pg
from perigee import _state

FOUR_PARTS = r"{name} \[{code}\]: .+\n(  - .+\n)*Expected: .+\nFix: .+\nMore: perigee explain {code}"

PATCHED = (
    (keras.Layer, ("__call__", "add_loss", "losses")),
    (keras.Loss, ("__call__",)),
    (keras.Metric, ("__call__", "update_state", "reset_state", "result")),
    (keras.Variable, ("value", "assign")),
    (keras.random.SeedGenerator, ("next",)),
)


def methods_of_keras() -> dict[str, Any]:
    """Return what Perigee patches while it looks at a step, as it stands now."""
    return {
        f"{owner.__name__}.{name}": vars(owner).get(name) for owner, names in PATCHED for name in names
    }


def state_of(step: Any) -> dict[int, tuple[str, bytes]]:
    """Return the bits of each variable that a step holds, and its name."""
    if not isinstance(step, pg.Step):
        return {}
    tracked = _state.track(step)
    values = _state.snapshot(tracked.variables)
    return {
        id(entry.variable): (entry.name, value.tobytes())
        for entry, value in zip(tracked.entries, values, strict=True)
    }


@pytest.fixture
def refused(tmp_path) -> Callable[..., pg.PerigeeError]:
    """Return a function that provokes an error, and sees that nothing was changed by it.

    It calls `pg.fit`, or what is given as `by`, and returns the error.
    """

    def provoke(error: type, step: Any, data: Any, *, by: Any = pg.fit, **arguments: Any) -> Any:
        run = tmp_path / "run"
        if by is pg.fit:
            arguments = {"run": run, "progress": "off", **arguments}
        before, methods = state_of(step), methods_of_keras()

        with pytest.raises(error) as caught:
            by(step, data, **arguments)

        raised = caught.value
        assert type(raised) is error
        form = FOUR_PARTS.format(name=error.__name__, code=error.code)
        assert re.fullmatch(form, str(raised)), str(raised)
        after = state_of(step)
        assert {key: after.get(key) for key in before} == before
        assert methods_of_keras() == methods
        assert not run.exists()
        return raised

    return provoke
