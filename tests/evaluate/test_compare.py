import json

import pytest

from plantune_lite.evaluate.compare import standing, standing_json, standing_markdown, standing_text
from plantune_lite.files import write_records
from plantune_lite.types import PlantuneError, Problem, Score


def answers(run, name, *modes):
    """Write eval/NAME.jsonl: each mode with the problems, of 60, that it is right on."""
    rows = [
        Score(
            problem_id=f"p/{number}",
            sample=0,
            mode=mode,
            text="...",
            prediction="1",
            gold="1",
            same=number in right,
            how="",
            finish="length" if number == 0 else "stop",
        )
        for mode, right in modes
        for number in range(60)
    ]
    write_records(run / "eval" / f"{name}.jsonl", rows)
    return run


def with_untuned(run):
    return answers(run, "own.untuned", ("zero_shot_cot", range(6)), ("few_shot", range(20)), ("m1", range(3)))


def test_the_untuned_model_at_its_best_prompt_is_the_first_row(tmp_path):
    answers(with_untuned(tmp_path), "own.m1", ("m1", range(50)))
    answers(tmp_path, "own.baseline", ("plain", range(30)))
    rows = standing([tmp_path]).rows
    assert [(row.model, row.mode) for row in rows] == [
        ("untuned", "few_shot"),
        ("untuned", "zero_shot_cot"),
        ("untuned", "m1"),
        ("baseline", "plain"),
        ("m1", "m1"),
    ]
    assert (rows[0].accuracy.percent(), rows[0].truncated) == ("33.3 % (22.7 to 45.9)", 1 / 60)


def test_not_better_is_said_in_the_first_line(tmp_path):
    answers(with_untuned(tmp_path), "own.m1", ("m1", range(19, 41)))
    answers(tmp_path, "own.grpo", ("m1", range(50)))
    found = standing([tmp_path])
    first, gained, second = found.sentences
    assert first.startswith("own: m1 is not better than untuned at its best prompt (few_shot): +3.3 points (")
    assert gained.startswith("own: grpo (m1) is better than m1: +46.7 points (")
    assert second.startswith("own: grpo (m1) is better than untuned at its best prompt (few_shot): +50.0 points (")
    assert second.endswith("p < 0.001, 30 won, 0 lost")
    assert standing_text(found).startswith(first) and standing_markdown(found).startswith(f"- {first}")
    assert standing_json(found)["sentences"][0] == first


def test_a_tuned_model_stands_beside_the_baseline_then_the_untuned_one_and_then_its_plans_are_spoken_of(tmp_path):
    answers(with_untuned(tmp_path), "own.m1", ("m1", range(55)))
    answers(tmp_path, "own.baseline", ("plain", range(30)))
    use = {"difference": {"value": 0.9, "low": 0.8, "high": 0.95}, "p": 1e-9, "won": 54, "lost": 0}
    folder = tmp_path / "eval" / "interventions"
    folder.mkdir()
    (folder / "own.m1.summary.json").write_text(json.dumps({"own_minus": {"swapped": use}}), encoding="utf-8")
    starts = (
        "own: m1 is better than baseline: +41.7 points (",
        "own: m1 is better than untuned at its best prompt (few_shot): +58.3 points (",
        "own: m1 uses its plan: its own rather than another problem's is worth +90.0 points (",
        "own: baseline (plain) is better than untuned",
    )
    for sentence, start in zip(standing([tmp_path]).sentences, starts, strict=True):
        assert sentence.startswith(start)


def test_of_several_samples_pass_at_k_and_the_majority_stand_beside_the_mean(tmp_path):
    said = {0: "aab", 1: "abb", 2: "bbb", 3: "a"}  # of four problems, whose answer is a
    rows = [
        Score(
            problem_id=f"p/{number}",
            sample=sample,
            mode="m1",
            text="...",
            prediction=letter,
            gold="a",
            same=letter == "a",
            how="",
            finish="stop",
        )
        for number, letters in said.items()
        for sample, letter in enumerate(letters * 3 if len(letters) == 1 else letters)
    ]
    write_records(tmp_path / "eval" / "own.m1.jsonl", rows)
    found = standing([tmp_path])
    [row] = found.rows
    assert (row.accuracy.value, row.passed.value, row.majority.value) == (0.5, 0.75, 0.5)
    assert "75.0 % (" in standing_text(found, width=200) and "| pass@k | maj@k |" in standing_markdown(found)
    assert "pass@k" not in standing_text(standing([with_untuned(tmp_path / "one")]))


def test_a_letter_and_the_text_it_stands_for_are_one_vote(tmp_path):
    choices = Problem(id="p/0", question="Which?", answer="A", choices=("red", "blue"), kind="choice")
    write_records(tmp_path / "suites" / "own.jsonl", [choices])
    said = [("B", False), ("A", True), ("red", True)]
    rows = [
        Score(
            problem_id="p/0",
            sample=sample,
            mode="m1",
            text="...",
            prediction=word,
            gold="A",
            same=same,
            how="",
            finish="stop",
        )
        for sample, (word, same) in enumerate(said)
    ]
    write_records(tmp_path / "eval" / "own.m1.jsonl", rows)
    assert standing([tmp_path]).rows[0].majority.value == 1


def test_a_model_that_lost_is_called_worse(tmp_path):
    answers(with_untuned(tmp_path), "own.m1", ("m1", range(2)))
    assert "own: m1 is worse than untuned" in standing([tmp_path]).sentences[0]


def test_better_than_a_bad_prompt_is_not_better(tmp_path):
    answers(with_untuned(tmp_path), "own.m1", ("m1", range(20)))
    [comparison] = standing([tmp_path]).comparisons
    assert (comparison.reference_mode, comparison.paired.difference.value) == ("few_shot", 0)


def test_a_tuned_model_is_compared_with_untuned_baseline_and_the_first_tuned(tmp_path):
    answers(with_untuned(tmp_path), "own.m1", ("m1", range(40)))
    answers(tmp_path, "own.baseline", ("plain", range(30)))
    answers(tmp_path, "own.grpo", ("m1", range(45)))
    found = [(one.model, one.reference, one.paired.won) for one in standing([tmp_path]).comparisons]
    assert found == [
        ("baseline", "untuned", 10),
        ("m1", "untuned", 20),
        ("m1", "baseline", 10),
        ("grpo", "untuned", 25),
        ("grpo", "baseline", 15),
        ("grpo", "m1", 5),
    ]


def test_p_values_are_corrected_for_the_whole_table(tmp_path):
    answers(with_untuned(tmp_path), "own.m1", ("m1", range(26)))
    alone = standing([tmp_path]).comparisons[0]
    answers(tmp_path, "other.untuned", ("few_shot", range(20)))
    answers(tmp_path, "other.m1", ("m1", range(20)))
    both = standing([tmp_path])
    assert alone.p == alone.paired.p < 0.05 and alone.verdict == "better"
    assert both.comparisons[1].p == 2 * alone.p > 0.05
    assert [one.verdict for one in both.comparisons] == ["not better", "not better"]


def test_two_runs_each_have_their_own_untuned_model(tmp_path):
    one, other = tmp_path / "small", tmp_path / "large"
    answers(with_untuned(one), "own.m1", ("m1", range(40)))
    answers(other, "own.untuned", ("zero_shot_cot", range(50)))
    answers(other, "own.m1", ("m1", range(52)))
    found = {(one.model, one.reference): one.paired.won for one in standing([one, other]).comparisons}
    assert found == {
        ("small/m1", "small/untuned"): 20,
        ("large/m1", "large/untuned"): 2,
        ("large/m1", "small/m1"): 12,
    }


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    runs = [answers(tmp_path / place / "mine", "own.m1", ("m1", range(9))) for place in ("a", "b")]
    assert [row.model for row in standing(runs).rows] == [f"{run}/m1" for run in runs]


def test_only_problems_that_both_answered_are_compared(tmp_path):
    answers(with_untuned(tmp_path), "own.m1", ("m1", range(40)))
    path = tmp_path / "eval/own.m1.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()][:50]
    rows[0]["gold"] = "another problem of that id"
    write_records(path, rows)
    found = standing([tmp_path])
    assert found.comparisons[0].paired.problems == 49
    assert "own: m1 and untuned have 49 of 61 problems in common, and are compared on those." in found.notes


def test_another_question_under_the_same_id_with_the_same_answer_is_not_compared(tmp_path):
    runs = [answers(tmp_path / name, "own.m1", ("m1", range(right))) for name, right in (("a", 10), ("b", 60))]
    assert standing(runs).comparisons[0].paired.problems == 60, "nobody knows what was asked"
    for run, changed in zip(runs, (0, 50), strict=True):
        asked = [f"Is {n} {'odd' if n < changed else 'even'}?" for n in range(60)]
        rows = [Problem(id=f"p/{n}", question=question, answer="1") for n, question in enumerate(asked)]
        write_records(run / "suites" / "own.jsonl", rows)
    found = standing(runs)
    paired = found.comparisons[0].paired
    assert (paired.problems, paired.won, paired.lost) == (10, 10, 0)
    assert "own: b/m1 and a/m1 have 10 of 110 problems in common, and are compared on those." in found.notes


def test_models_that_were_asked_in_another_way_are_told_apart(tmp_path):
    runs = [answers(tmp_path / name, "own.m1", ("m1", range(30))) for name in ("a", "b")]
    settings = {"samples": 1, "temperature": 0.0, "max_tokens": 128, "seed": 0, "model": "x"}
    for run, other in zip(runs, ({}, {"seed": 1, "model": "y"}), strict=True):
        (run / "eval" / "own.m1.json").write_text(json.dumps({"m1": settings | other}))
    assert standing(runs).comparisons[0].caveats == ()
    (runs[1] / "eval" / "own.m1.json").write_text(json.dumps({"m1": settings | {"max_tokens": 2048}}))
    found = standing(runs)
    differ = "b/m1 was asked with max_tokens=2048 and a/m1 with max_tokens=128"
    assert found.comparisons[0].caveats == (differ,) and f"own: {differ}." in found.notes


def test_a_prompt_that_a_kill_left_with_the_easy_problems_is_not_the_best_for_that(tmp_path):
    answers(tmp_path, "own.untuned", ("zero_shot_cot", range(20)), ("few_shot", range(15)))
    path = tmp_path / "eval" / "own.untuned.jsonl"
    rows = [row for row in map(json.loads, path.read_text().splitlines()) if row["mode"] != "few_shot"]
    first = [row for row in map(json.loads, path.read_text().splitlines()) if row["mode"] == "few_shot"][:25]
    write_records(path, [*rows, *first])
    found = standing([tmp_path])
    assert found.sentences == ("own: untuned (zero_shot_cot) is right on 33.3 % (22.7 to 45.9)",)


def test_without_an_untuned_model_nobody_knows(tmp_path):
    answers(tmp_path, "own.m1", ("m1", range(40)))
    found = standing([tmp_path])
    assert found.sentences == ("own: whether m1 gained anything is unknown: the untuned model was not asked",)
    assert found.comparisons == ()


def test_an_untuned_model_alone_is_said_at_its_best_prompt(tmp_path):
    assert standing([with_untuned(tmp_path)]).sentences == (
        "own: untuned (few_shot) is right on 33.3 % (22.7 to 45.9)",
    )


def test_no_answers_is_a_sentence(tmp_path):
    with pytest.raises(PlantuneError, match="no answers in .*plantune evaluate comes first"):
        standing([tmp_path])


def test_the_table_fits_a_narrow_terminal(tmp_path):
    answers(with_untuned(tmp_path), "own.m1", ("m1", range(40)))
    lines = standing_text(standing([tmp_path]), width=80).splitlines()
    assert " untuned   few_shot        60   33.3 %   22.7 to 45.9   2 %       0 %" in lines
    tables = [line for line in lines if line.startswith(" ")]
    assert len(tables) > 3 and max(map(len, tables)) <= 80


def test_markdown_is_a_table_whatever_the_names_hold(tmp_path):
    run = answers(tmp_path / "a|b", "own.m1", ("m1", range(40)))
    other = answers(tmp_path / "c", "own.m1", ("m1", range(41)))
    page = standing_markdown(standing([run, other]))
    assert "| a\\|b/m1 | m1 | 60 | 66.7 % | 54.1 to 77.3 | 2 % | 0 % |" in page.splitlines()
    assert json.loads(json.dumps(standing_json(standing([run, other]))))["rows"][0]["model"] == "a|b/m1"


# --- what a figure must not be read without ---------------------------------------------------------------------------


def of_the_suite(run, **known):
    own = {"problems": 60, "answered": 60, "in_training": [], "words": 13, **known}
    (run / "eval" / "suites.json").write_text(json.dumps({"own": own}))


def test_a_suite_that_was_learned_from_is_named_in_every_sentence_about_it(tmp_path):
    answers(with_untuned(tmp_path), "own.m1", ("m1", range(50)))
    of_the_suite(tmp_path, in_training=["p/1", "p/2"])
    found = standing([tmp_path])
    shared = "2 of 60 problems of own share 13 words in a row with the training rows"
    assert found.sentences[0].endswith(f"p < 0.001, 30 won, 0 lost; but {shared}")
    assert f"* {shared}." in standing_markdown(found) and standing_json(found)["rows"][-1]["caveats"] == (shared,)
    lines = standing_text(found).splitlines()
    assert [("60*" in line) for line in lines if " few_shot " in line or line.startswith(" m1 ")][:2] == [False, True]


def test_a_suite_without_overlap_and_wholly_answered_is_not_spoken_of(tmp_path):
    answers(with_untuned(tmp_path), "own.m1", ("m1", range(50)))
    before = standing([tmp_path])
    of_the_suite(tmp_path)
    assert standing([tmp_path]) == before


def test_half_a_suite_is_called_that_wherever_its_figure_stands(tmp_path):
    answers(with_untuned(tmp_path), "own.m1", ("m1", range(50)))
    of_the_suite(tmp_path, problems=300)
    found = standing([tmp_path])
    half = "only 60 of 300 problems of own have been asked so far"
    assert found.sentences[0].endswith(f"; but {half}") and all(row.caveats == (half,) for row in found.rows)
    assert standing([with_untuned(tmp_path / "alone")]).sentences[0].endswith("(22.7 to 45.9)")


def test_of_two_that_are_not_finished_a_comparison_names_both(tmp_path):
    answers(with_untuned(tmp_path), "own.m1", ("m1", range(40)))
    path = tmp_path / "eval" / "own.m1.jsonl"
    write_records(path, [json.loads(line) for line in path.read_text().splitlines()][:40])
    of_the_suite(tmp_path, problems=300, answered=0)
    [sentence] = standing([tmp_path]).sentences
    asked = "{} of 300 problems of own have been asked so far"
    assert sentence.endswith(f"; but only {asked.format(40)} and only {asked.format(60)}")


def test_a_suite_that_nobody_was_asked_is_said(tmp_path):
    answers(with_untuned(tmp_path), "own.m1", ("m1", range(50)))
    known = {name: {"problems": 60, "answered": 60 * (name == "own"), "in_training": []} for name in ("own", "math500")}
    (tmp_path / "eval" / "suites.json").write_text(json.dumps(known))
    assert standing([tmp_path]).sentences[1:] == ("math500: not asked so far",)
