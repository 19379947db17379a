"""Writes the grammar of an answer that may hold thoughts, tool calls and text of a form, in llguidance's Lark."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from server.text.channels import ChannelPlan

# Up to this much white space between thoughts and what comes after them.
_BLANK = r"/[ \n]{0,4}/"

_Before = Callable[[str], str]
"""The name of a tool -> what a call writes before its arguments, as a term of the grammar."""


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """What an answer must be."""

    plan: ChannelPlan
    parameters: Mapping[str, str]
    """By the name of the tool: its arguments, as a term of the grammar."""
    is_required: bool = False
    """Whether it must be a call."""
    form: str | None = None
    """What it must be if it is not a call, as a term of the grammar."""


def answer_grammar(rules: AnswerRules, special_ids: Mapping[str, int]) -> str | None:
    """The grammar; None where nothing is enforced.

    A call that is not required is enforced from its mark on or, in a dialect whose calls begin without one, from the
    beginning of its arguments; there must be a mark if there is a form, which a call could be taken for. `special_ids`:
    the ids of those marks of the plan that are special tokens, which a string in a grammar never matches.
    """
    writer = _Writer(rules, special_ids)
    tool_format = rules.plan.tool_format
    mark = tool_format.mark if tool_format is not None else None
    if rules.is_required:
        writer.start("calls")
    elif rules.form is not None:
        assert mark is not None or tool_format is None
        writer.start("form" if tool_format is None else "(calls | form)")
    elif mark is not None:
        writer.start_with_text(mark)
    elif tool_format is not None:
        writer.start_with_call_or_text(tool_format.markers)
    else:
        return None
    return "\n".join(writer.lines) + "\n"


class _Writer:
    def __init__(self, rules: AnswerRules, special_ids: Mapping[str, int]) -> None:
        self.lines: list[str] = []
        self._rules = rules
        self._tags = rules.plan.tags
        self._special_ids = special_ids
        self._syntax = rules.plan.tool_format.syntax if rules.plan.tool_format is not None else None

    def start(self, rest: str) -> None:
        """Thoughts, if there are any, and then this."""
        self.lines.append(f"start: {self._thoughts()} {rest}")
        if "calls" in rest:
            self._calls(self._syntax.opening if self._syntax is not None else ())
        if self._rules.form is not None:
            self.lines.append(f"form: {self._rules.form}")

    def start_with_text(self, mark: str) -> None:
        """Any text, and a call wherever its mark comes."""
        # Where the tags are no special tokens, thoughts are a part of the text.
        has_tags = self._tags is not None and self._tags.closing in self._special_ids
        start = f"start: {self._thoughts()}" if has_tags else "start:"
        if mark in self._special_ids:
            self.lines += [f"{start} TEXT? ({self._term(mark)} calls TEXT?)*", "TEXT: /(?s:.+)/"]
        else:
            # Lazily, so that the first mark ends it.
            escaped = re.escape(mark).replace("/", r"\/")
            self.lines += [
                f"{start} (text calls)* REST",
                f"text[lazy]: /(?s:.*){escaped}/",
                f"REST: /(?s:.*)/ & ~/(?s:.*){escaped}(?s:.*)/",
            ]
        assert self._syntax is not None
        opening, before = self._syntax.opening, self._syntax.before
        self._calls(opening[1:], None if opening else self._written(before[1:]))

    def start_with_call_or_text(self, tags: Sequence[str]) -> None:
        """Any text, but calls if it begins like one, and after a tag that is a special token."""
        assert self._syntax is not None
        spelling = self._syntax.spelling
        # A lexer takes all the text that it can, so text is what begins neither like a call nor like a thought.
        others = [spelling.replace("NAME", f"({'|'.join(self._rules.parameters)})")]
        if self._tags is not None and not self._rules.plan.is_thinking:
            others.append(re.escape(self._tags.opening))
        answers = ["TEXT", "calls", *(f"TEXT {self._term(tag)} calls" for tag in tags if tag in self._special_ids)]
        self.lines += [
            f"start: {self._thoughts()} ({' | '.join(answers)})",
            f"TEXT: /(?s:.*)/ & ~/\\s*({'|'.join(others)})(?s:.*)/",
        ]
        self._calls((), lambda tool: f"/\\s*{spelling.replace('NAME', tool)}/")

    def _thoughts(self) -> str:
        """The term for thoughts, whose rules are written."""
        if self._tags is None:
            return ""
        if self._tags.closing in self._special_ids:
            self.lines += [f"thoughts: THOUGHT? {self._term(self._tags.closing)} BLANK", "THOUGHT: /(?s:.+)/"]
        else:
            self.lines += ["thoughts: thought BLANK", f"thought[suffix={_quoted(self._tags.closing)}]: /(?s:.*)/"]
        self.lines.append(f"BLANK: {_BLANK}")
        return "thoughts" if self._rules.plan.is_thinking else f"({self._term(self._tags.opening)} thoughts)?"

    def _calls(self, opening: Sequence[str], first: _Before | None = None) -> None:
        """The rules for calls. `first`: what comes before the arguments of the first one, if it differs."""
        syntax = self._syntax
        assert syntax is not None
        more = "" if self._rules.plan.max_calls == 1 else f"({self._terms(syntax.between)} call)*"
        begun = "call" if first is None else "first_call"
        self.lines.append(f"calls: {self._terms(opening)} {begun} {more} {self._terms(syntax.closing)}")
        self._call_rules("call", self._written(syntax.before))
        if first is not None:
            self._call_rules("first_call", first)
        for index, arguments in enumerate(self._rules.parameters.values()):
            self.lines.append(f"arguments_{index}: {arguments}")

    def _call_rules(self, name: str, before: _Before) -> None:
        assert self._syntax is not None
        after = self._terms(self._syntax.after)
        choices = [f"{before(tool)} arguments_{index} {after}" for index, tool in enumerate(self._rules.parameters)]
        self.lines.append(f"{name}: {' | '.join(choices)}")

    def _written(self, before: Sequence[str]) -> _Before:
        return lambda tool: " ".join(
            self._naming(part, tool) if "NAME" in part else self._term(part) for part in before
        )

    def _naming(self, part: str, tool: str) -> str:
        assert self._syntax is not None
        text = part.replace("NAME", tool)
        if not self._syntax.has_words:
            return self._term(text)
        # One term, since a lexer that has read a word can't tell whether the name begins with it.
        words = "".join(f"( {word})?" for word in tool.split("_"))
        return f"/{words}{text}/"

    def _terms(self, parts: Sequence[str]) -> str:
        return " ".join(map(self._term, parts))

    def _term(self, part: str) -> str:
        return f"<[{self._special_ids[part]}]>" if part in self._special_ids else _quoted(part)


def _quoted(text: str) -> str:
    return json.dumps(text)
