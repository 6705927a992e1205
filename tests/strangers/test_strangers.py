"""Programs of strangers run, with the numbers of Keras or of a plain loop."""

import pytest

import perigee as pg
from tests.strangers import corpus

CASES = corpus.cases()


@pytest.mark.corpus
@pytest.mark.spread(12)
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_program_trains_as_it_does_without_perigee(case):
    if case.raises:
        with pytest.raises(pg.PerigeeError) as caught:
            list(corpus.compared(case))
        assert caught.value.code in case.raises
    else:
        different = list(corpus.compared(case))
        assert not different, "\n".join(different)
