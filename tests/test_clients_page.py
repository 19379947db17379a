"""docs/clients.md shows the set-up that the clients' checks try."""

import pytest

from tests.clients import page


def test_the_page_is_written_from_the_checks() -> None:
    assert page.PAGE.read_text() == page.text(), "python -m tests.clients.run --docs writes it anew"


@pytest.mark.parametrize(
    ("code", "suffix", "shown"),
    [
        ("OpenAI(base_url=BASE_URL)", ".py", 'OpenAI(base_url="http://localhost:8000/v1")'),
        ('f"{BASE_URL}/completions"', ".py", '"http://localhost:8000/v1/completions"'),
        ('f"openai/{MODEL}"', ".py", '"openai/nexttoken-tiny"'),
        ("model_name: MODEL", ".yaml", "model_name: nexttoken-tiny"),
        ("MODEL_ID", ".py", "MODEL_ID"),
    ],
)
def test_names_from_the_environment_are_shown_as_values(code: str, suffix: str, shown: str) -> None:
    assert page.shown(code, suffix) == shown
