"""A reward of your own in GRPO, added to the recipe's:

    plantune run smollm2_135m_grpo name=short_plans grpo.rewards=examples/custom_reward.py:short_plan

A reward is a function with TRL's signature, so any TRL trainer accepts it: it takes lists of prompts and completions
(chats, a list of messages each), and the columns of corpus/prompts.jsonl by name: `answer`, `choices`, `kind`, `plan`
(the reference), `problem_id`. It returns one number per completion, or None where it does not apply. Name the columns
you need, and collect the rest with **_.

A right answer earns 2, similarity to the reference plan up to 1; yours is added as it is, or multiplied by a weight,
GRPO(weights={"short_plan": 0.5}). metrics.jsonl and report.html show what each reward gave, grpo/samples.jsonl which
samples got it. In a recipe, write it as text: GRPO(rewards=("examples/custom_reward.py:short_plan",)). If the function
changes, the recipe counts as changed.
"""

from typing import Any

from plantune_lite.plan import parse


def short_plan(prompts: list[Any], completions: list[Any], *, plan: list[list[str]], **_: Any) -> list[float]:
    """Give half a point to a plan in our format that has no more steps than the reference."""
    rewards = []
    for completion, reference in zip(completions, plan, strict=True):
        written = parse(completion[-1]["content"])
        rewards.append(0.5 if written and 0 < len(written.plan) <= len(reference) else 0.0)
    return rewards
