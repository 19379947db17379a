"""`prediction`: passed on as tokens to guess from, and accounted for."""

from typing import Any

import pytest

from tests.api.serving import TEXT, TOKENIZER, ask, serve

MESSAGES = [{"role": "user", "content": "x"}]


def chat(served: Any, **fields: Any) -> Any:
    return ask(served, "/v1/chat/completions", {"messages": MESSAGES, **fields})


@pytest.mark.parametrize(
    "content", [TEXT, [{"type": "text", "text": TEXT[:3]}, {"type": "text", "text": TEXT[3:]}]], ids=["text", "parts"]
)
def test_a_prediction_reaches_the_engine_as_tokens_and_changes_no_text(content: Any) -> None:
    served = serve()
    answer = chat(served, prediction={"type": "content", "content": content}).json()
    assert answer["choices"][0]["message"]["content"] == TEXT
    assert served.engine.predictions == [TOKENIZER.encode(TEXT, add_special_tokens=False)]
    details = answer["usage"]["completion_tokens_details"]
    assert details["accepted_prediction_tokens"] == details["rejected_prediction_tokens"] == 0


def test_a_prediction_longer_than_any_answer_is_cut() -> None:
    served = serve(max_model_len=64)
    assert chat(served, prediction={"type": "content", "content": "word " * 5000}).status_code == 200
    assert len(served.engine.predictions[0]) == 64


@pytest.mark.parametrize(
    ("prediction", "param"),
    [
        ("text", "prediction"),
        ({"type": "content"}, "prediction.content"),
        ({"type": "other", "content": "x"}, "prediction.type"),
        ({"type": "content", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "prediction.content"),
    ],
)
def test_a_prediction_of_another_form_is_refused_by_name(prediction: Any, param: str) -> None:
    response = chat(serve(), prediction=prediction)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(param)
