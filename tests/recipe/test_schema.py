import dataclasses
import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plantune_lite import GRPO, SFT, Corpus, Distill, Evaluate, Problems, Recipe, Student
from plantune_lite.files import default_of
from plantune_lite.recipe import fields, user_code
from plantune_lite.recipe.load import from_json, load_recipe, override, shipped, to_json
from plantune_lite.recipe.schema import PARTS, leaves
from plantune_lite.types import RecipeError

RECIPE = Recipe(
    name="mine",
    problems=Problems("gsm8k", limit=100),
    student=Student("qwen3_4b"),
    sft=SFT(extra={"max_grad_norm": 0.5}),
    grpo=GRPO(),
)


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_loads_and_survives_json(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert from_json(to_json(recipe)) == recipe


def test_the_first_field_of_a_part_is_positional_and_the_rest_are_not():
    assert Problems("gsm8k").source == "gsm8k"
    with pytest.raises(TypeError):
        Problems("gsm8k", "train")


def test_a_recipe_cannot_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        RECIPE.seed = 1


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("seed=3", "seed", 3),
        ("sft.epochs=2", "sft.epochs", 2.0),
        ("sft.learning_rate=1e-5", "sft.learning_rate", 1e-5),
        ("sft.max_steps=none", "sft.max_steps", None),
        ("problems.limit=1_000", "problems.limit", 1000),
        ("evaluate.suites=own,practice", "evaluate.suites", ("own", "practice")),
        ("problems.levels=3,4,5", "problems.levels", (3, 4, 5)),
        ("problems.path=my file.csv", "problems.path", "my file.csv"),
        ("student.bits=16", "student.bits", 16),
        ("evaluate.allow_code=yes", "evaluate.allow_code", True),
        ("distill.teacher=http://127.0.0.1:8080/v1?a=b", "distill.teacher", "http://127.0.0.1:8080/v1?a=b"),
        ("sft.extra.max_grad_norm=1", "sft.extra", {"max_grad_norm": 1}),
        ("grpo=none", "grpo", None),
        ("cpl=default", "cpl.rounds", 2),
    ],
)
def test_a_setting_is_read_by_the_type_of_its_field(setting, field, value):
    assert dict(leaves(override(RECIPE, [setting])))[field] == value


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("sft.epoch=2", "did you mean 'epochs'?"),
        ("stf.epochs=2", "did you mean 'sft'?"),
        ("sft.target=plan+solutions", "must be one of solution, plan+solution, plan"),
        ("sft.epochs=many", "must be float"),
        ("sft.epochs=nan", "must be finite"),
        ("sft.epochs=inf", "must be finite"),
        ("corpus.weights=nan", "must be finite"),
        ("sft.epochs.foo=3", "is a single field"),
        ("seed.x=9", "is a single field"),
        ("distill.teacher=gemni", "did you mean 'gemini'"),
        ("student.bits=8", "8"),
        ("sft.epochs=-1", "at least 0"),
        ("cpl.rounds=3", "'cpl=default' adds it"),
        ("student=none", "student.FIELD=value"),
        ("--resume", "write part.field=value"),
        ("grpo.reward=guided", "set grpo.group=12"),
        ("sft=none", "set grpo.start='base'"),
        ("distill.teacher=worked", "set corpus.filter='answer'"),
        ("distill.min_score=none", "set corpus.filter='answer', or distill.min_score=80"),
        ("corpus.weights=1,2", "give one per source"),
        ("grpo.judge=teacher", "cannot judge plans"),
        ("sft.target=plan", "set sft.target='plan+solution', or grpo=none"),
        ("name=../up", "names a folder"),
    ],
)
def test_a_wrong_setting_says_what_to_write(setting, words):
    with pytest.raises(RecipeError, match=words.replace("?", r"\?").replace("+", r"\+")):
        override(RECIPE, [setting])


def test_vllm_does_not_sample_guided_groups():
    with pytest.raises(RecipeError, match="use_vllm cannot continue plans, as grpo.reward='guided' does"):
        override(RECIPE, ["grpo.reward=guided", "grpo.group=12", "grpo.extra.use_vllm=true"])


@pytest.mark.parametrize("target", ["plan", "solution"])
def test_a_search_over_plans_and_their_solutions_needs_a_student_that_learned_both(target):
    settings = ["grpo=none", "cpl=default", f"sft.target={target}"]
    with pytest.raises(RecipeError, match=r"set sft.target='plan\+solution', or cpl=none"):
        override(RECIPE, settings)
    assert override(RECIPE, [*settings, "cpl=none"]).sft.target == target
    assert override(RECIPE, [*settings, "sft=none"]).cpl


def test_all_wrong_settings_are_named_at_once():
    with pytest.raises(RecipeError) as caught:
        override(RECIPE, ["sft.epoch=2", "seed=x", "grpo.group=8"])
    assert "epoch" in str(caught.value) and "seed" in str(caught.value)


def test_all_wrong_values_of_a_recipe_are_named_at_once():
    with pytest.raises(RecipeError, match="3 errors") as caught:
        replace(RECIPE, seed="x", student=Student("s", lora_rank=0), evaluate=Evaluate("own"))
    assert "write ('own',)" in str(caught.value)


def test_settings_that_only_fit_together_are_taken_together():
    both = override(RECIPE, ["distill.teacher=worked", "corpus.filter=answer"])
    assert (both.distill, both.corpus) == (Distill("worked"), Corpus(filter="answer"))


def test_a_recipe_file_names_an_unknown_keyword_and_its_line(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(
        "from plantune_lite import *\n"
        "RECIPE = Recipe(name='x', student=Student('smollm2_135m'),\n"
        "    problems=Problems('practice', limt=3))\n"
    )
    with pytest.raises(RecipeError, match="bad.py line 3: TypeError: .*'limt'"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [("RECIPE = 3", "no RECIPE = Recipe"), ("def (", "line 1"), ("import nowhere_at_all", "nowhere_at_all")],
)
def test_a_file_that_is_no_recipe_says_so(tmp_path, text, words):
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(RecipeError, match=words):
        load_recipe(path)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'smollm2_135m'"):
        load_recipe("smolm2_135m")


def test_a_run_folder_is_data_and_none_of_it_is_run(tmp_path):
    recipe = replace(RECIPE, problems=Problems(f"{tmp_path}/evil.py:make"))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef make(): return []\n")
    (tmp_path / "recipe.json").write_text(to_json(recipe))
    assert load_recipe(tmp_path) == recipe
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace('"epochs"', '"epoch"'), "unexpected keyword argument 'epoch'"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "format 1"),
        (lambda text: text[:-20], r"recipe.json: .*: line \d+ column"),
        (lambda text: text.replace('"name": "mine",', ""), "'name'"),
    ],
)
def test_a_damaged_recipe_json_says_where(change, words):
    with pytest.raises(RecipeError, match=words):
        from_json(change(to_json(RECIPE)))


def test_a_recipe_that_an_earlier_version_stored_is_read_without_its_settings_that_are_gone():
    stored = json.loads(to_json(RECIPE))
    stored["distill"] |= {"batch": True, "tokens_per_minute": 9000}
    assert from_json(json.dumps(stored)) == RECIPE


def test_a_function_in_a_recipe_is_stored_by_file_and_name(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "from plantune_lite import *\n"
        "def make(): return []\n"
        "RECIPE = Recipe(name='x', problems=Problems(make), student=Student('smollm2_135m'))\n"
    )
    assert load_recipe(path).problems.source == f"{path}:make"


def test_the_nearest_function_is_named_where_a_file_lacks_one(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("def make(): return []\n")
    with pytest.raises(RecipeError, match="has no function 'mak' at its top level; did you mean 'make'"):
        user_code.source_hash(f"{path}:mak")
    path.write_text("")
    with pytest.raises(RecipeError, match="has no function 'mak' at its top level$"):
        user_code.source_hash(f"{path}:mak")


def test_a_lambda_in_a_recipe_is_refused_with_what_to_do():
    with pytest.raises(RecipeError, match="top level of a .py file"):
        Problems(list)
    with pytest.raises(RecipeError, match="top level of a .py file"):
        Problems(lambda: ["x"])


_VALUES = {
    int: st.integers(-(10**9), 10**9),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    str: st.text() | st.sampled_from(["none", "true", "3", '"x"', "{}", "()"]),
    int | None: st.none() | st.integers(-(10**9), 10**9),
    tuple[int, ...]: st.lists(st.integers(0, 9)).map(tuple),
    dict[str, object]: st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4)),
}


@pytest.mark.parametrize("hint", _VALUES, ids=str)
def test_what_is_written_is_read_back(hint):
    @given(_VALUES[hint])
    def check(value):
        assert fields.parse(fields.written(value), hint) == value

    check()


def test_an_empty_tuple_may_be_written_as_in_a_recipe():
    assert fields.parse("()", tuple[str, ...]) == fields.parse("", tuple[int, ...]) == ()


def test_every_field_of_every_part_can_be_written_on_the_command_line():
    for part in PARTS.values():
        for field in dataclasses.fields(part):
            if (default := default_of(field)) is not dataclasses.MISSING:
                hint = get_type_hints(part)[field.name]
                assert fields.parse(fields.written(default), hint) == default, f"{part.__name__}.{field.name}"


def test_a_recipe_file_runs_as_a_script_with_its_settings(tmp_path):
    copied = tmp_path / "mine.py"
    copied.write_text(shipped()["smollm2_135m"].read_text())
    done = subprocess.run(
        [sys.executable, copied, "name=other", "--dry-run"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "other" in done.stdout, done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("settings", "checked"),
    [
        (["distill.teacher=worked", "corpus.filter=answer"], False),
        (["distill.teacher=gemini", "corpus.filter=answer"], True),
        (["distill.teacher=gemini", "corpus.filter=both"], True),
        (["distill.teacher=gemini", "corpus.filter=plan"], False),
    ],
)
def test_answers_must_be_checkable_where_what_a_teacher_wrote_is_kept_by_its_answer(settings, checked):
    assert override(RECIPE, settings).wants_checked_answers is checked


def test_a_password_in_a_teachers_address_is_refused_and_not_shown():
    with pytest.raises(RecipeError, match="holds a name or a password") as caught:
        override(
            load_recipe("smollm2_135m"), ["distill.teacher=http://me:hunter2@example.org/v1", "corpus.filter=answer"]
        )
    assert "hunter2" not in str(caught.value)
