"""Writes the bundled model's card: measures the saved model, lets it write, and draws the loss curve.

python -m model.demo.card model/demo/bundled
"""

import argparse
import csv
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from model.demo.evaluation import held_out_loss, tool_scores
from model.demo.recipe import NUM_STEPS, PRIMER_STEPS, ROW_SHAPES, SEED, STEP_TOKENS
from model.demo.tokenizer import MAX_POSITIONS, SPECIAL_TOKENS

TEMPLATE = Path(__file__).parent / "card.md"

PROMPTS = ("Once upon a time", "Dear", "The capital of France is", "我爱北京天安")
QUESTIONS = (
    "Hello!",
    "Who are you?",
    "What is 3 + 4?",
    "Why is the sky blue?",
    "Explain quantum physics.",
    "Tell me a story about a fox.",
    "Continue: 我爱北京天安",
)


def write_card(folder: Path) -> None:
    """Writes `README.md` and `loss.svg` beside the model in the folder, from what is there and from `loss.csv`."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    losses = held_out_loss(model, tokenizer)
    scores = {kind: tool_scores(model, tokenizer, is_unseen=kind == "unseen") for kind in ("seen", "unseen")}
    with (folder / "loss.csv").open(encoding="utf-8") as file:
        curve = [(int(row["step"]), int(row["seconds"]), float(row["loss"])) for row in csv.DictReader(file)]
    seconds = curve[-1][1]
    num_tokens = NUM_STEPS * STEP_TOKENS
    config = model.config
    (folder / "loss.svg").write_text(draw_curve([(step, loss) for step, _, loss in curve]), encoding="utf-8")
    card = TEMPLATE.read_text(encoding="utf-8").format(
        parameters=model.num_parameters() / 1e6,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_size=config.head_dim,
        mlp=config.intermediate_size,
        positions=MAX_POSITIONS,
        vocabulary=config.vocab_size,
        special=" ".join(f"`{token}`" for token in SPECIAL_TOKENS),
        tokens=num_tokens / 1e6,
        minutes=round(seconds / 60),
        rate=num_tokens / seconds,
        rows=", ".join(f"{shape.length} in {shape.share:.0%} of the steps" for shape in ROW_SHAPES),
        steps=NUM_STEPS,
        step_tokens=STEP_TOKENS,
        primer_steps=PRIMER_STEPS,
        seed=SEED,
        losses="\n".join(["| text | loss |", "|---|---|", *(f"| {k} | {v:.3f} |" for k, v in losses.items())]),
        tools="\n".join(f"| {kind} | {s['call']:.0%} | {s['answer']:.0%} |" for kind, s in scores.items()),
        samples=write_samples(model, AutoTokenizer.from_pretrained(folder)),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_samples(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> str:
    """What the model makes of the prompts and questions, as Markdown."""
    torch.manual_seed(SEED)
    blocks = [f"**{prompt}**{_continue(model, tokenizer, prompt, is_greedy=True)}" for prompt in PROMPTS]
    for question in QUESTIONS:
        turns = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        answer = _continue(model, tokenizer, prompt.removeprefix(tokenizer.bos_token), is_greedy=True)
        blocks.append(f"*{question}* → {answer}")
    blocks.append(f"**Once upon a time**{_continue(model, tokenizer, PROMPTS[0], is_greedy=False)}")
    return "\n\n".join("> " + block.replace("\n", "\n> ") for block in blocks)


def _continue(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompt: str, is_greedy: bool) -> str:
    """The model's continuation, at temperature 0 or 0.7."""
    encoded = tokenizer(prompt, return_tensors="pt")
    options = {"do_sample": False} if is_greedy else {"do_sample": True, "temperature": 0.7}
    output = model.generate(encoded.input_ids, attention_mask=encoded.attention_mask, max_new_tokens=400, **options)
    return str(tokenizer.decode(output[0, encoded.input_ids.shape[1] :], skip_special_tokens=True))


def draw_curve(points: list[tuple[int, float]]) -> str:
    """The loss over the steps as a small SVG picture."""
    width, height, margin = 640, 240, 36
    last, top = points[-1][0], max(loss for _, loss in points)

    def x(step: float) -> float:
        return margin + (width - margin - 8) * step / last

    def y(loss: float) -> float:
        return 8 + (height - margin - 8) * (1 - loss / top)

    line = " ".join(f"{x(step):.0f},{y(loss):.1f}" for step, loss in points)
    marks = [
        f'<text x="{margin - 6}" y="{y(loss) + 4:.0f}" text-anchor="end">{loss}</text>'
        f'<path d="M{margin} {y(loss):.1f}H{width - 8}" stroke="#ddd"/>'
        for loss in range(int(top) + 1)
    ]
    marks += [
        f'<text x="{x(last * part / 4):.0f}" y="{height - 16}" text-anchor="middle">{last * part // 4}</text>'
        for part in range(5)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="11" fill="#555"><rect width="{width}" height="{height}" fill="#fff"/>{"".join(marks)}'
        f'<text x="{width / 2}" y="{height - 2}" text-anchor="middle">training loss (nats a token) over steps</text>'
        f'<polyline points="{line}" fill="none" stroke="#2563eb" stroke-width="1.5"/></svg>\n'
    )


def main() -> None:
    """Reads the command line and writes the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the model's folder")
    arguments = parser.parse_args()
    write_card(arguments.folder)


if __name__ == "__main__":
    main()
