"""The HTTP API under requests made from its own OpenAPI document, a few of each kind; `make fuzz` sends many."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.http import examine, serving


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_answers_are_what_the_document_says_and_no_request_is_a_fault(tmp_path: Path) -> None:
    """Sound and broken requests to every operation: no fault, every status, type and body documented, tokens asked for."""
    with serving(tmp_path) as url:
        answers, failures = examine(url, examples=4)
    assert failures == []
    assert answers[200] > 20, "sound requests were answered"
    assert answers[401] > 20, "requests without a token were refused"
    assert answers[422] > 5, "broken requests were found broken"
