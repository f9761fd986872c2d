"""Do what `plantune train` does in its SFT stage, without plantune: a loop over corpus/train.jsonl to read and change.

    plantune distill smollm2_135m
    python examples/sft_loop.py runs/smollm2_135m HuggingFaceTB/SmolLM2-135M-Instruct adapter
    plantune evaluate smollm2_135m --model adapter

Needs torch, transformers and peft. It learns only the completion, including its end of turn; a test checks that its
losses are those of the SFT stage. Left out: checkpoints, validation, 4-bit weights, batching rows by length, handling
of out-of-memory errors, and the time limit.
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

NOT_LEARNED = -100  # the label that cross entropy ignores
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
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).to(device)
    torch.manual_seed(args.seed)
    lora = LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules=LAYERS, task_type="CAUSAL_LM")
    model = get_peft_model(model, lora).train()

    with open(args.run / "corpus" / "train.jsonl", encoding="utf-8") as file:
        rows = [encoded(tokenizer, json.loads(line)) for line in file]
    rows = [row for row in rows if len(row[0]) <= args.max_length]
    trained = [weights for weights in model.parameters() if weights.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share(step, args.steps))

    batches = shuffled(rows, args.batch, args.seed)
    for step in range(1, args.steps + 1):
        ids, mask, labels = (part.to(device) for part in padded(next(batches), tokenizer.pad_token_id))
        logits = model(input_ids=ids, attention_mask=mask).logits
        # Position n predicts the token at n + 1; the mean is over the learned tokens of the whole batch.
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=NOT_LEARNED
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        print(f"step {step} of {args.steps}, loss {loss.item():.6f}", flush=True)

    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


def encoded(tokenizer: Any, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Return a row's token ids and labels, with the prompt not learned."""
    # The template writes the BOS token if the family has one, so the tokenizer must not add another.
    prompt = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    learned = tokenizer(row["completion"][-1]["content"].rstrip(), add_special_tokens=False)["input_ids"]
    # Gemma's turns do not end with its EOS; a student that never learns to end its turn never stops.
    ends = "<end_of_turn>" if "<end_of_turn>" in tokenizer.chat_template else tokenizer.eos_token
    learned.append(tokenizer.convert_tokens_to_ids(ends))
    return prompt_ids + learned, [NOT_LEARNED] * len(prompt_ids) + learned


def shuffled(rows: list[Any], batch: int, seed: int) -> Iterator[list[Any]]:
    """Yield batches endlessly, each epoch in a new order."""
    rng, waiting = random.Random(seed), []
    while True:
        waiting += rng.sample(rows, len(rows))
        while len(waiting) >= batch:
            yield waiting[:batch]
            waiting = waiting[batch:]


def padded(rows: list[tuple[list[int], list[int]]], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pad rows on the right to one batch: token ids, attention mask and labels."""
    width = max(len(ids) for ids, _ in rows)
    ids = [ids + [pad] * (width - len(ids)) for ids, _ in rows]
    mask = [[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows]
    labels = [labels + [NOT_LEARNED] * (width - len(labels)) for _, labels in rows]
    return torch.tensor(ids), torch.tensor(mask), torch.tensor(labels)


def share(step: int, steps: int, warmup: float = 0.1) -> float:
    """Return the learning rate's multiplier: linear warm-up for a tenth of the steps, then cosine decay."""
    up = round(warmup * steps)
    if step < up:
        return (step + 1) / (up + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - up) / max(1, steps - up)))


if __name__ == "__main__":
    main()
