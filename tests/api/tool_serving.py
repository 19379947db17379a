"""An app whose model calls tools and thinks, and what came of its answers."""

from typing import Any

from server.app import create_app
from server.served import ServedModel, ServedModels
from server.settings import Settings
from server.text.dialect import dialect_of
from server.text.template import ChatTemplate
from tests.api.serving import TOKENIZER, Served, chat
from tests.api.test_openai_schemas import CHAT, CHUNK
from tests.fakes import TEMPLATE, ScriptedEngine, says

PATH = "/v1/chat/completions"
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather.",
            "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
FUNCTIONS = [tool["function"] for tool in TOOLS]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"town": "Köln"}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
THOUGHT = "<think>\nLet me think.\n</think>\n\n"
HERMES = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function.name }}:"
    "{{ call.function.arguments.town or call.function.arguments }}:{{ call.id }}</tool_call>{% endfor %}"
    "{% if message.tool_call_id %}({{ message.tool_call_id }}){% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking %}<think>\n{% endif %}{% endif %}"
)
MISTRAL = HERMES.replace("<tool_call>", "[TOOL_CALLS]").replace("</tool_call>", "[ARGS]")
TEMPLATES = {"hermes": HERMES, "thinking": HERMES, "mistral": MISTRAL, "plain": TEMPLATE, "unknown": "{{ tools }}"}


def tool_server(text: str, template: str = "hermes", max_model_len: int = 4096, **parsers: str) -> Served:
    """An app whose model says this, and whose template knows tools."""
    engine = ScriptedEngine(says(TOKENIZER, text), max_model_len=max_model_len)
    parsers = {"reasoning_parser": "auto" if template == "thinking" else "none", **parsers}
    jinja = ChatTemplate({"default": TEMPLATES[template]}, TOKENIZER.special_tokens, TOKENIZER.control_tokens)
    dialect = dialect_of(jinja, **parsers)
    model = ServedModel(("tiny",), TOKENIZER, jinja, engine, created=1, dialect=dialect)
    return Served(create_app(Settings(), ServedModels([model]), version="0.0.0"), engine, model)


def prompt_of(served: Served, **body: Any) -> str:
    """The prompt that the model reads."""
    seen: list[list[int]] = []
    script = served.engine.script
    served.engine.script = lambda prompt, *rest: (seen.append(list(prompt)), script(prompt, *rest))[1]
    chat(served, **body)
    return TOKENIZER.decode(seen[0], skip_special_tokens=False)


def only(answer: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Message and finish_reason of an answer of one choice, which fits OpenAI's schema."""
    CHAT.validate(answer)
    [choice] = answer["choices"]
    return choice["message"], choice["finish_reason"]


def add_up(chunks: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """The same of a stream, as clients add it up."""
    message: dict[str, Any] = {"content": "", "calls": []}
    reason = ""
    for chunk in chunks:
        CHUNK.validate(chunk)
        for choice in chunk["choices"]:
            assert not reason
            delta, reason = choice["delta"], choice["finish_reason"]
            assert delta.get("reasoning") == delta.get("reasoning_content")
            for name in ("content", "reasoning"):
                message[name] = message.get(name, "") + delta.get(name, "")
            for call in delta.get("tool_calls", []):
                if "id" in call:
                    assert call["index"] == len(message["calls"])
                    assert call["type"] == "function"
                    assert call["function"]["arguments"] == ""
                    message["calls"].append(call)
                else:
                    assert set(call) == {"index", "function"}
                    assert set(call["function"]) == {"arguments"}
                    message["calls"][call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    return message, reason


def called(message: dict[str, Any]) -> list[tuple[str, str]]:
    calls = message.get("tool_calls", message.get("calls", []))
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
