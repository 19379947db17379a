"""Trains the bundled model: corpus, tokenizer and weights from one seed, with its card and loss curve.

python -m model.demo.train --licensed TEXT --output model/demo/bundled
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
from transformers import GenerationConfig, LlamaForCausalLM

from model.demo.card import write_card
from model.demo.corpus import Document, Mixture, documents, read_licensed
from model.demo.packing import IGNORED, PackedRows, encode, packed
from model.demo.recipe import (
    COPY_SCALE,
    PRIMER,
    PRIMER_SHAPE,
    ROUNDS,
    ROW_SHAPES,
    SEED,
    TOKENIZER_DOCUMENTS,
    WEIGHT_DECAY,
    WHOLE,
    RowShape,
    learning_rate,
    model_config,
)
from model.demo.tokenizer import save_tokenizer, train_tokenizer

REPORT_STEPS = 25
SAVE_STEPS = 200


def batches(number: int, tokenizer: Tokenizer, licensed: list[Document]) -> Iterator[PackedRows]:
    """Batches without end for a round: its primer, then its mixture, each of one row shape."""
    part, seed = ROUNDS[number], SEED + 10_000 * number

    def stream(stream_seed: int, mixture: Mixture, shape: RowShape) -> Iterator[PackedRows]:
        found = documents(stream_seed, mixture, shape.max_exchanges, licensed)
        encoded = (encode(tokenizer, document) for _, document in found)
        return packed(encoded, part.step_tokens // shape.length, shape.length)

    yield from islice(stream(seed, PRIMER, PRIMER_SHAPE), part.primer_steps)
    streams = [stream(seed + shape.length, part.mixture, shape) for shape in part.shapes]
    rng = Random(seed)
    while True:
        yield next(rng.choices(streams, [shape.share for shape in part.shapes])[0])


def loss_of(model: LlamaForCausalLM, rows: PackedRows, is_bf16: bool) -> Tensor:
    """Mean cross-entropy in nats over the learned tokens."""
    with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
        hidden = model.model(
            input_ids=rows.token_ids_BT,
            position_ids=rows.positions_BT,
            attention_mask=rows.mask_B1TT,
            use_cache=False,
        ).last_hidden_state
        # The head is a third of the work: only where something is learned.
        labels = rows.labels_BT[:, 1:]
        is_learned = labels != IGNORED
        logits = model.lm_head(hidden[:, :-1][is_learned])
    return torch.nn.functional.cross_entropy(logits.float(), labels[is_learned])


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

    def __init__(self, path: Path, num_done: int) -> None:
        """Goes on after `num_done` steps, with the points that the file has up to there."""
        self.path = path
        self.rows = [["step", "seconds", "loss"]]
        if num_done > 0:
            with path.open(encoding="utf-8") as file:
                self.rows += [row for row in csv.reader(file) if row[0].isdigit() and int(row[0]) <= num_done]
        self.num_steps = num_done
        self.recent: list[float] = []
        self.started = time.monotonic() - (int(self.rows[-1][1]) if num_done > 0 else 0)

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
def lean_to_copying(model: LlamaForCausalLM) -> None:
    """Starts each attention head with W_O as W_V transposed: it writes what it reads (Trockman and Kolter 2023)."""
    config = model.config
    for layer in model.model.layers:
        # K kv heads, H query heads, D head size, E width
        v_KDE = layer.self_attn.v_proj.weight.unflatten(0, (config.num_key_value_heads, config.head_dim))
        v_HDE = v_KDE.repeat_interleave(config.num_attention_heads // config.num_key_value_heads, dim=0)
        layer.self_attn.o_proj.weight.copy_(COPY_SCALE * v_HDE.flatten(0, 1).T)


def make_optimizer(model: LlamaForCausalLM) -> torch.optim.Optimizer:
    """AdamW; norm weights do not decay."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() == 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY, fused=True)


def begin(learned: list[Document], output: Path) -> None:
    """Writes the tokenizer and an untrained model to `output`."""
    output.mkdir(parents=True, exist_ok=True)
    texts = ("".join(s.text for s in d) for _, d in documents(SEED, WHOLE, ROW_SHAPES[0].max_exchanges, learned))
    save_tokenizer(train_tokenizer(islice(texts, TOKENIZER_DOCUMENTS)), output)
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(model_config())
    lean_to_copying(model)
    save_model(model, output)


def train(number: int, learned: list[Document], output: Path, is_bf16: bool) -> None:
    """Trains the model in `output` for one round; its weights are saved as they are every `SAVE_STEPS` steps."""
    part = ROUNDS[number]
    tokenizer = Tokenizer.from_file(str(output / "tokenizer.json"))
    model = LlamaForCausalLM.from_pretrained(output, dtype=torch.float32).train()
    optimizer = make_optimizer(model)
    journal = Journal(output / "loss.csv", sum(earlier.num_steps for earlier in ROUNDS[:number]))
    for step, rows in enumerate(islice(batches(number, tokenizer, learned), part.num_steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, part)
        loss = loss_of(model, rows, is_bf16)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        journal.note(loss.item())
        if (step + 1) % SAVE_STEPS == 0:
            save_model(model, output)
    save_model(model, output)


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--licensed", type=Path, help="folder with the licensed text; without it, only our own")
    parser.add_argument("--output", type=Path, required=True, help="folder for model, card and curve")
    parser.add_argument("--skip", type=int, default=0, help="rounds that the model in the output folder has behind it")
    parser.add_argument("--bf16", action="store_true", help="bf16 products, for CPUs that have them in hardware")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    learned = read_licensed(arguments.licensed)[0] if arguments.licensed else []
    if arguments.skip == 0:
        begin(learned, arguments.output)
    for number in range(arguments.skip, len(ROUNDS)):
        train(number, learned, arguments.output, arguments.bf16)
    write_card(arguments.output, arguments.licensed)


if __name__ == "__main__":
    main()
