"""The Jinja environment in which chat templates run: transformers' dialect, sandboxed, with limits."""

import json
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace


class TemplateError(ValueError):
    """A conversation that the model's chat template can't render; the message is for the client."""


def make_environment(max_chars: int, max_seconds: float) -> ImmutableSandboxedEnvironment:
    """The one place that makes an environment for a model's template, which is a stranger's program.

    Same dialect as transformers' `apply_chat_template` (`utils/chat_template_utils.py`): `generation` blocks, `break`
    and `continue`, `tojson` without HTML escapes, `raise_exception`, `strftime_now`. A string or list made by
    multiplication holds at most `max_chars`; a loop that is still going after `max_seconds` of rendering ends with
    TemplateError.
    """
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols])
    environment.max_chars = max_chars
    environment.max_seconds = max_seconds
    environment.filters["tojson"] = _to_json
    environment.filters[_TIMED] = _timed
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _make_dict,
        "namespace": _Namespace,
    }
    del environment.globals["lipsum"]  # text of any length for the asking; no template uses it
    return environment


class _TimedContext(Context):
    """The variables of one rendering, and when it must be over."""

    deadline: float

    def __init__(self, environment: "_Environment", *args: Any, **kwargs: Any) -> None:
        super().__init__(environment, *args, **kwargs)
        self.deadline = time.monotonic() + environment.max_seconds
        self.max_seconds = environment.max_seconds

    def derived(self, locals: dict[str, Any] | None = None) -> Context:
        context = super().derived(locals)
        assert isinstance(context, _TimedContext)
        context.deadline = self.deadline
        return context

    def check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise TemplateError(f"the model's chat template took more than {self.max_seconds:g} s to render")


class _TimedLoops(CodeGenerator):
    """Sends what each `for` goes over through the `_timed` filter."""

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:
        for loop in list(node.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, _TIMED, [], [], None, None, lineno=loop.lineno)
            loop.iter.set_environment(self.environment)
        super().visit_Template(node, frame)


class _Environment(ImmutableSandboxedEnvironment):
    code_generator_class = _TimedLoops
    context_class = _TimedContext
    intercepted_binops = frozenset(("*", "**"))
    max_chars: int
    max_seconds: float

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Multiplies or raises to a power, within limits: the sandbox as it comes has none."""
        if operator == "**" and (abs(left) > 1e9 or abs(right) > 30):
            raise TemplateError("the model's chat template computes a number that is too large")
        for sequence, times in ((left, right), (right, left)):
            if isinstance(sequence, (str, list, tuple)) and len(sequence) * times > self.max_chars:
                raise TemplateError(f"the model's chat template writes more than {self.max_chars} characters")
        return super().call_binop(context, operator, left, right)


class _GenerationBlock(Extension):
    """`{% generation %}`, which marks an assistant's words for training and means nothing here."""

    tags = {"generation"}  # noqa: RUF012  jinja2 reads the class attribute

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A call block, as in transformers: variables set in it are not seen after it.
        return nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller: Macro) -> str:
        return caller()


class _Namespace(Namespace):
    """A namespace without underscore names, the way to the interpreter's own objects."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # No named parameter, as in jinja2: a template may call namespace(self=1).
        self, *positional = args
        attributes = dict(*positional, **kwargs)
        for name in attributes:
            _refuse_underscore(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: str) -> None:
    if name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace takes no name that begins with an underscore: {name}")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(str(message))


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


@jinja2.pass_context
def _timed(context: _TimedContext, items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        context.check_time()
        yield item


_TIMED = "nexttoken.timed"
"""Name of the filter; a template's own words can't contain it by accident."""
