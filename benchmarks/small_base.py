"""A base for studies of worlds that a CPU trains in minutes: it can read a question, and knows no world.

    make(Path("base"), "blocksworld", sizes=(4,), steps=250)   a folder, as a student's recipe names one

A llama of a million parameters learns questions followed by what they say, fact by fact in any order, and by steps that
were drawn from all there are, most of which cannot be done. So it can read and write when a study begins, and what it
comes to know of how the world works it knows from the plans that the study gives it. Its tokenizer has SmolLM2's turns
and is made from these texts.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from plantune_lite import embedded, plans, speech
from plantune_lite.lab.domains import generate
from plantune_lite.lab.planning import problem_of
from plantune_lite.lab.worlds import World

LAYERS, WIDTH, HEADS, WORDS = 4, 128, 4, 400
PROBLEMS, BATCH, LEARNING_RATE = 3_000, 32, 2e-3


def make(out: Path, name: str, *, sizes: tuple[int, ...], steps: int, seed: int = 0) -> Path:
    """The base in a folder, made once."""
    if (out / "config.json").is_file():
        return out
    texts = list(_texts(name, sizes, seed))
    spoken = AutoTokenizer.from_pretrained(embedded.folder())
    tokenizer = spoken.train_new_from_iterator(("\n".join(turn["content"] for turn in one) for one in texts), WORDS)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    _learn(model, [_ids(tokenizer, one) for one in texts], tokenizer.pad_token_id, steps, seed)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    made = out.with_suffix(".part")
    tokenizer.save_pretrained(made)
    model.save_pretrained(made)
    os.replace(made, out)
    return out


def _texts(name: str, sizes: tuple[int, ...], seed: int) -> Iterator[tuple[dict[str, str], ...]]:
    """Conversations: a question, and what it says or steps in which there is no sense."""
    rng = Random(f"words {seed}")
    for number, world in enumerate(generate(name, sizes=sizes, seed=seed + 1_000, count=PROBLEMS)):
        problem = problem_of(world, id=str(number))
        facts = sorted(" ".join(fact) for fact in (world.task.start if number % 3 else _goal(world)))
        said = rng.sample(facts, len(facts)) if number % 6 else rng.choices(sorted(world.actions), k=8)
        reply = plans.render(tuple(said)).rstrip()
        yield (*plans.ask_plainly(problem), {"role": "assistant", "content": reply})


def _goal(world: World) -> Iterator[tuple[str, ...]]:
    return (one.atom for one in world.task.goal)


def _ids(tokenizer: object, messages: tuple[dict[str, str], ...]) -> list[int]:
    return [*speech.encode_chat(tokenizer, messages), tokenizer.eos_token_id]


def _learn(model: LlamaForCausalLM, texts: list[list[int]], pad: int, steps: int, seed: int) -> None:
    """Every token, as a base learns."""
    rng = Random(f"batches {seed}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    model.train()
    for step in range(steps):
        batch = rng.sample(texts, BATCH)
        width = max(map(len, batch))
        ids_B_T = torch.tensor([one + [pad] * (width - len(one)) for one in batch])
        mask_B_T = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in batch])
        loss = model(ids_B_T, attention_mask=mask_B_T, labels=ids_B_T.masked_fill(mask_B_T == 0, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(f"base, step {step + 1} of {steps}: loss {loss.item():.3f}", flush=True)
    model.eval()
