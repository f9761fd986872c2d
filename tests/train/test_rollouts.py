from types import SimpleNamespace

import pytest
from grpo_child import asked, load, low_ids, make_base, many_low_ids, start_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from plantune_lite.recipe.schema import GRPO
from plantune_lite.runs.job import Training
from plantune_lite.train import grpo, rollouts
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
    return SimpleNamespace(max_completion_length=most, temperature=temperature, eos_token_ids=[END])


def batched(items, size):
    return [items[start : start + size] for start in range(0, len(items), size)]


def in_blocks(rows, size):
    return [row["prompt"] for row in rows for _ in range(size)]


# --- the groups -------------------------------------------------------------------------------------------------------


def assert_groups(learns, rows, found, plans, continuations, most):
    """Every plan's continuations share that plan, token for token, in the order TRL asked for."""
    size = plans * continuations
    assert len(found["completion_ids"]) == len(rows) * size
    assert found["plan_index"] == [plan for _ in rows for plan in range(plans) for _ in range(continuations)]
    for place, row in enumerate(rows):
        ids = learns.encode_chat(tuple(row["prompt"]))
        assert found["prompt_ids"][place * size : (place + 1) * size] == [ids] * size
    for at in batched(range(len(rows) * size), continuations):
        completions = [found["completion_ids"][one] for one in at]
        [tokens], [is_closed] = ({found[name][one] for one in at} for name in ("plan_tokens", "plan_closed"))
        [plan] = {tuple(ids[:tokens]) for ids in completions}
        text = learns.tokenizer.decode(plan)
        if is_closed:  # by its last token, and not before
            assert "</plan>" in text and "</plan>" not in learns.tokenizer.decode(plan[:-1])
            assert all(tokens < len(ids) <= most for ids in completions)
            assert all(END not in ids[:-1] for ids in completions)
        else:
            assert all(tuple(ids) == plan for ids in completions)
            assert END not in plan[:-1] and (plan[-1] == END or len(plan) == most)


@pytest.mark.parametrize(("plans", "continuations"), [(4, 3), (2, 1), (3, 2)])
def test_every_plans_continuations_share_that_plan_token_for_token(planner, plans, continuations):
    learns, rows = load(*planner), asked(3)
    found = Guided(learns, plans, continuations)(in_blocks(rows, plans * continuations), trainer())
    assert_groups(learns, rows, found, plans, continuations, 48)
    assert any(found["plan_closed"]) and found["logprobs"] is None


def test_plans_of_a_group_differ_and_so_do_continuations(planner):
    learns = load(*planner)
    found = Guided(learns, 4, 3)(in_blocks(asked(4), 12), trainer())
    said = [tuple(ids) for ids in found["completion_ids"]]
    plans = {ids[:tokens] for ids, tokens in zip(said, found["plan_tokens"], strict=True)}
    assert 4 < len(plans) < len(set(said))


def test_a_plan_that_never_closes_is_the_completion(planner):
    learns, rows = load(planner[0]), asked(2)  # untrained: it plans nothing
    found = Guided(learns, 2, 2)(in_blocks(rows, 4), trainer())
    assert not any(found["plan_closed"])
    assert_groups(learns, rows, found, 2, 2, 48)


def test_a_plan_that_leaves_no_room_is_the_completion(planner):
    learns, rows = load(*planner), asked(4)
    plan = PLANNED.partition("</plan>")[0] + "</plan>"
    closed_at = len(learns.tokenizer(plan, add_special_tokens=False)["input_ids"])
    found = Guided(learns, 4, 2)(in_blocks(rows, 8), trainer(most=closed_at, temperature=0.5))
    assert_groups(learns, rows, found, 4, 2, closed_at)
    texts = [learns.tokenizer.decode(ids) for ids in found["completion_ids"]]
    assert any("</plan>" in text for text in texts)  # closed by the last token there is


@pytest.mark.parametrize("prompts", [["a"] * 5 + ["b"] * 7, ["a", "b"] * 6, ["a"] * 13, ["a", "b"]])
def test_a_trl_that_hands_prompts_out_in_another_way_is_noticed(prompts):
    with pytest.raises(TrainingError, match="not made of whole groups, 6 of the same prompt"):
        Guided(None, 3, 2)(prompts, trainer())


# --- where a plan ends ------------------------------------------------------------------------------------------------

TOKENIZER = tiny_tokenizer("llama")
PIECES = st.lists(
    st.sampled_from(["</plan>", "</", "plan", ">", "<plan>", "1. é\n", "x", "</plan", "> 7"]), max_size=12
)


@settings(max_examples=100, deadline=None)
@given(PIECES, st.integers(1, 40))
def test_a_plan_is_cut_behind_the_token_that_closes_it(pieces, most):
    ids = TOKENIZER("".join(pieces), add_special_tokens=False)["input_ids"]
    plan = rollouts.cut(TOKENIZER, ids, most)
    assert ids[: len(plan.ids)] == plan.ids
    if "</plan>" not in "".join(pieces):
        assert plan == (ids, False)
    else:
        assert "</plan>" in TOKENIZER.decode(plan.ids) and "</plan>" not in TOKENIZER.decode(plan.ids[:-1])
        assert plan.closed is (len(plan.ids) < most)


def test_what_follows_the_end_of_a_turn_is_padding():
    assert rollouts.to_end([5, 2, 0, 0], {2}) == [5, 2]
    assert rollouts.to_end([5, 6, 7], {2}) == [5, 6, 7]
    assert rollouts.to_end([5, 4, 2], {2, 4}) == [5, 4]


# --- in TRL's trainer -------------------------------------------------------------------------------------------------


def test_the_groups_reach_the_rewards_as_they_were_made(planner, tmp_path):
    seen = []

    def noted(prompts, completions, *, completion_ids, plan_index, plan_tokens, plan_closed, problem_id, **_):
        seen.append((problem_id, completion_ids, plan_index, plan_tokens, plan_closed))
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
    for problem_id, completion_ids, plan_index, plan_tokens, plan_closed in seen:
        assert [len(set(block)) for block in batched(problem_id, 6)] == [1, 1]
        asked_for = [by_id[id] for id in problem_id[::6]]
        found = {
            "completion_ids": completion_ids,
            "plan_index": plan_index,
            "plan_tokens": plan_tokens,
            "plan_closed": plan_closed,
            "prompt_ids": [learns.encode_chat(tuple(row["prompt"])) for row in asked_for for _ in range(6)],
        }
        assert_groups(learns, asked_for, found, 3, 2, 48)
    assert len(seen) == 2
