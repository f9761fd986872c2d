"""What `plantune train` does in its SFT stage, without plantune: a loop over corpus/train.jsonl, to read and to change.

    plantune distill smollm2_135m
    python examples/sft_loop.py runs/smollm2_135m HuggingFaceTB/SmolLM2-135M-Instruct adapter
    plantune evaluate smollm2_135m --model adapter

Needs torch, transformers and peft. It learns the completion alone, its turn's end included, and starts with the same
loss; a test holds it to that. Left out: checkpoints, validation, 4-bit weights, rows of about one length together, what
happens when memory runs out, and the time there is.
"""

import argparse
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

NOT_LEARNED = -100  # what cross entropy leaves out
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    """Train an adapter on a run's rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path, help="a run folder with corpus/train.jsonl")
    parser.add_argument("model", help="a Hub id or a folder, 16-bit")
    parser.add_argument("out", type=Path, help="where the adapter goes")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32).to(device)
    torch.manual_seed(asked.seed)
    lora = LoraConfig(r=asked.rank, lora_alpha=asked.rank, target_modules=LAYERS, task_type="CAUSAL_LM")
    model = get_peft_model(model, lora).train()

    with open(asked.run / "corpus" / "train.jsonl", encoding="utf-8") as file:
        rows = [encoded(tokenizer, json.loads(line)) for line in file]
    rows = [row for row in rows if len(row[0]) <= asked.max_length]
    trained = [weights for weights in model.parameters() if weights.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=asked.learning_rate, weight_decay=0.0)
    shares = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share(step, asked.steps))

    batches = shuffled(rows, asked.batch, asked.seed)
    for step in range(1, asked.steps + 1):
        ids, mask, labels = (part.to(device) for part in padded(next(batches), tokenizer.pad_token_id))
        logits = model(input_ids=ids, attention_mask=mask).logits
        # Position n says what comes at n + 1; the mean is over the learned tokens of the whole batch.
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=NOT_LEARNED
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        shares.step()
        optimizer.zero_grad()
        print(f"step {step} of {asked.steps}, loss {loss.item():.6f}", flush=True)

    model.save_pretrained(asked.out)
    tokenizer.save_pretrained(asked.out)


def encoded(tokenizer: Any, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """A row's token ids, and what each position is to be: nothing for the prompt."""
    # The template writes the one BOS where a family has one, so nothing is added to what it has written.
    prompt = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    asked = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    learned = tokenizer(row["completion"][-1]["content"].rstrip(), add_special_tokens=False)["input_ids"]
    # Gemma's turns do not end with its EOS; a student that never learns the end of a turn never stops.
    ends = "<end_of_turn>" if "<end_of_turn>" in tokenizer.chat_template else tokenizer.eos_token
    learned.append(tokenizer.convert_tokens_to_ids(ends))
    return asked + learned, [NOT_LEARNED] * len(asked) + learned


def shuffled(rows: list[Any], batch: int, seed: int) -> Iterator[list[Any]]:
    """Batches for ever, every epoch in another order."""
    dice, waiting = random.Random(seed), []
    while True:
        waiting += dice.sample(rows, len(rows))
        while len(waiting) >= batch:
            yield waiting[:batch]
            waiting = waiting[batch:]


def padded(rows: list[tuple[list[int], list[int]]], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows as one batch, filled up on the right: token ids, what of them counts, and labels."""
    width = max(len(ids) for ids, _ in rows)
    ids = [ids + [pad] * (width - len(ids)) for ids, _ in rows]
    mask = [[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows]
    labels = [labels + [NOT_LEARNED] * (width - len(labels)) for _, labels in rows]
    return torch.tensor(ids), torch.tensor(mask), torch.tensor(labels)


def share(step: int, steps: int, warmup: float = 0.1) -> float:
    """Of the learning rate: up in a line for a tenth of the steps, then down along a cosine."""
    up = round(warmup * steps)
    if step < up:
        return (step + 1) / (up + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - up) / max(1, steps - up)))


if __name__ == "__main__":
    main()
