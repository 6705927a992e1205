"""Errors about what a run writes have four parts, keep their facts, and are caught as usual."""

import re

import pytest

from perigee._errors import (
    LogExistsError,
    LogShortError,
    MissingPackageError,
    RunFileError,
    WriterError,
)
from tests.errors.conftest import FOUR_PARTS


@pytest.mark.parametrize(
    ("error", "facts", "caught_as"),
    [
        (LogShortError, ("a/metrics.jsonl", "3 bytes", "7 bytes"), ValueError),
        (LogExistsError, ("log.csv",), FileExistsError),
        (WriterError, ("metrics", 7, "No space left on device"), OSError),
        (MissingPackageError, ("tensorboard", "TensorBoard's events"), ImportError),
        (RunFileError, ("a/run.json", "it is empty"), ValueError),
    ],
)
def test_the_message_has_four_parts_and_says_every_fact(error, facts, caught_as):
    raised = error(*facts)
    assert isinstance(raised, caught_as)
    form = FOUR_PARTS.format(name=error.__name__, code=error.code)
    assert re.fullmatch(form, str(raised)), str(raised)
    assert all(str(fact) in str(raised) for fact in facts)
    assert set(facts) <= set(vars(raised).values()) | {
        raised.name if hasattr(raised, "name") else 0
    }
