import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plantune_lite.plan import ask_plainly, clean_step, render
from plantune_lite.problems.practice import stories
from plantune_lite.recipe.schema import GRPO, REWARDS
from plantune_lite.train import rewards
from plantune_lite.train.plan_similarity import Alignment
from plantune_lite.types import PlantuneError, RecipeError

PROBLEMS = list(stories.generate("train", seed=0, limit=40))
ROWS = [
    {
        "prompt": list(ask_plainly(problem)),
        "answer": problem.answer,
        "choices": [],
        "kind": "text",
        "plan": problem.extra["plan"],
    }
    for problem in PROBLEMS
]
SIMILARITY = rewards.plan_similarity(Alignment([(problem.question, problem.extra["plan"]) for problem in PROBLEMS]))


def good(problem):
    return render(problem.extra["plan"], problem.solution)


def called(reward, texts, rows=ROWS, chat=True):
    """As TRL calls it: columns by name, one value a completion, token ids among them."""
    rows = list(rows)[: len(texts)]
    said = [[{"role": "assistant", "content": text}] for text in texts] if chat else list(texts)
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
    ids = [[1] * len(text.split()) for text in texts]
    return reward(prompts=[row["prompt"] for row in rows], completions=said, completion_ids=ids, **columns)


# --- single rewards ---------------------------------------------------------------------------------------------------


def test_a_right_answer_is_worth_two_and_any_other_nothing():
    texts = [good(PROBLEMS[0]), "so it is \\boxed{-7}", "", f"which makes {PROBLEMS[3].answer}"]
    assert called(rewards.right_answer, texts) == [2, 0, 0, 2]
    assert called(rewards.right_answer, texts, chat=False) == [2, 0, 0, 2]


def test_a_choice_is_right_by_its_letter_or_its_text():
    row = {**ROWS[0], "answer": "B", "choices": ["red", "blue"]}
    assert called(rewards.right_answer, ["\\boxed{B}", "It is blue.", "\\boxed{A}", "(A) or (B)"], [row] * 4) == [
        2,
        2,
        0,
        0,
    ]


def test_rows_without_choices_need_no_column_of_them():
    assert rewards.right_answer(["What is 1 + 1?"], ["\\boxed{2}"], answer=["2"]) == [2]


def test_a_program_is_refused_and_not_run():
    with pytest.raises(PlantuneError, match="kind 'code'"):
        called(rewards.right_answer, ["print(1)"], [{**ROWS[0], "kind": "code"}])


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("<plan>\n1. Add.\n2. Halve.\n</plan>\nIt is \\boxed{3}.", 1),
        ("<plan>\n1. Add.\n2. Halve.\n</plan>\nIt is \\boxed{3}, yes \\boxed{3}.", 1 / 2),
        ("<plan>\n1. Add.\n2. Halve.\n</plan>\nIt is \\boxed{ }.", 1 / 2),
        ("<plan>\n1. Add.\n2. Halve to \\boxed{3}.\n</plan>\nIt is 3.", 1 / 2),
        ("<plan>\n1. Add.\n</plan>\nIt is \\boxed{3}.", 1),
        ("<plan>\n1. Add.\n</plan>\n", 1 / 2),
        ("<plan>\n1. Add.\n2. Hal", 0),
        ("Sure! <plan>\n1. Add.\n2. Halve.\n</plan>\nIt is \\boxed{3}.", 0),
        ("It is \\boxed{3}.", 0),
    ],
)
def test_the_shape_is_a_plan_and_one_box_behind_it(text, shape):
    assert called(rewards.plan_shape, [text]) == [pytest.approx(shape)]


def test_the_reference_plan_earns_one_and_none_or_half_a_plan_nothing():
    texts = [good(PROBLEMS[0]), PROBLEMS[1].solution, good(PROBLEMS[2])[:60], "<plan>\n</plan>\n", ""]
    assert called(SIMILARITY, texts) == [pytest.approx(1), 0, 0, 0, 0]


def test_a_plan_in_looser_form_is_compared_all_the_same():
    loose = "Sure.\n<plan>\n" + "\n".join(f"**{n}) {step}**" for n, step in enumerate(ROWS[0]["plan"], 1)) + "\n</plan>"
    assert called(SIMILARITY, [loose]) == [pytest.approx(1)]


def test_a_judge_is_asked_only_about_plans():
    asked = []

    def judge(questions, written, references):
        asked.extend(zip(questions, written, references, strict=True))
        return [0.5] * len(written)

    assert called(rewards.plan_similarity(judge), ["no plan", good(PROBLEMS[1])]) == [0, 0.5]
    plan = tuple(PROBLEMS[1].extra["plan"])
    assert asked == [(PROBLEMS[1].question, plan, plan)]


def test_a_row_without_a_reference_is_an_error():
    with pytest.raises(PlantuneError, match="no reference plan"):
        called(SIMILARITY, ["x"], [{**ROWS[0], "plan": []}])


def test_a_plan_that_tells_the_answer_or_computes_is_punished():
    answer = PROBLEMS[0].answer
    told = [f"The answer is {answer}.", f"Get 5 + 5 = {answer}.", "Add both.", ""]
    texts = [render((step,)) if step else "no plan" for step in told]
    assert called(rewards.spoiler_penalty, texts, ROWS[:1] * 4) == [-1, -1, 0, 0]


def test_length_is_punished_in_a_line_over_the_last_tokens():
    reward = rewards.soft_overlong(100)
    ids = [[1] * length for length in (10, 80, 90, 100, 130)]
    assert reward(["?"] * 5, [""] * 5, completion_ids=ids) == [0, 0, -0.5, -1, -1]


# --- properties -------------------------------------------------------------------------------------------------------

SINGLE = [rewards.right_answer, rewards.plan_shape, SIMILARITY, rewards.spoiler_penalty, rewards.soft_overlong(40)]
TEXTS = [good(PROBLEMS[0]), good(PROBLEMS[1]), PROBLEMS[0].solution, "<plan>\n1. Add.\n", "\\boxed{3}", ""]


@pytest.mark.parametrize("reward", SINGLE, ids=lambda reward: reward.__name__)
@given(order=st.permutations(range(len(TEXTS))))
def test_rewards_move_with_their_completions(reward, order):
    rows = ROWS[:1] * len(TEXTS)
    straight = called(reward, TEXTS, rows)
    assert called(reward, [TEXTS[place] for place in order], rows) == [straight[place] for place in order]


@given(st.integers(0, 39), st.sampled_from([". ", " ", ", "]))
def test_copying_the_question_as_a_plan_earns_nothing(number, cut):
    steps = [step for step in map(clean_step, PROBLEMS[number].question.split(cut)) if step]
    text = render(steps)
    assert called(SIMILARITY, [text], ROWS[number : number + 1]) == [0]


@settings(deadline=None)  # the first formula starts sympy
@given(st.text() | st.text().map("<plan>\n1. {}\n</plan>\n".format))
def test_any_text_gets_a_number_from_every_reward(text):
    low, high = -1, 2
    for reward in SINGLE:
        [value] = called(reward, [text])
        assert low <= value <= high


# --- guided groups ----------------------------------------------------------------------------------------------------


def test_plans_share_one_by_the_accuracy_of_what_follows_them():
    shares = rewards.plan_softmax([1, 0.5, 0.5, 0], temperature=0.5)
    assert sum(shares) == pytest.approx(1) and shares[0] / shares[3] == pytest.approx(math.e**2)
    assert shares[1] == shares[2] and rewards.plan_softmax([0, 0]) == [0.5, 0.5]


def test_a_guided_reward_is_outcome_plan_form_and_length_by_hand():
    """Two plans, two replies each: the first plan is right twice, with 4 and 8 tokens; the second never."""
    plan = "<plan>\n1. Add.\n2. Halve.\n</plan>\n"
    texts = [plan + "\\boxed{19}", plan + "so \\boxed{19}", plan + "\\boxed{1}", "\\boxed{2}"]
    logged = {}
    found = rewards.guided(GRPO(plans=2, continuations=2))(
        ["q"] * 4,
        texts,
        completion_ids=[[1] * length for length in (4, 8, 6, 12)],
        answer=["19"] * 4,
        log_metric=logged.__setitem__,
    )
    first = math.e**2 / (math.e**2 + 1)
    expected = [
        1 + 0.5 * first + 0.2 + 0.1,
        1 + 0.5 * first + 0.2 + 0.1 * math.exp(-4 / 8),
        0.5 * (1 - first) + 0.2,
        0.5 * (1 - first),
    ]
    assert found == pytest.approx(expected)
    assert logged["guided/outcome"] == 0.5 and logged["guided/analytic"] == pytest.approx(0.5)


def test_padding_a_plan_earns_nothing_in_its_shape_or_in_a_guided_group():
    short, padded = (render(plan, "\\boxed{19}") for plan in (("Add.",), ("Read the question.", "Add.")))
    assert called(rewards.plan_shape, [short]) == called(rewards.plan_shape, [padded]) == [1]
    ids = [[1] * len(text.split()) for text in (short, padded)]
    one, other = rewards.guided(GRPO(plans=2, continuations=1))(
        ["q"] * 2, [short, padded], completion_ids=ids, answer=["19"] * 2
    )
    assert one > other  # as right as the other, and shorter


def test_length_says_nothing_where_nothing_is_right_or_all_are_as_long():
    assert rewards.length_terms(GRPO(), [3, 5], [False, False]) == [0, 0]
    assert rewards.length_terms(GRPO(), [4, 4], [True, False]) == [0, 0]


def test_the_open_choices_of_the_length_term_are_open():
    part = GRPO(length_weight=1, longest=12, length_for="all")
    terms = rewards.length_terms(part, [4, 8], [True, False])
    assert terms == pytest.approx([1, math.exp(-0.5)])


@given(
    st.lists(st.sampled_from(["\\boxed{1}", "\\boxed{2}", "?"]), min_size=12, max_size=12), st.permutations(range(3))
)
def test_guided_rewards_move_with_their_plans(texts, order):
    def rewarded(texts):
        ids = [[1] * len(text) for text in texts]
        return rewards.guided(GRPO(plans=3, continuations=4))(["q"] * 12, texts, completion_ids=ids, answer=["1"] * 12)

    def moved(values):
        return [value for plan in order for value in values[4 * plan : 4 * plan + 4]]

    assert rewarded(moved(texts)) == pytest.approx(moved(rewarded(texts)))


@pytest.mark.parametrize("prompts", [["a"] * 3, ["a", "a", "b", "b"]])
def test_a_batch_that_is_not_made_of_whole_groups_is_an_error(prompts):
    with pytest.raises(PlantuneError, match="num_generations=4"):
        rewards.guided(GRPO(plans=2, continuations=2))(
            prompts, ["x"] * len(prompts), completion_ids=[[1]] * 4, answer=["1"] * len(prompts)
        )


# --- judges that fail -------------------------------------------------------------------------------------------------


def replying(*values):
    """A reward that gives these, call after call."""
    given = iter(values)
    return lambda prompts, completions, **columns: list(next(given))


def advantages(rewards_B_F, group):
    """TRL 1.14, sum_then_normalize and scale_rewards="group": nansum, then the group's mean and spread."""
    import torch

    table = torch.tensor([[math.nan if value is None else value for value in row] for row in rewards_B_F])
    summed = table.nansum(dim=1).view(-1, group)
    return ((summed - summed.mean(1, keepdim=True)) / (summed.std(1, keepdim=True) + 1e-4)).flatten().tolist()


def test_a_sample_whose_judge_failed_is_neither_punished_nor_favoured():
    judged = [0.75, None, 0.75, 0.75, None, None, None, None]
    answers = [2.0, 2.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0]
    prompts = ["p"] * 4 + ["q"] * 4
    reward = rewards.Filled(replying(judged, *[[1.0] * 8] * 9), 4)
    filled = reward(prompts, [""] * 8)
    assert filled == [0.75] * 4 + [0] * 4

    punished = advantages(list(zip(answers, judged, strict=True)), 4)
    fair = advantages(list(zip(answers, filled, strict=True)), 4)
    assert punished[1] < punished[0] - 0.5  # what TRL makes of a None
    assert fair == pytest.approx(advantages([[answer] for answer in answers], 4), abs=1e-5)


def test_one_in_five_may_fail_in_ten_steps_and_not_one_more():
    fail, fine = [None, None, 1.0, 1.0], [1.0] * 4
    reward = rewards.Filled(replying(*[fail] * 4, *[fine] * 6, fail, fail), 4)
    for _ in range(11):  # the eleventh call comes when the first is no longer among the last ten
        reward(["p"] * 4, [""] * 4)

    reward = rewards.Filled(replying(*[fail] * 5), 4)
    for _ in range(4):
        reward(["p"] * 4, [""] * 4)
    with pytest.raises(PlantuneError, match="10 plans could not be judged, more than 20% of those of 10 steps"):
        reward(["p"] * 4, [""] * 4)


# --- what a recipe means ----------------------------------------------------------------------------------------------


def names(part, **more):
    return [name for name, _, _ in rewards.of(part, ROWS, max_completion=100, **more)]


def test_a_recipe_knows_the_names_of_all_rewards():
    every = {name for reward in ("answer", "answer+plan", "guided") for name in names(GRPO(reward=reward))}
    assert every == set(REWARDS)


def test_a_recipe_names_its_rewards_in_one_field():
    stable = GRPO(reward="answer+plan")
    assert names(stable) == ["right_answer", "plan_similarity", "plan_shape", "spoiler_penalty", "soft_overlong"]
    assert names(replace(stable, reward="answer")) == ["right_answer", "soft_overlong"]
    assert names(replace(stable, settings="paper")) == ["right_answer", "plan_similarity"]
    assert names(replace(stable, settings="paper", reward="answer")) == ["right_answer"]
    assert names(replace(stable, reward="guided")) == ["guided", "soft_overlong"]
    assert names(replace(stable, settings="paper", reward="guided")) == ["guided"]


def test_weights_of_the_recipe_take_the_place_of_the_settings_own():
    part = GRPO(reward="answer+plan", weights={"plan_similarity": 0.5, "plan_shape": 0})
    weights = {name: weight for name, _, weight in rewards.of(part, ROWS, max_completion=100)}
    assert (weights["plan_similarity"], weights["plan_shape"], weights["right_answer"]) == (0.5, 0, 1.0)
    assert names(replace(part, reward="answer")) == ["right_answer", "soft_overlong"]  # the others have no say there


def test_what_the_paper_leaves_open_of_guided_groups_is_the_recipe_s_to_say():
    texts = [good(PROBLEMS[0]), good(PROBLEMS[0]) + " More.", "no", "no"]

    def worth(**open_choices):
        part = GRPO(reward="guided", group=4, plans=2, continuations=2, **open_choices)
        (_, reward, _), _ = rewards.of(part, ROWS, max_completion=100)
        ids = [[0] * length for length in (10, 20, 10, 30)]
        said = [[{"role": "assistant", "content": text}] for text in texts]
        answers = [ROWS[0]["answer"]] * 4
        return reward([ROWS[0]["prompt"]] * 4, said, completion_ids=ids, answer=answers)

    plain = worth(plan_weight=0, length_weight=0)
    assert plain == pytest.approx([1.2, 1.2, 0, 0])
    assert worth(plan_weight=0, length_weight=0, structure_weight=0.5) == pytest.approx([1.5, 1.5, 0, 0])
    sharp, soft = worth(plan_softmax=0.1, length_weight=0), worth(plan_softmax=10, length_weight=0)
    assert sharp[0] == pytest.approx(1.7, abs=1e-3) and 1.45 < soft[0] < 1.5
    only_right, everyone = worth(plan_weight=0), worth(plan_weight=0, length_for="all")
    assert only_right[0] == pytest.approx(1.3) and only_right[2] == 0 and everyone[2] == pytest.approx(0.1)
    assert worth(plan_weight=0, longest=1000)[1] > only_right[1]  # 20 tokens are near the shortest, of a thousand


def test_every_reward_of_a_recipe_can_be_called_as_trl_calls_it():
    for name, reward, weight in rewards.of(GRPO(reward="answer+plan"), ROWS, max_completion=500):
        values = called(reward, [good(PROBLEMS[0]), good(PROBLEMS[1])])
        assert reward.__name__ == name and weight > 0 and len(values) == 2


def test_a_teacher_as_judge_is_filled():
    part = GRPO(reward="answer+plan", judge="teacher", group=2)
    given = dict((name, reward) for name, reward, _ in rewards.of(part, ROWS, max_completion=9, judge=one_in_two))
    text = render(ROWS[0]["plan"])
    assert called(given["plan_similarity"], [text, text], ROWS[:1] * 2) == [0.5, 0.5]


def one_in_two(questions, written, references):
    return [0.5 if number % 2 == 0 else None for number, _ in enumerate(questions)]


def test_a_reward_of_ones_own_is_added_by_name(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def short(prompts, completions, **columns):\n    return [1.0 for _ in completions]\n")
    found = rewards.of(GRPO(reward="answer", rewards=(f"{file}:short",)), ROWS, max_completion=9)
    assert [(name, weight) for name, _, weight in found][-1] == ("short", 1.0)
    assert called(found[-1][1], ["x"]) == [1]
    with pytest.raises(RecipeError, match="has no function 'long'"):
        rewards.of(GRPO(reward="answer", rewards=(f"{file}:long",)), ROWS, max_completion=9)
