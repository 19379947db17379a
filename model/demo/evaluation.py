"""Measures the model on what it was not trained on: documents of another seed, and tools with other words."""

from collections.abc import Iterator
from itertools import islice
from random import Random

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from model.demo.chats import Message, Talker
from model.demo.corpus import TEXT, Document, chat, documents
from model.demo.packing import IGNORED, encode
from model.demo.recipe import WHOLE
from model.demo.stories import Storyteller
from model.demo.tokenizer import MAX_POSITIONS
from model.demo.tool_words import SPLIT, ToolWords
from model.demo.tools import Errand, Tool, Toolsmith, with_tools

HELD_OUT_SEED = 21
HELD_OUT_DOCUMENTS = 400


@torch.inference_mode()
def held_out_loss(model: LlamaForCausalLM, tokenizer: Tokenizer) -> dict[str, float]:
    """Nats a learned token, by kind of document."""
    by_kind: dict[str, list[Document]] = {}
    for kind, document in islice(documents(HELD_OUT_SEED, WHOLE, 4), HELD_OUT_DOCUMENTS):
        by_kind.setdefault(kind, []).append(document)
    model.eval()
    losses = {}
    for kind, found in by_kind.items():
        total, count = 0.0, 0
        for document in found:
            encoded = encode(tokenizer, document)
            labels = torch.tensor(encoded.labels[1:MAX_POSITIONS])
            logits = model(input_ids=torch.tensor([encoded.token_ids[:MAX_POSITIONS]])).logits[0, :-1]
            total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
            count += int((labels != IGNORED).sum())
        losses[kind] = total / count
    model.train()
    return losses


@torch.inference_mode()
def tool_scores(model: LlamaForCausalLM, tokenizer: Tokenizer, *, is_unseen: bool) -> dict[str, float]:
    """Shares of questions, each with three tools at hand, that the model at temperature 0 meets to the word.

    `call`: the right tool with the right arguments. `answer`: what follows from the tool's result. `is_unseen`: the
    tool's name holds a word that no tool's name had in the training.
    """
    model.eval()
    num_called = num_answered = 0
    for errand, others in islice(_errands(is_unseen), HELD_OUT_DOCUMENTS):
        messages = [
            {"role": "user", "content": with_tools(errand.question, sorted((errand.tool, *others), key=str))},
            {"role": "assistant", "content": errand.call},
            {"role": "tool", "content": errand.result},
            {"role": "assistant", "content": errand.answer},
        ]
        num_called += _writes_last(model, tokenizer, messages[:2])
        num_answered += _writes_last(model, tokenizer, messages)
    model.train()
    return {"call": num_called / HELD_OUT_DOCUMENTS, "answer": num_answered / HELD_OUT_DOCUMENTS}


def _errands(is_unseen: bool) -> Iterator[tuple[Errand, list[Tool]]]:
    """Questions without end, each with two tools that do not help."""
    storyteller = Storyteller(TEXT)
    words = ToolWords(TEXT, storyteller, is_unseen=is_unseen)
    toolsmith = Toolsmith(TEXT, Talker(TEXT, storyteller), words)
    rng = Random(HELD_OUT_SEED)
    unseen = {word.replace(" ", "_") for name in SPLIT for word in words.lists[f"unseen {name}"]}
    while True:
        errand, *others = (toolsmith.errand(rng) for _ in range(3))
        names = {errand.tool.name, *(other.tool.name for other in others)}
        if len(names) == 3 and (not is_unseen or any(word in errand.tool.name for word in unseen)):
            yield errand, [other.tool for other in others]


def _writes_last(model: LlamaForCausalLM, tokenizer: Tokenizer, messages: list[Message]) -> bool:
    """Whether the greedy answer to all messages but the last is the last: so if each token is the likeliest."""
    document = chat(messages)[:-1]
    encoded = encode(tokenizer, document)
    length = len(tokenizer.encode(document[-1].text, add_special_tokens=False).ids)
    logits = model(input_ids=torch.tensor([encoded.token_ids])).logits[0, -length - 1 : -1]
    return torch.equal(logits.argmax(-1), torch.tensor(encoded.token_ids[-length:]))
