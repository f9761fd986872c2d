"""A model card says what was measured and made, is valid on the Hub, and nothing in it can break out of its fence."""

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import yaml
from finished_run import finished_run
from huggingface_hub import ModelCard, metadata_load, parse_eval_result_entries
from loopback_hub import LoopbackHub
from manifests import mark
from tiny import tiny_seer, trained_run

from plantune_lite.evaluate.compare import Row
from plantune_lite.evaluate.stats import Estimate
from plantune_lite.export import model_card
from plantune_lite.export.merge import merge_adapter
from plantune_lite.export.model_card import card
from plantune_lite.export.run_facts import FORMS, Scores, of_run
from plantune_lite.recipe.load import load_recipe, override, to_json
from plantune_lite.recipe.schema import Student
from plantune_lite.runs.job import TRAININGS, trained_by
from plantune_lite.student import presets
from plantune_lite.student.load import load_student
from plantune_lite.student.presets import DEQUANTISED


def row(model: str, mode: str, right: int, low: float, high: float) -> Row:
    answered = {"problems": 200, "samples": 1, "accuracy": Estimate(right / 200, low, high)}
    return Row(suite="", model=model, mode=mode, truncated=0.0, unparsable=0.0, **answered)


UNTUNED = row("untuned", "zero_shot_cot", 62, low=0.250, high=0.377)
BASELINE = row("baseline", "plain", 58, low=0.231, high=0.356)
EQUAL = row("m1", "m1", 60, low=0.240, high=0.367)
CLOSE = row("m1", "m1", 70, low=0.287, high=0.418)
BETTER = row("m1", "m1", 110, low=0.481, high=0.617)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("runs") / "mine")


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as server:
        yield server


def facts(run, form="merged", **named):
    known = of_run(run, form=form, repos={form: f"alice/mine{FORMS[form]}"})
    scores = {suite: Scores(rows, better=BETTER in rows) for suite, rows in named.pop("scores", {}).items()}
    return replace(known, **{"scores": scores, **named})


def first_line(text: str) -> str:
    return text.split("\n# ", 1)[1].split("\n\n")[1]


# --- the lines that use it, run ---------------------------------------------------------------------------------------


def run_python(text, names, capsys):
    """Run the card's Python with a folder here in place of the repository."""
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for name, folder in names.items():
        code = code.replace(f'"{name}"', repr(str(folder)))
    exec(compile(code.replace("max_new_tokens=512", "max_new_tokens=4"), "card", "exec"), {})
    return capsys.readouterr().out


def test_the_python_on_the_cards_of_adapter_and_merged_model_runs(run, tmp_path, capsys):
    trained_run(tmp_path, max_tokens=16)
    merge_adapter(tmp_path / "sft", tmp_path / "base", tmp_path / "merged", preset=presets.find("smollm2_135m"))
    for form, folder in (("adapter", tmp_path / "sft"), ("merged", tmp_path / "merged")):
        assert run_python(card(facts(run, form)), {f"alice/mine{FORMS[form]}": folder}, capsys).strip()


@pytest.mark.parametrize(("family", "preset"), [("qwen3_5", "qwen3_5_2b"), ("gemma4", "gemma4_e2b")])
def test_the_python_on_the_card_of_a_text_parts_adapter_runs_and_vllm_is_not_offered_it(
    run, family, preset, tmp_path, capsys
):
    known = presets.find(preset)
    base = tiny_seer(tmp_path / "base", family, chat_template=known.chat_template)
    part = Student(str(base), bits=16, lora_rank=4, lora_alpha=8)
    load_student(part, training=True, say=lambda line: None).save(tmp_path / "sft")
    text = card(replace(facts(run, "adapter"), base=known.repo))
    names = {"alice/mine" + FORMS["adapter"]: tmp_path / "sft", known.repo: base}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PEFT warns of an adapter whose names are not the model's
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        run_python(text, names, capsys)
    assert "vllm serve" not in text


# --- the metadata -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "library", "relation"),
    [("adapter", "peft", "adapter"), ("merged", "transformers", "finetune"), ("gguf", "gguf", "quantized")],
)
def test_the_hub_takes_the_card_of_every_form(run, hub, tmp_path, form, library, relation):
    names = {one: f"alice/mine{end}" for one, end in FORMS.items()}
    scores = {"own": [UNTUNED, BASELINE, EQUAL], "gsm8k": [UNTUNED, BETTER]}
    text = card(facts(run, form, repos=names, scores=scores))
    asked = {"content": text, "repoType": "model"}
    reply = httpx.post(f"{hub.url}/api/validate-yaml", json=asked)
    assert (reply.status_code, reply.json()) == (200, {"errors": [], "warnings": []})
    (tmp_path / "README.md").write_text(text)
    metadata = metadata_load(tmp_path / "README.md")
    assert (metadata["library_name"], metadata["base_model_relation"]) == (library, relation)
    assert metadata["base_model"] == (names["merged"] if form == "gguf" else "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert metadata["license"] == "apache-2.0" and metadata["language"] == ["en"]
    assert "datasets" not in metadata and metadata["pipeline_tag"] == "text-generation"


@pytest.mark.parametrize(("backend", "unsloth"), [("unsloth", True), ("plain", False)])
def test_the_tags_say_how_it_was_trained_and_over_what(tmp_path, backend, unsloth):
    run = finished_run(tmp_path)
    mark(run, {"sft": {"status": "done", "summary": {"base": {"backend": backend}}}})
    tags = ModelCard(card(facts(run, "adapter"))).data.tags
    assert {"sft", "trl", "lora", "base_model:adapter:HuggingFaceTB/SmolLM2-135M-Instruct"} <= set(tags)
    assert ("unsloth" in tags) is unsloth


def test_scores_on_a_benchmark_with_a_leaderboard_are_written_as_the_hub_reads_them(run):
    measured = facts(run, scores={"own": [UNTUNED, EQUAL], "gsm8k": [UNTUNED, BETTER]})
    ((path, text),) = model_card.hub_scores(measured).items()
    (entry,) = parse_eval_result_entries(yaml.safe_load(text))
    assert path == ".eval_results/gsm8k.yaml" and (entry.dataset_id, entry.task_id) == ("openai/gsm8k", "gsm8k")
    assert entry.value == round(100 * BETTER.accuracy.value, 1) and "95 % interval" in entry.notes
    assert model_card.hub_scores(replace(measured, form="gguf", repos={"gguf": "alice/mine-GGUF"})) == {}


def test_the_scores_come_back_from_the_model_index(run):
    found = ModelCard(card(facts(run, scores={"own": [UNTUNED, EQUAL], "gsm8k": [UNTUNED, BETTER]}))).data.eval_results
    assert [(one.dataset_type, one.metric_type, one.metric_value) for one in found] == [
        ("own", "accuracy", 30.0),
        ("openai/gsm8k", "accuracy", 55.0),
    ]
    assert "60 of 200" in found[0].metric_name and "24.0 to 36.7" in found[0].metric_name


def test_a_name_that_looks_like_yaml_stays_a_name(run):
    evil = 'own\n---\n# evil: "x"'
    [found] = ModelCard(card(facts(run, scores={evil: [UNTUNED, EQUAL]}))).data.eval_results
    assert found.dataset_name == evil


def test_gguf_files_of_a_merged_model_that_was_not_pushed_come_from_the_base(run):
    metadata = ModelCard(card(facts(run, "gguf", repos={"gguf": "alice/mine-GGUF"}))).data
    assert (metadata.base_model, metadata.base_model_relation) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "finetune")


def test_gemma_keeps_its_own_licence_and_its_notice(tmp_path):
    known = facts(finished_run(tmp_path, "student.model=gemma3_1b"))
    text = card(known)
    assert ModelCard(text).data.license == "gemma" and "https://ai.google.dev/gemma/terms" in text
    assert "apache" not in text.split("## Licence")[1]
    assert "Gemma Terms of Use" in model_card.notice(known) and "google/gemma-3-1b-it" in model_card.notice(known)


def test_another_model_needs_no_notice_and_an_unknown_one_has_no_licence(run, hub):
    known = replace(facts(run), base=None, licence=None)
    text = card(known)
    assert model_card.notice(facts(run)) is None and ModelCard(text).data.license == "unknown"
    assert ModelCard(text).data.base_model is None and "what the base model's authors say" in text
    reply = httpx.post(f"{hub.url}/api/validate-yaml", json={"content": text, "repoType": "model"})
    assert reply.status_code == 200


def test_the_base_is_the_repository_that_the_adapter_names_with_the_revision_of_that(tmp_path):
    run = finished_run(tmp_path, "student.model=unsloth/gemma-3-1b-it")
    config, named = run / "sft" / "adapter_config.json", {"base_model_name_or_path": "unsloth/gemma-3-1b-it"}
    config.write_text(json.dumps({**named, "revision": "a" * 40}))
    known = facts(run, "adapter")
    assert (known.base, known.revision) == ("unsloth/gemma-3-1b-it", "a" * 40) and known.licence == "gemma"
    config.write_text(json.dumps({"base_model_name_or_path": str(tmp_path), "revision": "a" * 40}))
    assert (facts(run).base, facts(run).revision) == ("google/gemma-3-1b-it", None)


# --- what was measured ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "better", "said"),
    [
        (EQUAL, False, "**Not better than untuned** on `own`: 60 of 200 right, untuned at its best prompt 62 of 200."),
        (EQUAL, True, "**Not better than untuned**"),
        (CLOSE, False, "**Not shown to be better than untuned** (by a paired test)"),
        (CLOSE, True, "**Better than untuned**"),
    ],
)
def test_the_first_line_says_whether_it_is_better(run, mine, better, said):
    known = replace(facts(run), scores={"own": Scores([UNTUNED, BASELINE, mine], better)})
    assert first_line(card(known)).startswith(said)


def test_of_several_suites_the_bad_news_comes_first(run):
    lines = first_line(card(facts(run, scores={"own": [UNTUNED, BETTER], "gsm8k": [UNTUNED, EQUAL]}))).splitlines()
    assert lines[0].startswith("- **Not better than untuned** on `gsm8k`") and "**Better" in lines[1]


def test_every_row_stands_in_the_table_with_its_interval(run):
    text = card(facts(run, scores={"own": [UNTUNED, BASELINE, EQUAL]}, plot=Path("scores.svg")))
    rows = [line for line in text.splitlines() if re.match(r"\| `.*of 200", line)]
    assert rows == [
        "| `untuned, zero_shot_cot` | 62 of 200 | 31.0% | 25.0 to 37.7 |",
        "| `baseline, plain` | 58 of 200 | 29.0% | 23.1 to 35.6 |",
        "| `m1, m1` | 60 of 200 | 30.0% | 24.0 to 36.7 |",
    ]
    assert "(scores.svg)" in text


def test_a_model_that_nobody_measured_is_called_so(run):
    text = card(facts(run))
    assert first_line(text).startswith("**Unmeasured:**")
    assert "## Scores" not in text and ModelCard(text).data.eval_results is None


def test_what_was_measured_on_the_adapter_is_not_said_of_a_quantised_file(run):
    scores = {"own": [UNTUNED, BETTER]}
    assert "with the adapter over its base" in card(facts(run, "gguf", scores=scores))
    assert ModelCard(card(facts(run, "gguf", scores=scores))).data.eval_results is None
    assert "with the adapter over its base" not in card(facts(run, "adapter", scores=scores))


@pytest.mark.parametrize("form", FORMS)
def test_a_model_of_the_embedded_student_says_that_its_weights_are_dequantised(run, tmp_path, form):
    assert DEQUANTISED in card(facts(run, form))
    of_the_hub = finished_run(tmp_path, "student.model=qwen3_4b")
    assert DEQUANTISED not in card(facts(of_the_hub, form))


def test_a_merged_model_says_how_alike_it_is_to_its_adapter(run):
    assert "the same likeliest token on 99.4% of 512 positions, largest logit difference 0.125." in card(facts(run))


def test_a_file_that_nobody_ran_is_called_so(run):
    known = facts(run, "gguf")
    assert "| `mine-q8_0.gguf` | 4 B | yes | 12 of 12 |" in card(known)
    unrun = replace(known, checks={"mine-q4_k_m.gguf": {"bytes": 4, "ran": False}})
    assert "**no: this file was never run** | unmeasured" in card(unrun)


# --- what it says of the making ---------------------------------------------------------------------------------------


def test_the_funnel_is_the_corpuss_own(run):
    text, stats = card(facts(run)), json.loads((run / "corpus" / "stats.json").read_text())
    assert f"{stats['funnel']['kept']} were kept" in text and f"{stats['train']} rows to learn from" in text
    assert "| `in test set" in text and "The plans are **not scored**" in text


def test_the_test_sets_that_training_was_compared_with_are_named_and_so_are_the_others(run):
    text = card(facts(run, scores={"own": [UNTUNED, EQUAL], "practice_words": [UNTUNED, BETTER]}))
    assert "shares 13 words in a row with a test problem" in text and "Problems found, by suite: `own` 1." in text
    assert "They were **not** compared with `practice_words` before training." in text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ("grpo=none",),
            "1. supervised learning on what was kept, to write the plan and then the working that follows it (M1)",
        ),
        (("grpo=none", "sft.target=plan"), "to write the plan alone, for another model to carry out (M2)"),
        (
            ("grpo=default",),
            "2. reinforcement (GRPO), rewarded for the right answer and for a plan like the reference",
        ),
        (("grpo=default", "grpo.reward=guided", "grpo.group=12"), "PTA-GRPO, arXiv 2510.01833"),
        (("grpo=none", "cpl=default"), "preferences between its steps"),
        (("grpo=none", "cpl=default", "cpl.pairs=answers"), "preferences between its answers"),
        (("grpo=none", "cpl=default", "cpl.pairs=none"), "a search over plan steps (CPL): supervised learning"),
    ],
)
def test_the_method_is_the_recipes(run, settings, said):
    text = trained_as(run, *settings)
    assert said in text and "a plan was kept when following it gave the right answer" in text


def trained_as(run, *settings) -> str:
    """The card of a model that went through all that such a recipe has."""
    recipe = json.loads(to_json(override(load_recipe("smollm2_135m"), settings)))
    trained = trained_by(recipe, [stage for stage in TRAININGS if recipe[stage]])
    return card(replace(facts(run), recipe=recipe, trained=trained))


@pytest.mark.parametrize(
    ("start", "said"),
    [("base", "starting from `base`"), ("/home/ada/runs/older", "starting from `older`")],
)
def test_reinforcement_that_leaves_the_runs_own_adapter_aside_learned_nothing_of_it(run, start, said):
    text = trained_as(run, "grpo=default", f"grpo.start={start}")
    assert f"1. reinforcement (GRPO), rewarded for the right answer and for a plan like the reference, {said}" in text
    assert "supervised" not in text and "rows to learn from" not in text
    assert "questions for reinforcement." in text


def test_a_training_that_went_on_from_another_run_says_so(run):
    text = trained_as(run, "grpo=none", "sft.start=other_run")
    assert "that follows it (M1), starting from `other_run`" in text


def test_a_training_that_is_not_done_is_no_part_of_the_model(tmp_path):
    text = card(facts(finished_run(tmp_path, "grpo=default")))  # which ended with its SFT
    assert "(M1)" in text and "reinforcement (GRPO)" not in text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("grpo=none",), "to write a short plan before it solves"),
        (("grpo=none", "sft.target=solution", "sft.solutions=dataset"), "to solve without a plan"),
        (("grpo=none", "sft.target=solution"), "to solve without a plan"),
        (("grpo=none", "sft.target=plan"), "to write a short plan, which another model carries out"),
        (("grpo=default", "sft.target=solution", "grpo.reward=answer"), "to solve without a plan"),
        (("grpo=default", "grpo.start=base", "grpo.reward=answer"), "to give the right answer"),
        (("grpo=default", "grpo.start=base"), "to write a short plan before it solves"),
    ],
)
def test_what_it_was_trained_to_do_is_what_its_target_was(run, settings, said):
    assert f"`HuggingFaceTB/SmolLM2-135M-Instruct`, trained {said}." in trained_as(run, *settings)


def test_the_control_is_no_baseline(run):
    text = trained_as(run, "grpo=none", "sft.target=solution")
    assert (
        "the teacher's working without the plan that it followed (the control)" in text and "(a baseline)" not in text
    )


def test_where_a_user_keeps_files_is_not_said(tmp_path):
    run = finished_run(tmp_path)
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["problems"]["path"], recipe["student"]["model"] = "/home/ada/secret/mine.csv", "/home/ada/models/tiny"
    (run / "recipe.json").write_text(json.dumps(recipe))
    text = card(facts(run))
    assert "/home" not in text and '"path": "mine.csv"' in text and '"model": "tiny"' in text


def test_the_lines_to_run_it_name_what_was_pushed(run):
    assert "ollama run hf.co/alice/mine-GGUF:Q8_0" in card(facts(run, "gguf"))
    assert "llama-cli -hf alice/mine-GGUF:Q8_0" in card(facts(run, "gguf"))
    assert 'AutoPeftModelForCausalLM.from_pretrained("alice/mine"' in card(facts(run, "adapter"))
    assert "hf download alice/mine chat_template.jinja" in card(facts(run, "adapter"))
    assert (
        "vllm serve HuggingFaceTB/SmolLM2-135M-Instruct --enable-lora --max-lora-rank 32 --lora-modules mine=alice/mine"
    ) in card(facts(run, "adapter"))
    assert 'pipeline("text-generation", "alice/mine-merged"' in card(facts(run))
    for form in FORMS:
        for block in re.findall(r"```python\n(.*?)```", card(facts(run, form)), re.DOTALL):
            compile(block, form, "exec")


@pytest.mark.parametrize("file", ["mine-q4_k_m.gguf", "q4-model-Q4_K_M.gguf"])
def test_a_quantisation_is_read_from_its_file(file):
    assert model_card._quantisation(file) == "Q4_K_M"


def test_the_paper_and_the_versions_are_named(run):
    text = card(facts(run))
    assert "arXiv 2507.07495" in text and "torch 2.13.0" in text
