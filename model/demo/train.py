"""Trains the bundled model: corpus, tokenizer and weights from one seed, with its card and loss curve.

python -m model.demo.train --bf16 --output model/demo/bundled
"""

import argparse
import csv
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GenerationConfig, LlamaForCausalLM, LlamaModel

from model.demo.card import write_card
from model.demo.corpus import Mixture, documents
from model.demo.packing import IGNORED, PackedRows, encode, packed
from model.demo.recipe import (
    COPY_SCALE,
    NUM_STEPS,
    PRIMER,
    PRIMER_STEPS,
    ROW_SHAPES,
    SEED,
    STEP_TOKENS,
    TOKENIZER_DOCUMENTS,
    WEIGHT_DECAY,
    WHOLE,
    RowShape,
    learning_rate,
    model_config,
)
from model.demo.tokenizer import SPACE, save_tokenizer, train_tokenizer

# B rows, T tokens in a row, E width, N learned tokens, V vocabulary, H query heads, K kv heads, D head size

REPORT_STEPS = 25
SAVE_STEPS = 500


def batches(tokenizer: Tokenizer) -> Iterator[PackedRows]:
    """Batches without end: the primer, then the whole mixture, each batch of one row shape."""

    def stream(seed: int, mixture: Mixture, shape: RowShape) -> Iterator[PackedRows]:
        found = documents(seed, mixture, shape.max_exchanges)
        encoded = (encode(tokenizer, document) for _, document in found)
        return packed(encoded, STEP_TOKENS // shape.length, shape.length)

    yield from islice(stream(SEED, PRIMER, ROW_SHAPES[0]), PRIMER_STEPS)
    streams = [stream(SEED + shape.length, WHOLE, shape) for shape in ROW_SHAPES]
    rng = Random(SEED)
    while True:
        yield next(rng.choices(streams, [shape.share for shape in ROW_SHAPES])[0])


def loss_of(model: LlamaForCausalLM, rows: PackedRows, is_bf16: bool) -> Tensor:
    """Mean cross-entropy in nats over the learned tokens."""
    with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
        hidden_BTE = _read(model.model, rows.token_ids_BT, rows.positions_BT, rows.mask_B1TT)
        # The head is a third of the work: only where something is learned.
        labels_BT = rows.labels_BT[:, 1:]
        is_learned = labels_BT != IGNORED
        return _guess(hidden_BTE[:, :-1][is_learned], model.lm_head.weight, labels_BT[is_learned])


# Rows come in few shapes, each with code of its own; how many tokens are learned differs in every step.
@torch.compile(dynamic=False)
def _read(model: LlamaModel, token_ids_BT: Tensor, positions_BT: Tensor, mask_B1TT: Tensor) -> Tensor:
    bias_B1TT = torch.where(mask_B1TT, 0.0, float("-inf"))
    read = model(input_ids=token_ids_BT, position_ids=positions_BT, attention_mask=bias_B1TT, use_cache=False)
    hidden_BTE: Tensor = read.last_hidden_state
    return hidden_BTE


@torch.compile(dynamic=True)
def _guess(hidden_NE: Tensor, head_VE: Tensor, labels_N: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy((hidden_NE @ head_VE.T).float(), labels_N)


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Writes config, generation config and bf16 weights, as transformers does."""
    kept = LlamaForCausalLM(model.config).to(torch.bfloat16)
    kept.load_state_dict(model.state_dict())
    config = model.config
    kept.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        do_sample=True,
        temperature=0.7,
        top_p=0.95,
    )
    kept.save_pretrained(folder)


class Journal:
    """Keeps the loss curve: in `loss.csv`, and a line on the screen for each new point."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = [["step", "seconds", "loss"]]
        self.num_steps = 0
        self.recent: list[float] = []
        self.started = time.monotonic()

    def note(self, loss: float) -> None:
        """Takes the loss of the next step. Every `REPORT_STEPS` steps their mean is a new point."""
        self.num_steps += 1
        self.recent.append(loss)
        if len(self.recent) < REPORT_STEPS:
            return
        seconds = time.monotonic() - self.started
        self.rows.append([str(self.num_steps), f"{seconds:.0f}", f"{sum(self.recent) / REPORT_STEPS:.4f}"])
        self.recent.clear()
        with self.path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(self.rows)
        print(f"step={self.num_steps} loss={self.rows[-1][2]} seconds={seconds:.0f}", flush=True)


@torch.no_grad()
def lean_to_copying(model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    """Starts the model near to what it would else have to find out by chance.

    Each attention head has W_O as W_V transposed: it writes what it reads (Trockman and Kolter 2023). A token that is
    another with a space before it starts as the sum of both.
    """
    config = model.config
    for layer in model.model.layers:
        v_KDE = layer.self_attn.v_proj.weight.unflatten(0, (config.num_key_value_heads, config.head_dim))
        v_HDE = v_KDE.repeat_interleave(config.num_attention_heads // config.num_key_value_heads, dim=0)
        layer.self_attn.o_proj.weight.copy_(COPY_SCALE * v_HDE.flatten(0, 1).T)
    vocabulary = tokenizer.get_vocab()
    embeddings_VE = model.model.embed_tokens.weight
    for token, token_id in vocabulary.items():
        word_id = vocabulary.get(token.removeprefix(SPACE), token_id)
        if word_id != token_id:
            embeddings_VE[token_id] = embeddings_VE[word_id] + embeddings_VE[vocabulary[SPACE]]


def make_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the layers' matrices, AdamW for the embeddings and, without decay, the norms."""
    matrices = [p for p in model.model.layers.parameters() if p.dim() == 2]
    norms = [p for p in model.parameters() if p.dim() == 1]
    groups: list[dict[str, Any]] = [
        {"params": [model.model.embed_tokens.weight]},
        {"params": norms, "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(matrices, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY, fused=True),
    ]


def begin(output: Path) -> None:
    """Writes the tokenizer and an untrained model to `output`."""
    output.mkdir(parents=True, exist_ok=True)
    texts = ("".join(s.text for s in d) for _, d in documents(SEED, WHOLE, ROW_SHAPES[0].max_exchanges))
    tokenizer = train_tokenizer(islice(texts, TOKENIZER_DOCUMENTS))
    save_tokenizer(tokenizer, output)
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(model_config())
    lean_to_copying(model, tokenizer)
    save_model(model, output)


def train(output: Path, is_bf16: bool) -> None:
    """Trains the model in `output`; its weights are saved as they are every `SAVE_STEPS` steps."""
    tokenizer = Tokenizer.from_file(str(output / "tokenizer.json"))
    # Attention in plain products and sums: compiled, it's faster at this size than torch's own kernel with a mask.
    model = LlamaForCausalLM.from_pretrained(output, dtype=torch.float32, attn_implementation="eager").train()
    optimizers = make_optimizers(model)
    journal = Journal(output / "loss.csv")
    for step, rows in enumerate(islice(batches(tokenizer), NUM_STEPS)):
        loss = loss_of(model, rows, is_bf16)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step)
            optimizer.step()
            optimizer.zero_grad()
        journal.note(loss.item())
        if (step + 1) % SAVE_STEPS == 0:
            save_model(model, output)
    save_model(model, output)


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for model, card and curve")
    parser.add_argument("--bf16", action="store_true", help="bf16 products, for CPUs that have them in hardware")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    begin(arguments.output)
    train(arguments.output, arguments.bf16)
    write_card(arguments.output)


if __name__ == "__main__":
    main()
