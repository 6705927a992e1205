"""What every refusal must leave behind: a message of four parts, and nothing else."""

import re
from collections.abc import Callable
from typing import Any

import pytest

import perigee as pg
from tests.errors.untouched import methods_of_keras, state_of

FOUR_PARTS = (
    r"{name} \[{code}\]: .+\n(  - .+\n)*Expected: .+\nFix: .+\nMore: perigee explain {code}"
)


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
