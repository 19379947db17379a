import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.text.template import ChatTemplate, TemplateError
from server.text.tokenizer import Tokenizer
from tests.text import templates

USER = {"role": "user", "content": "Hi there "}
ASSISTANT = {"role": "assistant", "content": " Hello! How are you?"}
SYSTEM = {"role": "system", "content": "Be brief."}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "where's <rain> é?", "parameters": {"type": "object"}},
}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"town": "Köln"}}}],
}
RESULT = {"role": "tool", "content": "rain"}
CHATS = [
    [USER],
    [USER, ASSISTANT, USER],
    [SYSTEM, USER, ASSISTANT, {"role": "user", "content": "multi\nline 👍🏽"}],
    [USER, {**ASSISTANT, "reasoning": "hm"}, USER],
]


@pytest.fixture(scope="module")
def tokenizer(directory_of) -> Tokenizer:
    return Tokenizer.load(directory_of("llama3"))


@pytest.fixture(scope="module")
def reference(directory_of):
    """transformers' own tokenizer, whose special tokens the templates see."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory_of("llama3"))


def make_template(source, tokenizer=None, **limits):
    special_tokens = tokenizer.special_tokens if tokenizer else {}
    return ChatTemplate({"default": source}, special_tokens, tokenizer.control_tokens if tokenizer else (), **limits)


def expected(reference, name, messages, **options):
    return reference.apply_chat_template(messages, chat_template=templates.BY_NAME[name], tokenize=False, **options)


@pytest.mark.parametrize("messages", CHATS)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("name", templates.BY_NAME)
def test_renders_as_transformers_does(tokenizer, reference, name, add_generation_prompt, messages):
    options = {"add_generation_prompt": add_generation_prompt}
    rendered = make_template(templates.BY_NAME[name], tokenizer).render(messages, **options)
    assert rendered.text == expected(reference, name, messages, **options)
    assert rendered.literals == ()


@pytest.mark.parametrize("name", ["llama31", "mistral"])
def test_renders_tools_as_transformers_does(tokenizer, reference, name):
    messages = [USER, CALL, RESULT, ASSISTANT, USER]
    rendered = make_template(templates.BY_NAME[name], tokenizer).render(messages, tools=[TOOL])
    assert rendered.text == expected(reference, name, messages, tools=[TOOL], add_generation_prompt=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            (name, text)
            for name in ("llama3", "tinyllama", "smollm2", "features")
            for text in ("Once upon", " a time ")
        ),
        ("features", [{"type": "text", "text": "parts "}, {"type": "text", "text": " more "}, {"type": "image"}]),
    ],
)
def test_continues_the_final_message_as_transformers_does(tokenizer, reference, name, content):
    messages = [USER, {"role": "assistant", "content": content}]
    options = {"add_generation_prompt": False, "continue_final_message": True}
    rendered = make_template(templates.BY_NAME[name], tokenizer).render(messages, **options)
    assert rendered.text == expected(reference, name, messages, **options)


@given(content=st.text(max_size=50), name=st.sampled_from(["llama3", "smollm2", "tinyllama", "features"]))
def test_renders_any_content_as_transformers_does(tokenizer, reference, content, name):
    messages = [{"role": "user", "content": content}]
    rendered = make_template(templates.BY_NAME[name], tokenizer).render(messages)
    assert rendered.text == expected(reference, name, messages, add_generation_prompt=True)


def test_dt05_ids_of_a_chat_equal_those_of_transformers_with_one_bos(tokenizer, reference):
    rendered = make_template(templates.LLAMA3, tokenizer).render(CHATS[2])
    ids = tokenizer.encode_rendered(rendered)
    same = reference.apply_chat_template(
        CHATS[2], chat_template=templates.LLAMA3, add_generation_prompt=True, return_dict=False
    )
    assert ids == same
    assert ids.count(reference.bos_token_id) == 1


def test_template_arguments_reach_the_template(tokenizer, reference):
    rendered = make_template(templates.FEATURES, tokenizer).render([USER], kwargs={"extra": [1, "x"]})
    assert rendered.text == expected(reference, "features", [USER], extra=[1, "x"], add_generation_prompt=True)


def test_a_template_argument_may_have_any_other_name():
    assert make_template("{{ args }}").render([USER], kwargs={"self": 1, "args": 2}).text == "2"


def test_the_messages_are_left_as_they_were():
    messages = [USER, {"role": "assistant", "content": [{"type": "text", "text": "a"}], "name": None}]
    before = json.dumps(messages)
    template = make_template(templates.FEATURES)
    template.render(messages, add_generation_prompt=False, continue_final_message=True)
    assert json.dumps(messages) == before


def test_a_refusal_is_given_in_the_templates_own_words(tokenizer):
    with pytest.raises(TemplateError, match=r"^roles must alternate: user, assistant, user$"):
        make_template(templates.LLAMA2, tokenizer).render([USER, USER])


@pytest.mark.parametrize(
    "source",
    ["{{ messages[0].a.b }}", "{{ 1 / 0 }}", "{{ 'a' + 1 }}", "{{ 'x' | nope_args(1) if false else [][3].x }}"],
)
def test_a_template_that_fails_is_a_template_error_without_class_or_path(source):
    with pytest.raises(TemplateError) as failure:
        make_template(source).render([USER])
    assert not re.search(r"Error|/|Traceback|jinja", str(failure.value))


def test_a_syntax_error_is_found_when_the_model_is_loaded():
    with pytest.raises(TemplateError, match="line 2"):
        make_template("fine\n{% if %}")


def test_a_model_without_template_says_so():
    with pytest.raises(TemplateError, match="no chat template"):
        ChatTemplate({}).render([USER])


def test_no_messages_and_opposite_options_are_refused():
    template = make_template(templates.TINYLLAMA)
    with pytest.raises(TemplateError, match="messages is empty"):
        template.render([])
    with pytest.raises(TemplateError, match="exclude each other"):
        template.render([USER], add_generation_prompt=True, continue_final_message=True)
    with pytest.raises(TemplateError, match="no text to continue"):
        template.render([CALL], add_generation_prompt=False, continue_final_message=True)


@pytest.mark.parametrize(
    "key", ["tokenize", "chat_template", "messages", "tools", "add_generation_prompt", "return_dict", "bos_token"]
)
def test_gr02_reserved_template_arguments_are_refused_by_name(tokenizer, key):
    with pytest.raises(TemplateError, match=key):
        make_template(templates.LLAMA3, tokenizer).render([USER], kwargs={key: "x"})


def test_templates_are_found_where_transformers_finds_them(tmp_path):
    named = [{"name": "default", "template": "in config"}, {"name": "tool_use", "template": "tools in config"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    template = ChatTemplate.load(tmp_path, {})
    assert template.render([USER]).text == "in config"
    assert template.render([USER], tools=[TOOL]).text == "tools in config"
    (tmp_path / "chat_template.jinja").write_text("in a file")
    assert ChatTemplate.load(tmp_path, {}).render([USER], tools=[TOOL]).text == "in a file"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools in a file")
    assert ChatTemplate.load(tmp_path, {}).render([USER], tools=[TOOL]).text == "tools in a file"


def test_gr05_a_template_cannot_reach_the_interpreter(tmp_path):
    target = tmp_path / "touched"
    walks = [
        f"{{% for c in ''.__class__.__mro__[1].__subclasses__() %}}{{{{ c('{target}', 'w') }}}}{{% endfor %}}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__.os }}",
        "{{ namespace(__class__=1) }}",
        "{{ ('' | attr('__class__')).__mro__ }}",
        "{{ cycler.__init__.__globals__.os }}",
    ]
    for source in walks:
        with pytest.raises(TemplateError):
            make_template(source).render([USER])
    assert not target.exists()


def test_gr05_one_function_makes_the_environment_of_models_templates():
    root = Path(__file__).parents[2]
    found = [
        path.relative_to(root).as_posix()
        for folder in ("server", "model")
        for path in sorted((root / folder).rglob("*.py"))
        if re.search(r"Environment\(|Template\(source|from_string\(", path.read_text())
        # The page of the documentation is a template of our own, which no model brings.
        and path.name not in ("sandbox.py", "template.py", "docs_page.py")
    ]
    assert found == []
    assert (root / "server/text/sandbox.py").read_text().count("Environment(trim_blocks") == 1
    assert "Environment(" not in (root / "server/text/template.py").read_text()


def test_gr10_loops_without_end_are_stopped():
    loops = "".join(f"{{% for {name} in range(99999) %}}" for name in "abc") + "{% endfor %}" * 3
    with pytest.raises(TemplateError, match=r"more than 0\.05 s"):
        make_template(loops, max_seconds=0.05).render([USER])
    in_blocks = "{% for a in range(99999) %}{% block x scoped %}{% for b in range(99999) %}{% endfor %}{% endblock %}"
    with pytest.raises(TemplateError, match=r"more than 0\.05 s"):
        make_template(in_blocks + "{% endfor %}", max_seconds=0.05).render([USER])


@pytest.mark.parametrize(
    "source",
    ["{% for a in range(9999) %}long enough{% endfor %}", "{{ 'a' * 99999999999 }}", "{{ 99999999 * [1] }}"],
)
def test_gr10_output_without_end_is_stopped(source):
    with pytest.raises(TemplateError, match="more than 5000 characters"):
        make_template(source, max_chars=5000).render([USER])


@pytest.mark.parametrize("source", ["{{ range(9999999) }}", "{{ 9 ** 999999999 }}"])
def test_gr10_big_ranges_and_powers_are_refused(source):
    with pytest.raises(TemplateError):
        make_template(source).render([USER])


def test_loops_know_their_length_and_neighbours():
    source = "{% for m in messages %}{{ loop.length ~ loop.last ~ (loop.nextitem is defined) }}{% endfor %}"
    assert make_template(source).render([USER, ASSISTANT]).text == "2FalseTrue2TrueFalse"
