from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from math import inf
from types import SimpleNamespace

import pytest
from manifests import manifest_of

from plantune_lite.distill.stage import run_corpus, run_distill
from plantune_lite.evaluate import compare, headroom
from plantune_lite.evaluate.stage import _arm, in_turns, run_evaluate
from plantune_lite.files import read_jsonl, write_records
from plantune_lite.grading import sandbox
from plantune_lite.pipeline.stages import active_stages
from plantune_lite.plan import completion_text
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.problems.stage import run_problems
from plantune_lite.recipe.load import load_recipe, override
from plantune_lite.runs.folder import RunFolder
from plantune_lite.runs.job import Job, last_trained
from plantune_lite.student import presets, weights
from plantune_lite.train import data, sft
from plantune_lite.train.stage import _hours, adapter_of, run_baseline, run_sft
from plantune_lite.types import Problem, ProblemError, Reply, RunError

POOL = list(practice_problems("train", seed=0, limit=8))
ANSWERS = {problem.question: problem.answer for problem in POOL}


def job(folder, *settings, stage="headroom", **earlier):
    alone = ("headroom=64", "evaluate.baseline=false", "evaluate.prompts=")
    recipe = override(load_recipe("smollm2_135m"), [*alone, *settings])
    (folder / stage).mkdir(parents=True, exist_ok=True)
    write_records(folder / "problems" / "pool.jsonl", POOL)
    done = manifest_of({name: {"summary": row} for name, row in earlier.items()}).summaries
    return Job(run=RunFolder(folder), stage=stage, out=folder / stage, recipe=recipe, earlier=done, hours_left=None)


def instead_of_loading(monkeypatch, student):
    for stage in ("train.stage", "student.vllm_engine"):
        monkeypatch.setattr(f"plantune_lite.{stage}.load_student", student)


def knows(share):
    """A student that knows so many of the answers."""

    def answer(prompts, sampling):
        asked = [messages[-1]["content"].partition("\n\n")[0] for messages in prompts]
        known = list(ANSWERS)[: round(share * len(ANSWERS))]
        return [[Reply(text=f"\\boxed{{{ANSWERS[one] if one in known else 'no idea'}}}")] for one in asked]

    return lambda *arguments, **settings: SimpleNamespace(generate=answer)


def test_a_student_that_solves_nearly_all_is_told_of_and_what_to_do(tmp_path, monkeypatch, capsys):
    instead_of_loading(monkeypatch, knows(1.0))
    found = headroom.run_headroom(job(tmp_path))
    said = capsys.readouterr().out
    assert found.line == "untuned, the student solves 8 of 8 problems like these: expect little"
    assert "already solves 100% of these" in said and "problems.levels=3,4,5" in said and "student.model" in said


def test_a_student_with_headroom_is_told_nothing_but_the_figure(tmp_path, monkeypatch, capsys):
    instead_of_loading(monkeypatch, knows(0.5))
    found = headroom.run_headroom(job(tmp_path))
    assert found.line == "untuned, the student solves 4 of 8 problems like these"
    assert "warning" not in capsys.readouterr().out


def test_headroom_asks_no_more_than_it_is_told_to_and_can_be_left_out(tmp_path, monkeypatch):
    instead_of_loading(monkeypatch, knows(0.0))
    assert "0 of 3 problems" in headroom.run_headroom(job(tmp_path, "headroom=3")).line
    assert headroom.run_headroom(job(tmp_path, "headroom=0")).line == "not measured"


def test_a_model_that_wants_a_gpu_is_not_asked_on_a_cpu(tmp_path):
    found = headroom.run_headroom(job(tmp_path, "student.model=qwen2_5_7b"))
    assert found.line.startswith("not measured: ") and "wants a GPU" in found.line


def test_the_run_s_model_is_what_was_trained_last(tmp_path):
    assert last_trained(job(tmp_path, sft={"base": {}})) == "sft"
    assert last_trained(job(tmp_path)) is None
    assert last_trained(job(tmp_path, "sft=none", sft={"base": {}})) is None


def test_an_adapter_to_start_from_is_another_run_s_last_or_a_folder_s(tmp_path):
    run = tmp_path / "first"
    (run / "sft").mkdir(parents=True)
    (run / "manifest.json").write_text('{"format": 1, "stages": {}, "final": "sft"}')
    assert adapter_of("first", tmp_path / "second") == run / "sft"
    (run / "sft" / "adapter_config.json").write_text("{}")
    assert adapter_of(str(run / "sft"), tmp_path / "second") == run / "sft"
    with pytest.raises(RunError, match="no run or folder of that name has a finished adapter"):
        adapter_of("nothing", tmp_path / "second")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (("sft.target=solution", "sft.solutions=dataset"), "baseline"),
        (("sft.target=solution",), "control"),
        ((), "m1"),
        (("sft.target=plan",), "m2"),
    ],
)
def test_an_arm_goes_by_its_name_in_the_papers(tmp_path, settings, name):
    assert _arm(job(tmp_path, *settings), "sft") == name


def test_training_leaves_time_for_what_comes_after_it(tmp_path):
    limited = replace(job(tmp_path, stage="sft"), hours_left=2.0)
    assert _hours(limited) == pytest.approx(1.4)
    shared = replace(job(tmp_path, "evaluate.baseline=true", stage="sft"), hours_left=2.0)
    assert _hours(shared) == pytest.approx(0.7)
    assert _hours(replace(shared, stage="baseline")) == pytest.approx(1.4)
    assert _hours(job(tmp_path, stage="sft")) is None


def test_every_shipped_recipe_names_a_preset_and_its_arm(tmp_path):
    for name in ("gemma3_1b_sft", "qwen3_4b_sft", "qwen2_5_7b_sft"):
        recipe = load_recipe(name)
        assert presets.find(recipe.student.model) and recipe.sft.target == "plan+solution"
        assert recipe.student.bits == (16 if name == "gemma3_1b_sft" else 4)  # in 16 where it fits 8 GB
        assert recipe.distill.teacher == "gemini" and recipe.distill.max_usd and recipe.max_hours


# --- a student that is its own teacher --------------------------------------------------------------------------------


def test_a_student_that_teaches_itself_plans_and_carries_out_and_scores_nothing(tmp_path, monkeypatch, capsys):
    asked = []

    def reply(messages):
        question = messages[-1]["content"]
        asked.append(question)
        answer = next(ANSWERS[one] for one in ANSWERS if one in question)
        follows = "Solve the problem by following" in question
        return Reply(text=f"\\boxed{{{answer}}}" if follows else "1. Find it.\n2. Add it.")

    source = weights.Source(repo="a/b", revision="abc", place="a/b", backend="plain")
    student = SimpleNamespace(source=source, generate=lambda prompts, _: [[reply(one)] for one in prompts])
    instead_of_loading(monkeypatch, lambda *arguments, **settings: student)
    told = ("distill.teacher=self", "distill.min_score=80", "distill.plans=1", "corpus.filter=both")
    made = job(tmp_path / "r", *told, stage="distill")
    made = replace(made, out=tmp_path / "r")
    found = run_distill(made)
    assert found.problems_kept == 8 and len(asked) == 16, "a plan and an execution each"
    write_records(tmp_path / "r" / "problems" / "own.jsonl", [])
    rows = run_corpus(replace(made, out=tmp_path / "r" / "corpus"))
    assert rows.train == 8 and "corpus.filter=answer instead of both" in capsys.readouterr().out


# --- evaluation -------------------------------------------------------------------------------------------------------

SUITE = [replace(POOL[0], id="other/0"), *practice_problems("test", seed=0, limit=8)]
OF_QUESTION = {problem.question: problem for problem in [*POOL, *SUITE]}


def to_evaluate(folder, *settings, suite=None, grpo=None, **more):
    """A run that has trained, and a suite whose first problem is in its training rows."""
    trained = {"sft": {"base": {"revision": None}}, **({} if grpo is None else {"grpo": grpo})}
    made = job(folder, "student.model=qwen3_4b", *settings, stage="eval", **trained)
    write_records(folder / "suites" / "other.jsonl", suite or SUITE)
    write_records(folder / "corpus" / "train.jsonl", [{"problem_id": problem.id} for problem in POOL])
    (folder / "sft").mkdir(exist_ok=True)
    (folder / "sft" / "adapter_model.safetensors").write_bytes(b"weights")
    return replace(made, **more)


@pytest.fixture
def learned(monkeypatch):
    """A student that has learned all answers; what it was asked, tuned and untuned."""

    def says(text_of, heard):
        def answer(prompts, sampling):
            asked = [OF_QUESTION[messages[-1]["content"].partition("\n\n")[0]] for messages in prompts]
            heard.extend(problem.id for problem in asked)
            return [[Reply(text=f"\\boxed{{{text_of(problem)}}}")] for problem in asked]

        return answer

    loaded = SimpleNamespace(
        source=SimpleNamespace(repo="a/b", revision=None, backend="plain"), preset=presets.find("qwen3_4b"), heard=[]
    )
    loaded.generate = says(lambda problem: problem.answer, loaded.heard)
    loaded.generate_untuned = says(lambda problem: "-7", [])
    loaded.worn = []

    @contextmanager
    def wearing(adapter):
        loaded.worn.append(adapter.name)
        own, loaded.generate = loaded.generate, loaded.generate_untuned
        yield loaded
        loaded.generate = own

    loaded.wearing = wearing
    instead_of_loading(monkeypatch, lambda *arguments, **settings: loaded)
    return loaded


def test_a_suite_added_after_the_corpus_is_looked_at_for_what_was_learned(tmp_path, learned):
    found = run_evaluate(to_evaluate(tmp_path))
    assert "is better than untuned" in found.line and found.partial is False
    assert found.line.endswith("; but 1 of 9 problems of other share 13 words in a row with the training rows")
    assert found.line in (tmp_path / "eval" / "standing.md").read_text(encoding="utf-8")


def test_what_decontamination_was_told_not_to_look_for_is_said_in_evaluation(tmp_path, learned):
    found = run_evaluate(to_evaluate(tmp_path, "corpus.decontaminate=0"))
    assert "1 of 9 problems of other share 13 words" in found.line


def test_an_untuned_model_has_learned_from_no_suite(tmp_path, learned):
    found = run_evaluate(to_evaluate(tmp_path, "sft=none"))
    assert "untuned" in found.line and "share" not in found.line and not learned.heard


def test_a_baseline_is_asked_the_same_problems_and_stands_between_untuned_and_tuned(tmp_path, learned):
    wanted = to_evaluate(tmp_path, "evaluate.baseline=true")
    (tmp_path / "baseline").mkdir()
    (tmp_path / "baseline" / "adapter_model.safetensors").write_bytes(b"other weights")
    run_evaluate(wanted)
    said = (tmp_path / "eval" / "standing.md").read_text(encoding="utf-8")
    assert learned.worn == ["baseline"] and "- other: baseline (plain) is not better than untuned" in said
    rows = {name: list(read_jsonl(tmp_path / "eval" / f"other.{name}.jsonl")) for name in ("baseline", "m1")}
    assert {row["mode"] for row in rows["baseline"]} == {"plain"} and not any(row["same"] for row in rows["baseline"])
    assert [row["problem_id"] for row in rows["baseline"]] == [row["problem_id"] for row in rows["m1"]]


def test_what_grpo_added_is_asked_where_the_recipe_wants_to_know(tmp_path, learned):
    wanted = to_evaluate(tmp_path, "grpo=default", "evaluate.before_grpo=true", grpo={})
    (tmp_path / "grpo").mkdir()
    (tmp_path / "grpo" / "adapter_model.safetensors").write_bytes(b"later weights")
    run_evaluate(wanted)
    assert learned.worn == ["sft"]
    before = read_jsonl(tmp_path / "eval" / "other.m1.jsonl")
    assert {row["mode"] for row in before} == {"m1"} and not any(row["same"] for row in before)
    said = (tmp_path / "eval" / "standing.md").read_text(encoding="utf-8")
    assert "- other: grpo (m1) is better than m1: +100.0 points" in said


@pytest.mark.parametrize("setting", ["sft=none", "sft.solutions=dataset"])
def test_what_has_no_sft_or_is_the_baseline_itself_has_none_beside_it(tmp_path, setting):
    target = ["sft.target=solution"] if setting != "sft=none" else []
    recipe = job(tmp_path, "evaluate.baseline=true", *target, setting).recipe
    assert not recipe.has_baseline and "baseline" not in [stage.name for stage in active_stages(recipe)]
    assert job(tmp_path, "evaluate.baseline=true").recipe.has_baseline


def lessons_of_letters(student, rows, max_length):
    """Of a student whose tokens are letters."""
    short = [place for place, row in enumerate(rows) if len(completion_text(row)) <= max_length]
    return data.Taught(tuple(data.Lesson((), 1, place) for place in short), {})


def test_arms_that_are_compared_learn_from_the_problems_that_all_of_them_can_learn(tmp_path, monkeypatch):
    """Of five problems three are too long, each in another arm, and one has no solution."""
    taught, source = {}, weights.Source(repo="a/b", revision=None, place="a/b", backend="plain")
    instead_of_loading(monkeypatch, lambda *arguments, **settings: SimpleNamespace(source=source))
    monkeypatch.setattr(sft, "train", lambda loaded, rows, *rest, **settings: taught.update(rows=rows) or {"steps": 7})
    monkeypatch.setattr(data, "lessons", lessons_of_letters)
    texts = {0: {"completion": "x" * 600}, 1: {"completion": "x", "whole": "x" * 600}}
    rows = [
        {"problem_id": one.id, "prompt": [], "completion": "x"} | texts.get(n, {}) for n, one in enumerate(POOL[:5])
    ]

    def learned(train, *settings):
        asked = job(tmp_path, "student.max_length=512", *settings, sft={"steps": 7, "base": {"revision": "abc"}})
        for name, some in (("train", rows), ("validation", [])):
            write_records(tmp_path / "corpus" / f"{name}.jsonl", some)
        solutions = {2: "x" * 600, 3: None}
        pool = [replace(one, solution=solutions.get(n, "x"), steps=()) for n, one in enumerate(POOL)]
        write_records(tmp_path / "problems" / "pool.jsonl", pool)
        train(asked)
        return [next(n for n, one in enumerate(POOL) if one.id == row["problem_id"]) for row in taught["rows"]]

    assert learned(run_sft) == [0, 1, 2, 3, 4], "nothing is compared"
    assert learned(run_sft, "evaluate.baseline=true") == [3, 4]
    assert learned(run_baseline, "evaluate.baseline=true") == [4]
    assert learned(run_sft, "sft.same_rows=true") == [4]


def test_a_baseline_learns_the_data_sets_solutions_of_the_same_problems_in_as_many_steps(tmp_path, monkeypatch):
    taught = {}

    def learn(loaded, rows, part, out, training, *, validation):
        taught.update(rows=rows, part=part, validation=validation)
        return {"line": "", "steps": 7}

    source = weights.Source(repo="a/b", revision=None, place="a/b", backend="plain")
    instead_of_loading(monkeypatch, lambda *arguments, **settings: SimpleNamespace(source=source))
    monkeypatch.setattr(sft, "train", learn)
    monkeypatch.setattr(data, "lessons", lessons_of_letters)
    asked = job(
        tmp_path,
        "evaluate.baseline=true",
        "sft.epochs=3",
        "sft.max_steps=40",
        stage="baseline",
        sft={"steps": 7, "base": {"revision": "abc"}},
    )
    rows = [{"problem_id": one.id, "prompt": [], "completion": "<plan> ..."} for one in POOL[:4]]
    write_records(tmp_path / "corpus" / "train.jsonl", [*rows, rows[0]])
    write_records(tmp_path / "corpus" / "validation.jsonl", rows[3:])
    run_baseline(asked)
    assert [row["problem_id"] for row in taught["rows"]] == [one.id for one in POOL[:4]]
    assert completion_text(taught["rows"][0]).startswith(POOL[0].solution.splitlines()[0])
    assert (taught["part"].target, taught["part"].max_steps, len(taught["validation"])) == ("solution", 7, 1)
    on_top_of_plans = replace(asked, recipe=override(asked.recipe, ["sft.start=a_run_that_learned_plans"]))
    run_baseline(on_top_of_plans)
    assert taught["part"].start is None

    write_records(tmp_path / "problems" / "pool.jsonl", [replace(one, solution=None, steps=()) for one in POOL])
    with pytest.raises(RunError, match="no solutions to learn from: name their column in problems.solution"):
        run_baseline(asked)


def test_a_model_that_was_asked_for_plans_in_training_is_asked_for_them_in_evaluation(tmp_path, learned):
    grpo = {"base": {"revision": None}, "asks_for_plans": True}
    earlier = manifest_of({"grpo": {"summary": grpo}}).summaries
    made = to_evaluate(tmp_path, "sft=none", "grpo=default", "grpo.start=base", earlier=earlier)
    (tmp_path / "grpo").mkdir()
    (tmp_path / "grpo" / "adapter_model.safetensors").write_bytes(b"weights")
    run_evaluate(made)
    assert {row["mode"] for row in read_jsonl(tmp_path / "eval" / "other.grpo.jsonl")} == {"plan_then_solve"}


def test_the_untuned_models_prompts_can_be_said(tmp_path, learned):
    run_evaluate(to_evaluate(tmp_path, "evaluate.prompts=plan_then_solve"))
    assert {row["mode"] for row in read_jsonl(tmp_path / "eval" / "other.untuned.jsonl")} == {"plan_then_solve"}
    assert not (tmp_path / "eval" / "prompts").exists()  # one prompt needs no choice


def test_the_untuned_models_prompt_is_chosen_on_problems_of_the_pool_and_asked_alone(tmp_path, learned):
    run_evaluate(to_evaluate(tmp_path))
    tried = list(read_jsonl(tmp_path / "eval" / "prompts" / "validation.untuned.jsonl"))
    assert {row["problem_id"] for row in tried} <= {problem.id for problem in POOL[1:]}  # the first is in the suite
    assert {row["mode"] for row in tried} == {"zero_shot_cot", "plan_then_solve"}
    assert {row["mode"] for row in read_jsonl(tmp_path / "eval" / "other.untuned.jsonl")} == {"zero_shot_cot"}


def test_the_untuned_models_prompt_is_the_one_at_which_it_solves_most(tmp_path, learned):
    def solves_if_asked_for_a_plan(prompts, sampling):
        asked = [messages[-1]["content"] for messages in prompts]
        answers = [OF_QUESTION[text.partition("\n\n")[0]].answer if "<plan>" in text else "-7" for text in asked]
        return [[Reply(text=f"\\boxed{{{answer}}}")] for answer in answers]

    learned.generate_untuned = solves_if_asked_for_a_plan
    run_evaluate(to_evaluate(tmp_path))
    assert {row["mode"] for row in read_jsonl(tmp_path / "eval" / "other.untuned.jsonl")} == {"plan_then_solve"}


@pytest.fixture
def slow(monkeypatch):
    """A clock by which an hour is enough for one step of four problems."""
    monkeypatch.setattr("plantune_lite.evaluate.stage.STEP", 4)
    clock = count(0, 1000)
    monkeypatch.setattr("plantune_lite.evaluate.stage.time", SimpleNamespace(monotonic=lambda: next(clock)))


@pytest.fixture
def answered_in(monkeypatch):
    """How far models get in a time that together take a second a problem."""

    def answer(seconds, **sizes):
        done, steps = dict.fromkeys(sizes, 0), []
        clock = SimpleNamespace(monotonic=lambda: sum(done.values()))
        monkeypatch.setattr("plantune_lite.evaluate.stage.time", clock)
        for name, end in in_turns(sizes, seconds):
            done[name] = end
            steps.append((name, end))
        return steps

    return answer


def test_without_a_limit_each_suite_is_answered_at_once(answered_in):
    assert answered_in(inf, own=600, math=128) == [("own", 600), ("math", 128)]


@pytest.mark.parametrize(
    ("seconds", "answered"),
    [
        (999, [128, 256, 384, 512, 600]),
        (513, [128, 256, 384, 512]),
        (512, [128, 256, 384]),
        (1, [128]),
        (0, []),
        (-5, []),
    ],
)
def test_a_step_is_begun_where_one_as_long_as_the_longest_would_end_in_time(answered_in, seconds, answered):
    assert answered_in(seconds, own=600) == [("own", end) for end in answered]


def test_suites_share_the_time_that_there_is(answered_in):
    turns = [("own", 128), ("math", 100), ("own", 256), ("own", 300)]
    assert answered_in(999, own=300, math=100) == turns and answered_in(300, own=300, math=100) == turns[:2]


def test_when_time_is_up_all_models_have_answered_the_same_problems_and_it_goes_on(tmp_path, learned, slow):
    found = run_evaluate(to_evaluate(tmp_path, "evaluate.interventions=true", hours_left=1.0))
    assert found.partial is True and "but only 4 of 9" in found.line.replace(" and ", " but ")
    rows = {name: list(read_jsonl(tmp_path / "eval" / f"other.{name}.jsonl")) for name in ("untuned", "m1")}
    asked = [row["problem_id"] for row in rows["m1"]]
    assert len(asked) == 4 and asked != [problem.id for problem in SUITE[:4]]  # drawn, not the first of the file
    assert {row["problem_id"] for row in rows["untuned"]} == set(asked)

    learned.heard.clear()
    found = run_evaluate(to_evaluate(tmp_path, "evaluate.interventions=true"))
    assert (found.partial, found.arm) == (False, "m1") and "only" not in found.line
    assert sorted(learned.heard) == sorted({problem.id for problem in SUITE} - set(asked))


def test_what_a_kill_leaves_is_known_to_be_a_part_and_which_of_it_was_learned(tmp_path, learned, monkeypatch):
    monkeypatch.setattr("plantune_lite.evaluate.stage.STEP", 5)
    answer = learned.generate

    def killed(prompts, sampling):
        if learned.heard:
            raise KeyboardInterrupt
        return answer(prompts, sampling)

    learned.generate = killed
    with pytest.raises(KeyboardInterrupt):
        run_evaluate(to_evaluate(tmp_path, hours_left=1.0))
    [sentence] = compare.standing([tmp_path]).sentences
    assert "1 of 9 problems of other share 13 words in a row with the training rows" in sentence
    assert sentence.endswith(" and only 5 of 9 problems of other have been asked so far")


def test_an_evaluation_whose_time_is_spent_says_so_or_shows_what_there_is(tmp_path, learned, slow, monkeypatch):
    limited = to_evaluate(tmp_path, "max_hours=2", hours_left=0.0)
    with pytest.raises(RunError, match="max_hours=2 is spent before evaluation began: .* larger max_hours to resume"):
        run_evaluate(limited)
    first = run_evaluate(replace(limited, hours_left=1.0))
    instead_of_loading(monkeypatch, lambda *arguments, **settings: pytest.fail("loaded for nothing"))
    assert run_evaluate(limited) == first


PROGRAM = Problem(
    id="code/0",
    question='def half(x):\n    """Half of x."""\n',
    answer="    return x / 2\n",
    kind="code",
    extra={"entry_point": "half", "test": "def check(candidate):\n    assert candidate(4) == 2\n"},
)


def test_programs_are_run_only_where_that_is_allowed(tmp_path, learned, capsys):
    learned.generate = lambda prompts, sampling: [[Reply(text="```python\ndef half(x): return x / 2\n```")]]
    learned.generate_untuned = lambda prompts, sampling: [[Reply(text="```python\ndef half(x): return x\n```")]]
    settings = ("evaluate.prompts=zero_shot_cot", "corpus.decontaminate=0")
    with pytest.raises(RunError, match="no suite left"):
        run_evaluate(to_evaluate(tmp_path, *settings, suite=[PROGRAM]))
    assert "left out, because its answers are programs: evaluate.allow_code=true" in capsys.readouterr().out
    if sandbox.why_not():
        pytest.skip(sandbox.why_not())
    run_evaluate(to_evaluate(tmp_path, *settings, "evaluate.allow_code=true", suite=[PROGRAM]))
    told = {name: next(read_jsonl(tmp_path / "eval" / f"other.{name}.jsonl")) for name in ("untuned", "m1")}
    assert told["m1"]["same"] is True and told["untuned"]["same"] is False
    assert told["untuned"]["how"].startswith("failed: AssertionError")


def test_a_baseline_without_solutions_is_refused_before_anything_is_spent(tmp_path):
    rows = [{"question": f"What is {number} plus 2?", "answer": str(number + 2)} for number in range(20)]
    write_records(tmp_path / "mine.jsonl", rows)
    settings = (f"problems.path={tmp_path / 'mine.jsonl'}", "evaluate.suites=own", "evaluate.baseline=true")
    with pytest.raises(ProblemError, match="or set evaluate.baseline=false"):
        run_problems(job(tmp_path, *settings, stage="problems"))
    assert run_problems(job(tmp_path, *settings, "evaluate.baseline=false", stage="problems")).line
