"""The code on a page of the documentation runs, and prints what the page says."""

import pytest

from tests.project.pages import blocks_of, run_page


@pytest.mark.parametrize(
    "page",
    [
        pytest.param("from_a_hand_written_loop.md", marks=pytest.mark.only_tensorflow),
        pytest.param("torch.md", marks=pytest.mark.only_torch),
    ],
)
def test_the_code_of_a_page_runs_and_prints_what_it_shows(page):
    shown = run_page(page)

    assert {language for language, _, _ in blocks_of(page)} == {"python", "text"}
    missing = [(line, text) for line, text, printed in shown if text.strip() not in printed]
    assert missing == []
