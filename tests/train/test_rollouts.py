from types import SimpleNamespace

import pytest
from grpo_child import asked, load, low_ids, make_base, many_low_ids, start_of

from plantune_lite.recipe.schema import GRPO
from plantune_lite.runs.job import Training
from plantune_lite.train import grpo
from plantune_lite.train.callbacks import TrainingError
from plantune_lite.train.rollouts import Guided

END = 2
PLANNED = "<plan>\n1. Add the price.\n</plan>\n\\boxed{36}"


@pytest.fixture(scope="module")
def planner(tmp_path_factory):
    """A student that begins with a plan, and closes it at times: what it was taught, drawn from freely."""
    folder = tmp_path_factory.mktemp("planner")
    base = make_base(folder / "llama")
    return base, start_of(base, folder / "sft", [PLANNED, PLANNED.replace("Add", "Multiply")], max_steps=60)


def trainer(most=48, temperature=0.8):
    """What a rollout reads of TRL's trainer."""
    state = SimpleNamespace(global_step=0)
    return SimpleNamespace(max_completion_length=most, temperature=temperature, state=state)


def batched(items, size):
    return [items[start : start + size] for start in range(0, len(items), size)]


def in_blocks(rows, size):
    return [row["prompt"] for row in rows for _ in range(size)]


# --- the groups -------------------------------------------------------------------------------------------------------


def plan_of(learns, ids):
    """The tokens up to the one that closes the plan; None if none does."""
    ends = range(1, len(ids) + 1)
    return next((ids[:end] for end in ends if "</plan>" in learns.tokenizer.decode(list(ids[:end]))), None)


def assert_groups(learns, rows, found, plans, continuations, most):
    """Every plan's continuations share that plan, token for token, in the order TRL asked for."""
    size = plans * continuations
    assert len(found["completion_ids"]) == len(rows) * size
    for place, row in enumerate(rows):
        ids = learns.encode_chat(tuple(row["prompt"]))
        assert found["prompt_ids"][place * size : (place + 1) * size] == [ids] * size
    for completions in batched(found["completion_ids"], continuations):
        plan = plan_of(learns, completions[0])
        assert all(plan_of(learns, ids) == plan for ids in completions)
        assert all(END not in ids[:-1] and len(ids) <= most for ids in completions)
        assert all(ids[-1] == END or len(ids) == most for ids in completions)
        if plan is None or len(plan) == most:  # nothing follows it
            assert all(ids == completions[0] for ids in completions)
        else:
            assert all(len(ids) > len(plan) for ids in completions)


@pytest.mark.parametrize(("plans", "continuations"), [(4, 3), (2, 1), (3, 2)])
def test_every_plans_continuations_share_that_plan_token_for_token(planner, plans, continuations):
    learns, rows = load(*planner), asked(3)
    found = Guided(learns, plans, continuations, seed=0)(in_blocks(rows, plans * continuations), trainer())
    assert_groups(learns, rows, found, plans, continuations, 48)
    assert any(plan_of(learns, ids[:-1]) for ids in found["completion_ids"]) and found["logprobs"] is None


def test_plans_of_a_group_differ_and_so_do_continuations(planner):
    learns = load(*planner)
    found = Guided(learns, 4, 3, seed=0)(in_blocks(asked(4), 12), trainer())
    said = [tuple(ids) for ids in found["completion_ids"]]
    plans = {plan_of(learns, ids) or ids for ids in said}
    assert 4 < len(plans) < len(set(said))


def test_groups_follow_from_the_seed(planner):
    learns, prompts = load(*planner), in_blocks(asked(2), 4)
    found = Guided(learns, 2, 2, seed=0)(prompts, trainer())
    assert Guided(learns, 2, 2, seed=0)(prompts, trainer()) == found != Guided(learns, 2, 2, seed=1)(prompts, trainer())


def test_a_plan_that_never_closes_is_the_completion(planner):
    learns, rows = load(planner[0]), asked(2)  # untrained: it plans nothing
    found = Guided(learns, 2, 2, seed=0)(in_blocks(rows, 4), trainer())
    assert not any(plan_of(learns, ids) for ids in found["completion_ids"])
    assert_groups(learns, rows, found, 2, 2, 48)


def test_a_plan_that_leaves_no_room_is_the_completion(planner):
    learns, rows = load(*planner), asked(4)
    plan = PLANNED.partition("</plan>")[0] + "</plan>"
    closed_at = len(learns.tokenizer(plan, add_special_tokens=False)["input_ids"])
    found = Guided(learns, 4, 2, seed=0)(in_blocks(rows, 8), trainer(most=closed_at, temperature=0.5))
    assert_groups(learns, rows, found, 4, 2, closed_at)
    texts = [learns.tokenizer.decode(ids) for ids in found["completion_ids"]]
    assert any("</plan>" in text for text in texts)  # closed by the last token there is


@pytest.mark.parametrize("prompts", [["a"] * 5 + ["b"] * 7, ["a", "b"] * 6, ["a"] * 13, ["a", "b"]])
def test_a_trl_that_hands_prompts_out_in_another_way_is_noticed(prompts):
    with pytest.raises(TrainingError, match="not made of whole groups, 6 of the same prompt"):
        Guided(None, 3, 2, seed=0)(prompts, trainer())


# --- in TRL's trainer -------------------------------------------------------------------------------------------------


def test_the_groups_reach_the_rewards_as_they_were_made(planner, tmp_path):
    seen = []

    def noted(prompts, completions, *, completion_ids, problem_id, **_):
        seen.append((problem_id, completion_ids))
        return low_ids(prompts, completions, completion_ids=completion_ids)

    learns, rows = load(*planner), asked(8)
    part = GRPO(reward="guided", plans=3, continuations=2, group=6, prompts_per_step=2, steps=2, max_completion=48)
    grpo.train(
        learns,
        rows,
        grpo.Rewards(lambda most: [("noted", noted, 1.0)], many_low_ids),
        part,
        tmp_path / "grpo",
        Training(),
    )
    by_id = {row["problem_id"]: row for row in rows}
    for problem_id, completion_ids in seen:
        assert [len(set(block)) for block in batched(problem_id, 6)] == [1, 1]
        asked_for = [by_id[id] for id in problem_id[::6]]
        prompt_ids = [learns.encode_chat(tuple(row["prompt"])) for row in asked_for for _ in range(6)]
        found = {"completion_ids": completion_ids, "prompt_ids": prompt_ids}
        assert_groups(learns, asked_for, found, 3, 2, 48)
    assert len(seen) == 2
