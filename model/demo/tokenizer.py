"""The bundled model's tokenizer: byte-level BPE trained on its own corpus, with the chat template."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from model.demo.corpus import BEGIN, END_OF_TEXT, END_OF_TURN, TURN

VOCAB_SIZE = 3072
NUM_PIECES = 1900
"""Tokens without a space before them; the rest of the vocabulary is the commonest of them again, with one."""
MAX_POSITIONS = 2048

SPACE = "\u0120"
"""As byte-level BPE writes a space."""
WORD = re.compile(r" ?[^\W\d_]+| ?[^\w\s]+|\n+")

SPECIAL_TOKENS = [END_OF_TEXT, BEGIN, TURN, END_OF_TURN]
"""In the order of their ids, from 0."""

CHAT_TEMPLATE = """\
{%- macro text_of(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content or [] -%}{{- part.text -}}{%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- macro list_of_tools() -%}
    {{- 'Tools:' -}}
    {%- for tool in tools -%}
        {%- set schema = tool.function.parameters or {} -%}
        {%- set name = tool.function.name -%}
        {{- '\\n- ' ~ name | replace('_', ' ') ~ ' ' ~ name ~ ' {' -}}
        {%- for parameter in schema.properties or {} -%}
            {{- '"' ~ parameter ~ '"' -}}
            {{- '?' if schema.required is defined and parameter not in schema.required else '' -}}
            {{- '' if loop.last else ',' -}}
        {%- endfor -%}
        {{- '}' -}}
    {%- endfor -%}
{%- endmacro -%}
{#- The tools stand after the last question: so each can be compared with it where it is read. -#}
{%- set last = namespace(question=0) -%}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}{%- set last.question = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message.role not in ['system', 'developer', 'user', 'assistant', 'tool'] -%}
        {{- raise_exception("unknown role '" ~ message.role ~ "'") -}}
    {%- endif -%}
    {%- set role = 'system' if message.role == 'developer' else message.role -%}
    {%- set text = text_of(message.content) -%}
    {{- '<|im_start|>' ~ role ~ '\\n' ~ text -}}
    {%- if tools and loop.index0 == last.question -%}
        {{- '\\n\\n' ~ list_of_tools() -}}
    {%- endif -%}
    {%- for call in message.tool_calls or [] -%}
        {%- set name = call.function.name -%}
        {{- ('' if loop.first and not text else '\\n') ~ '<call> ' ~ name.split('_')[-1] ~ ' ' ~ name ~ ' ' -}}
        {{- call.function.arguments | tojson ~ '</call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Learns the merges. Digits stand alone, so that a number has one spelling; every byte has a token of its own.

    A word is cut alike with a space before it and without: a word copied into quotes then keeps its tokens but for the
    first, and that one is the same token without the space. So merges are learned from words without their spaces,
    and those with a space come after all others, for the pieces that most often begin a word.
    """
    words = Counter(word for text in texts for word in WORD.findall(text))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_PIECES, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    learned = _byte_level(models.BPE())
    learned.train_from_iterator((word.strip(" ") for word, count in words.items() for _ in range(count)), trainer)
    firsts: Counter[str] = Counter()
    for word, count in words.items():
        if word.startswith(" ") and (pieces := learned.encode(word.strip(" "), add_special_tokens=False).tokens):
            firsts[pieces[0]] += count
    state = json.loads(learned.to_str())["model"]
    spaced = [piece for piece, _ in firsts.most_common(VOCAB_SIZE - len(state["vocab"]))]
    vocabulary = state["vocab"] | {SPACE + piece: len(state["vocab"]) + i for i, piece in enumerate(spaced)}
    merges = [*map(tuple, state["merges"]), *((SPACE, piece) for piece in spaced)]
    tokenizer = _byte_level(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A",
        pair=f"{BEGIN} $A {BEGIN} $B",
        special_tokens=[(BEGIN, SPECIAL_TOKENS.index(BEGIN))],
    )
    return tokenizer


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json`."""
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END_OF_TURN,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_POSITIONS,
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
