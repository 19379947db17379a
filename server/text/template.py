"""Chat templates: messages -> the text of a prompt, by the template that came with the model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
import jinja2.meta

from server.text.control_tokens import ControlTokens, Rendered, strings_in, unused_characters
from server.text.sandbox import TemplateError, make_environment

__all__ = ["ChatTemplate", "TemplateError"]

Message = Mapping[str, Any]

_NO_KWARGS: Mapping[str, Any] = MappingProxyType({})


class ChatTemplate:
    """The chat template of one model, or its named templates. Safe to use from several threads."""

    def __init__(
        self,
        sources: Mapping[str, str],
        special_tokens: Mapping[str, str] = _NO_KWARGS,
        control_tokens: Sequence[str] = (),
        *,
        max_chars: int = 32_000_000,
        max_seconds: float = 3.0,
    ) -> None:
        """Compiles the templates.

        `sources` is Jinja text by name: "default" and perhaps "tool_use"; none for a model that is not for chat.
        `special_tokens` are variables of the template ("bos_token" and so on). The spellings in `control_tokens`
        stay plain text when they occur in messages, tools or template arguments. Raises TemplateError for a template
        that doesn't compile.
        """
        environment = make_environment(max_chars, max_seconds)
        self._sources = dict(sources)
        self._templates = {name: _compile(environment, source) for name, source in sources.items()}
        self._special_tokens = dict(special_tokens)
        self._control_tokens = ControlTokens(control_tokens)
        self._max_chars = max_chars
        self._reserved = _RESERVED | special_tokens.keys()
        self.variables = frozenset().union(
            *(jinja2.meta.find_undeclared_variables(environment.parse(source)) for source in sources.values())
        )
        """What the templates read."""

    @property
    def source(self) -> str:
        """The text of the template that is used with tools; empty without one."""
        return self._sources.get("tool_use") or self._sources.get("default") or ""

    @classmethod
    def load(
        cls, directory: Path, special_tokens: Mapping[str, str], control_tokens: Sequence[str] = ()
    ) -> "ChatTemplate":
        """The template of a model directory, found where transformers looks for it.

        The files chat_template.jinja and additional_chat_templates/NAME.jinja go before `chat_template` in
        tokenizer_config.json. Raises TemplateError for a template that doesn't compile.
        """
        return cls(_read_sources(directory), special_tokens, control_tokens)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        kwargs: Mapping[str, Any] = _NO_KWARGS,
    ) -> Rendered:
        """The prompt for `messages`, plain JSON data, as transformers' `apply_chat_template` writes it.

        With `continue_final_message` the prompt ends with the last message's own last word, for the model to go on
        from. `kwargs` are the template's own variables, chosen by the client. Raises TemplateError, with the
        template's own words where it refuses the messages.
        """
        self._check(messages, add_generation_prompt, continue_final_message, kwargs)
        name = self._choose(tools)
        # Absent rather than null: many templates write a null out as "None".
        kept = [{key: value for key, value in message.items() if value is not None} for message in messages]
        inputs = {
            **kwargs,
            "messages": [_with_reasoning_names(message) for message in kept],
            "tools": tools and [dict(tool) for tool in tools],
        }
        start, end, stop = self._choose_marks(inputs, name, continue_final_message)
        if start:
            inputs = {key: self._control_tokens.mark(value, start, end) for key, value in inputs.items()}
        last_words = _append_to_last(inputs["messages"], stop + " ") if stop else ""
        text = self._run(name, {**inputs, "add_generation_prompt": add_generation_prompt})
        if stop:
            text = _cut(text, stop, last_words)
        return self._control_tokens.read(text, start, end) if start else Rendered(text)

    def _check(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool,
        continue_final_message: bool,
        kwargs: Mapping[str, Any],
    ) -> None:
        if not messages:
            raise TemplateError("messages is empty")
        if continue_final_message and add_generation_prompt:
            raise TemplateError("continue_final_message and add_generation_prompt exclude each other")
        for key in kwargs:
            if key in self._reserved:
                raise TemplateError(f"chat_template_kwargs can't set {key!r}: the server sets it")

    def _choose(self, tools: Sequence[Mapping[str, Any]] | None) -> str:
        if not self._templates:
            raise TemplateError(
                "this model has no chat template, so it takes no messages: send a prompt to /v1/completions, or put "
                "a chat_template.jinja into the model's directory"
            )
        if tools is not None and "tool_use" in self._templates:
            return "tool_use"
        if "default" not in self._templates:
            raise TemplateError("none of the model's chat templates is named 'default'")
        return "default"

    def _choose_marks(self, inputs: Mapping[str, Any], name: str, is_continued: bool) -> tuple[str, str, str]:
        """Marks for a client's text and for the place to cut at; each empty where it isn't needed."""
        is_suspect = any(map(self._control_tokens.is_suspect, strings_in(inputs)))
        if not (is_suspect or is_continued):
            return "", "", ""
        try:
            start, end, stop = unused_characters((self._sources[name], *strings_in(inputs)), 3)
        except StopIteration:
            raise TemplateError("the messages use every rare ideograph there is") from None
        return (start if is_suspect else ""), (end if is_suspect else ""), (stop if is_continued else "")

    def _run(self, name: str, variables: Mapping[str, Any]) -> str:
        pieces, size = [], 0
        context = {"documents": None, **self._special_tokens, **variables}
        try:
            for piece in self._templates[name].generate(context):
                size += len(piece)
                if size > self._max_chars:
                    raise TemplateError(f"the model's chat template writes more than {self._max_chars} characters")
                pieces.append(piece)
        except TemplateError:
            raise
        except _FAILURES as error:
            raise TemplateError(f"the model's chat template can't render these messages: {error}") from error
        return "".join(pieces)


def _compile(environment: jinja2.Environment, source: str) -> jinja2.Template:
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"the model's chat template is wrong in line {error.lineno}: {error}") from error


def _read_sources(directory: Path) -> dict[str, str]:
    files = {"default": directory / "chat_template.jinja"}
    for path in sorted((directory / "additional_chat_templates").glob("*.jinja")):
        files[path.stem] = path
    sources = {name: path.read_text(encoding="utf-8") for name, path in files.items() if path.is_file()}
    return sources or _sources_in_config(directory / "tokenizer_config.json")


def _sources_in_config(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    match json.loads(path.read_text(encoding="utf-8")).get("chat_template"):
        case str(source):
            return {"default": source}
        case list(named):
            return {entry["name"]: entry["template"] for entry in named}
        case dict(named):
            return named
        case _:
            return {}


def _with_reasoning_names(message: dict[str, Any]) -> dict[str, Any]:
    """Templates read the reasoning as `reasoning_content`, a few as `thinking`; clients also say `reasoning`."""
    for name in ("reasoning_content", "thinking", "reasoning"):
        if name in message:
            return {"thinking": message[name], **message, "reasoning_content": message[name]}
    return message


def _append_to_last(messages: list[dict[str, Any]], mark: str) -> str:
    """Puts the mark after the last message's text, in place, and returns that text.

    The text is the content, or the last of its parts that has text.
    """
    last = messages[-1] = dict(messages[-1])
    match last.get("content"):
        case str(text):
            last["content"] = text + mark
            return text
        case list(parts):
            parts = last["content"] = list(parts)
            for i in reversed(range(len(parts))):
                if "text" in parts[i]:
                    text = str(parts[i]["text"])
                    parts[i] = {**parts[i], "text": text + mark}
                    return text
    raise TemplateError("continue_final_message is set, but the last message has no text to continue")


def _cut(text: str, mark: str, last_words: str) -> str:
    """`text` up to the mark; without the spaces before it if the template trimmed the one that came after it."""
    before, found, after = text.rpartition(mark)
    if not found or last_words.strip() not in before:
        raise TemplateError("continue_final_message is set, but the chat template leaves the last message out")
    return before if after.startswith(" ") else before.rstrip()


_RESERVED = frozenset(
    {
        "messages",
        "tools",
        "documents",
        "add_generation_prompt",
        "continue_final_message",
        "conversation",
        "chat_template",
        "tokenize",
        "sanitize_control_tokens",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    }
)
"""Variables that the server sets, and the parameters of `apply_chat_template`, which a client has no say in."""

_FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a template, run on messages that it was not written for, can raise."""
