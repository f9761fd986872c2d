"""Is `practice` of the right difficulty for SmolLM2-135M? Untuned, and after a short SFT on plans and solutions.

    python -m benchmarks.practice        # 2 threads, about 10 minutes

60 fresh problems of the train templates and 60 of the held-out ones, 20 a level; greedy; an answer is right when the
last boxed number, or where nothing is boxed the last number, is the gold one. One seed, so a few problems more or less
mean nothing. The model is dequantized from the embedded GGUF, the tokenizer is built from the GGUF's own tables.
"""

import math
import re
import time
from collections import Counter
from pathlib import Path
from random import Random

import peft
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GgufConfig

from benchmarks.report import machine, markdown, write
from plantune_lite.plan import ask_plainly, ask_step_by_step, render
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.student.smollm2 import gguf_path
from plantune_lite.types import Messages, Problem

SEED, THREADS = 0, 2
TRAIN_PROBLEMS, TRAIN_LEVELS = 480, (1, 2)
BATCH, LEARNING_RATE, RANK = 8, 1e-3, 32
TEST_PROBLEMS, MAX_NEW_TOKENS, GENERATE_BATCH = 60, 192, 30
END, PAD = 2, 0  # <|im_end|>, <|endoftext|>


def main() -> None:
    """Measure, train, measure again, write down."""
    started = time.monotonic()
    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    path = gguf_path()
    tokenizer = load_tokenizer(path)
    model = load_model(path)
    train = list(practice_problems("train", seed=SEED, limit=TRAIN_PROBLEMS, levels=TRAIN_LEVELS))
    seen = {problem.question for problem in train}
    fresh = [p for p in practice_problems("train", seed=SEED + 1, limit=TEST_PROBLEMS + 100) if p.question not in seen]
    suites = {
        "train templates, fresh problems": balanced(fresh),
        "held-out templates": balanced(list(practice_problems("test", seed=SEED, limit=TEST_PROBLEMS + 100))),
    }
    results = {"untuned, step by step": measure(model, tokenizer, suites, ask_step_by_step)}
    model, training = tune(model, tokenizer, train)
    results["plan+solution"] = measure(model, tokenizer, suites, ask_plainly)
    write_down(results, training, round(time.monotonic() - started))


def balanced(problems: list[Problem]) -> list[Problem]:
    """The first so many problems of each level."""
    taken: Counter[int] = Counter()
    chosen = []
    for problem in problems:
        level = problem.extra["level"]
        if taken[level] < TEST_PROBLEMS // 3:
            taken[level] += 1
            chosen.append(problem)
    return chosen


# --- model ------------------------------------------------------------------------------------------------------------


def load_model(path: Path) -> torch.nn.Module:
    """The GGUF as a plain dense model."""
    return AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )


def load_tokenizer(path: Path) -> Tokenizer:
    """GPT-2's byte-level BPE with single digits, from the GGUF's own tables; transformers' rebuild loses the digits."""
    import gguf

    fields = gguf.GGUFReader(path).fields
    words = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in words[:17]])
    return tokenizer


def chatml(messages: Messages) -> str:
    """A conversation up to the reply."""
    turns = (f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in messages)
    return f"{''.join(turns)}<|im_start|>assistant\n"


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(model, tokenizer: Tokenizer, suites: dict[str, list[Problem]], ask) -> dict:
    """Right answers of each suite, by level."""
    started = time.monotonic()
    results = {}
    for name, problems in suites.items():
        replies = reply(model, tokenizer, [chatml(ask(problem)) for problem in problems])
        right = [last_number(text) == problem.answer for text, problem in zip(replies, problems, strict=True)]
        levels = [problem.extra["level"] for problem in problems]
        results[name] = {
            "right": sum(right),
            "of": len(right),
            "interval_95": wilson(sum(right), len(right)),
            "levels": {
                level: [sum(r for r, at in zip(right, levels, strict=True) if at == level), levels.count(level)]
                for level in sorted(set(levels))
            },
            "planned": sum(text.startswith("<plan>\n") and "</plan>" in text for text in replies),
            "boxed": sum("\\boxed{" in text for text in replies),
            "examples": [
                {"question": p.question, "gold": p.answer, "reply": text}
                for p, text in list(zip(problems, replies, strict=True))[:4]
            ],
        }
        print(f"{name}: {sum(right)} of {len(right)} {results[name]['levels']}", flush=True)
    return {"seconds": round(time.monotonic() - started), "suites": results}


@torch.inference_mode()
def reply(model, tokenizer: Tokenizer, prompts: list[str]) -> list[str]:
    """Greedy replies, in left-padded batches of prompts of about one length."""
    model.eval()
    ids = [tokenizer.encode(prompt).ids for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    texts = [""] * len(ids)
    for start in range(0, len(order), GENERATE_BATCH):
        batch = order[start : start + GENERATE_BATCH]
        width = max(len(ids[index]) for index in batch)
        padded = torch.tensor([[PAD] * (width - len(ids[index])) + ids[index] for index in batch])
        mask = torch.tensor([[0] * (width - len(ids[index])) + [1] * len(ids[index]) for index in batch])
        out = model.generate(
            input_ids=padded,
            attention_mask=mask,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            eos_token_id=END,
            pad_token_id=PAD,
        )
        for index, row in zip(batch, out[:, width:].tolist(), strict=True):
            texts[index] = tokenizer.decode(row[: row.index(END)] if END in row else row)
    return texts


def last_number(text: str) -> str | None:
    """The last boxed number, else the last number; as a plain integer where it is one."""
    number = r"-?\d[\d,]*(?:\.\d+)?"
    found = re.findall(rf"\\boxed\{{\s*\$?({number})", text) or re.findall(number, text)
    return found[-1].replace(",", "").removesuffix(".00").removesuffix(".0") if found else None


def wilson(right: int, of: int, z: float = 1.96) -> list[float]:
    """The 95 % interval of a share."""
    share, spread = right / of, z * z / of
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / of + spread / (4 * of)) / (1 + spread)
    return [round(max(0.0, middle - half), 3), round(min(1.0, middle + half), 3)]


# --- training ---------------------------------------------------------------------------------------------------------


def tune(model, tokenizer: Tokenizer, problems: list[Problem]) -> tuple[torch.nn.Module, dict]:
    """One epoch of LoRA on the replies alone, merged into the model."""
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    model.train()
    rows = []
    for problem in problems:
        prompt = tokenizer.encode(chatml(ask_plainly(problem))).ids
        rows.append((prompt, [*tokenizer.encode(render(problem.extra["plan"], problem.solution)).ids, END]))
    rows.sort(key=lambda row: len(row[0]) + len(row[1]))  # rows of about one length make a batch: little padding
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    Random(SEED).shuffle(batches)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    steps = len(batches)
    warmup = max(1, steps // 10)
    losses, started = [], time.monotonic()
    for step, batch in enumerate(batches):
        scale = min((step + 1) / warmup, (steps - step) / (steps - warmup))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * scale
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(round(loss.item(), 4))
        if step % 10 == 9:
            print(f"step {step + 1} of {steps}, loss {losses[-1]}, {time.monotonic() - started:.0f} s", flush=True)
    seconds = time.monotonic() - started
    report = {
        "steps": steps,
        "rows": len(rows),
        "batch": BATCH,
        "learning_rate": LEARNING_RATE,
        "lora_rank": RANK,
        "seconds": round(seconds),
        "mean_tokens": round(sum(len(prompt) + len(target) for prompt, target in rows) / len(rows)),
        "loss_every_tenth": losses[::10] + losses[-1:],
    }
    return model.merge_and_unload(), report


def loss_of(model, batch: list[tuple[list[int], list[int]]]) -> torch.Tensor:
    """The mean loss of the targets' tokens; logits are made for the targets alone, a third of the work."""
    width = max(len(prompt) + len(target) for prompt, target in batch)
    longest = max(len(target) for _, target in batch)
    pads = [width - len(prompt) - len(target) for prompt, target in batch]
    ids = torch.tensor([[PAD] * pad + prompt + target for pad, (prompt, target) in zip(pads, batch, strict=True)])
    mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
    labels = torch.tensor([[-100] * (longest - len(target)) + target for _, target in batch])
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=longest + 1).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


# --- writing it down --------------------------------------------------------------------------------------------------


def write_down(results: dict, training: dict, seconds: int) -> None:
    """The same facts for machines and for people."""
    rows = []
    for model, result in results.items():
        for suite, r in result["suites"].items():
            low, high = (round(100 * bound) for bound in r["interval_95"])
            levels = [f"{right} of {of}" for right, of in r["levels"].values()]
            rows.append((model, suite, f"{r['right']} of {r['of']}", f"{low} to {high} %", *levels))
    text = markdown(("model", "problems", "right", "95 %", "level 1", "level 2", "level 3"), rows)
    text += (
        f"\n\nSFT: {training['steps']} steps of {BATCH} rows, one epoch over {training['rows']} problems of levels "
        f"{' and '.join(map(str, TRAIN_LEVELS))} of the train templates (level 3 is never trained), plan and solution "
        f"as the target, LoRA rank {RANK}, learning rate {LEARNING_RATE}, {training['mean_tokens']} tokens a row, "
        f"{training['seconds']} s. Loss at each tenth step: {', '.join(map(str, training['loss_every_tenth']))}. "
        f"All in all {seconds} s with {THREADS} threads in bfloat16.\n\n"
        "Not measured: the same SFT without plans, other seeds, other prompts for the untuned model."
    )
    versions = machine("torch", "transformers", "peft", "tokenizers")
    write(
        "practice",
        command="python -m benchmarks.practice",
        about=(
            "Is `practice` of the right difficulty for SmolLM2-135M? Greedy, at most "
            f"{MAX_NEW_TOKENS} new tokens, seed {SEED}; right when the last boxed number, or where nothing is boxed "
            "the last number, is the gold one."
        ),
        found={"machine": versions, "seed": SEED, "seconds": seconds, "training": training, "results": results},
        text=text,
    )


if __name__ == "__main__":
    main()
