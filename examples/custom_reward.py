"""A reward of your own in GRPO, added to the recipe's:

    plantune run smollm2_135m_grpo name=short_plans grpo.rewards=examples/custom_reward.py:short_plan

A reward is a function with TRL's own signature, which any TRL trainer takes as it is: lists of prompts and completions
(chats, a list of messages each), and the columns of corpus/prompts.jsonl by name: `answer`, `choices`, `kind`, `plan`
(the reference), `problem_id`. It gives a number a completion, or None where it has no opinion. Name the columns you
want, and take the rest as **_.

The right answer earns 2, likeness to the reference plan up to 1; yours counts as it is, or times what
GRPO(weights={"short_plan": 0.5}) says. What each reward gave is in metrics.jsonl and in report.html, and what it was
given for in grpo/samples.jsonl. In a recipe it stands as text, GRPO(rewards=("examples/custom_reward.py:short_plan",)),
and a changed function is a changed recipe.
"""

from typing import Any

from plantune_lite.plan import parse


def short_plan(prompts: list[Any], completions: list[Any], *, plan: list[list[str]], **_: Any) -> list[float]:
    """Half a point for a plan in our format that has no more steps than the reference."""
    rewards = []
    for completion, reference in zip(completions, plan, strict=True):
        written = parse(completion[-1]["content"])
        rewards.append(0.5 if written and 0 < len(written.plan) <= len(reference) else 0.0)
    return rewards
