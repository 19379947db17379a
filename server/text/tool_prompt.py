"""Tells a model of tools where its chat template doesn't, in Hermes' dialect."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from server.text.tool_formats.hermes import CLOSING, OPENING

Message = Mapping[str, Any]

_INTRODUCTION = f"""You can call these tools, each described by a JSON object:
<tools>
%s
</tools>
To call one, write its name and its arguments as JSON, like this:
{OPENING}
{{"name": "tool", "arguments": {{"argument": "value"}}}}
{CLOSING}"""


def with_tools_in_text(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The messages with the tools described in the system message, and calls and their results written as text."""
    written = [_in_text(message) for message in messages]
    if not tools:
        return written
    introduction = _INTRODUCTION % "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    if written and written[0]["role"] == "system":
        first, *written = written
        introduction = f"{first['content']}\n\n{introduction}"
    return [{"role": "system", "content": introduction}, *written]


def _in_text(message: Message) -> Message:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = [f"{OPENING}\n{_as_json(call['function'])}\n{CLOSING}" for call in calls]
    content = "\n".join(filter(None, (message["content"], *written)))
    return {key: value for key, value in message.items() if key != "tool_calls"} | {"content": content}


def _as_json(function: Mapping[str, Any]) -> str:
    return json.dumps({"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False)
