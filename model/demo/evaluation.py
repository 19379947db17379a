"""Measures the held-out loss: documents of a seed that was not trained on, and licensed text that was left out."""

from itertools import islice

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from model.demo.corpus import Document, documents
from model.demo.packing import IGNORED, encode
from model.demo.recipe import WHOLE
from model.demo.tokenizer import MAX_POSITIONS

HELD_OUT_SEED = 21
HELD_OUT_DOCUMENTS = 400


@torch.inference_mode()
def held_out_loss(model: LlamaForCausalLM, tokenizer: Tokenizer, held_out: list[Document]) -> dict[str, float]:
    """Nats a learned token, by kind of document. `held_out` is the licensed text left out, which may be none."""
    by_kind: dict[str, list[Document]] = {"licensed": held_out} if held_out else {}
    for kind, document in islice(documents(HELD_OUT_SEED, WHOLE, 4, []), HELD_OUT_DOCUMENTS):
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
