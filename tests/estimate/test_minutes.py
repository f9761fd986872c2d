"""Minutes of a run, before it starts: held to timings that others have published, and to our own on a CPU."""

import re
from dataclasses import replace
from statistics import median

import pytest

from benchmarks import estimate as published
from plantune_lite import CPL, GRPO, SFT, Distill, Evaluate, Problems, Recipe, Student
from plantune_lite.estimate import devices, minutes
from plantune_lite.recipe.load import load_recipe, override, shipped

T4 = devices.device("Tesla T4")


def recipe(**parts):
    defaults = {
        "distill": Distill("gemini"),
        "student": Student("qwen3_4b"),
        "sft": SFT(),
        "evaluate": Evaluate(limit=64),
        "headroom": 0,
    }
    return Recipe(**{"name": "r", "problems": Problems("gsm8k"), **defaults, **parts})


def test_every_published_timing_is_within_a_factor_of_two_when_it_is_left_out():
    off = []
    for one in published.TIMINGS:
        missed = one.off(published.fit([other for other in published.TIMINGS if other is not one]))
        off.append(max(missed, 1 / missed))
    assert max(off) < minutes.WITHIN and median(off) < 1.5


def test_the_factors_are_those_that_fit_best():
    fitted = published.fit(published.TIMINGS)
    for name, value in vars(devices.CUDA).items():
        assert getattr(fitted, name) == pytest.approx(value, rel=0.03), name


GPU_OF = {"8 GB": "RTX 4060", "12 GB": "RTX 4070", "16 GB": "T4"}


@pytest.mark.parametrize("name", [name for name in shipped() if re.fullmatch(r"(gemma|qwen).*_(sft|grpo)", name)])
@pytest.mark.parametrize("teacher", ["gemini", "self"])
def test_a_recipe_fits_its_evening_on_the_gpu_it_names(name, teacher):
    [memory] = re.findall(r"[Oo]ne (\d+ GB) GPU", shipped()[name].read_text(encoding="utf-8"))
    wanted = override(load_recipe(name), [f"distill.teacher={teacher}"])
    took = minutes.stage_minutes(wanted, devices.device(GPU_OF[memory]), problems=wanted.problems.limit)
    assert sum(took.values()) / 60 <= wanted.max_hours <= 8
    part = wanted.evaluate
    assert wanted.problems.limit >= 500 and len(part.suites) * part.limit * part.samples >= 300


def test_what_max_hours_ends_early_is_said_stage_by_stage():
    wanted = recipe(max_hours=1.0, evaluate=Evaluate(limit=300))
    took = {"distill": 100.0, "sft": 20.0, "evaluate": 90.0}
    assert list(minutes.left_out(wanted, took)) == [
        "max_hours=1 ends distill after 24 of 100 min",
        "max_hours=1 ends evaluate after 14 of 90 min",
    ]
    assert list(minutes.left_out(replace(wanted, max_hours=None), took)) == []


def test_minutes_are_said_in_words_where_somebody_described_the_device():
    found = minutes.stage_minutes(recipe(grpo=GRPO()), T4, problems=1000)
    assert list(found) == ["sft", "grpo", "evaluate"] and all(took > 0 for took in found.values())
    assert devices.device("NVIDIA Q9000") is None
    assert [minutes.in_words(one) for one in (0.4, 27.3, 150)] == ["under a minute", "about 27 min", "about 2.5 h"]


def test_a_longer_search_takes_longer_and_a_budget_of_tokens_ends_it():
    def least(**settings):
        return minutes.stage_minutes(
            recipe(cpl=CPL(questions=200, **settings)), devices.device("Tesla T4"), problems=1000
        )["cpl"]

    assert least(iterations=10) < least(iterations=100) and least(rounds=1) < least(rounds=2)
    assert least(iterations=10, max_tokens=100_000) < least(iterations=10)
    assert least(iterations=1_000, max_tokens=100_000) == pytest.approx(least(iterations=10, max_tokens=100_000))


def test_cards_are_known_by_what_their_drivers_call_them():
    names = ["NVIDIA GeForce RTX 4060 Ti", "NVIDIA A100-SXM4-40GB", "Tesla T4", "NVIDIA L4", "NVIDIA H200"]
    assert [devices.device(name).name for name in names] == ["RTX 4060", "A100", "T4", "L4", "H200"]
    assert devices.device("NVIDIA L40S") is None and devices.gpu_sold_as(16).speed.name == "T4"


def test_a_machine_is_the_one_at_hand_or_a_card_of_a_size():
    import torch

    found = devices.here()
    assert (found.on == "cuda") == torch.cuda.is_available() and found.free > 1e8 and found.name
    small, odd = devices.here(gpu=12), devices.here(gpu=10)
    assert (small.on, small.free, small.bf16, small.speed.name) == ("cuda", 11.0 * 2**30, True, "RTX 3060")
    assert 9 * 2**30 < odd.free < 10 * 2**30 and odd.speed is None and not devices.here(gpu=16).bf16


def test_no_more_problems_are_asked_beforehand_than_there_are():
    few, many = (minutes.stage_minutes(recipe(headroom=64), T4, problems=problems) for problems in (4, 500))
    assert few["headroom"] < many["headroom"] == minutes.stage_minutes(recipe(headroom=64), T4, problems=64)["headroom"]


def test_vllm_answers_faster_and_trains_no_faster():
    recipe, on = load_recipe("qwen3_4b_grpo"), devices.here(gpu=24).speed
    plain, served = (
        minutes.stage_minutes(override(recipe, [f"student.engine={engine}"]), on, problems=500)
        for engine in ("unsloth", "vllm")
    )
    assert served["evaluate"] < plain["evaluate"] / 3
    assert served["sft"] == plain["sft"] and served["grpo"] == plain["grpo"]


def test_a_faster_card_and_fewer_rows_take_no_longer():
    def most(card, **parts):
        return minutes.stage_minutes(recipe(**parts), devices.device(card), problems=1000)["sft"]

    assert most("H100") < most("T4")
    assert most("T4", sft=SFT(max_steps=10)) < most("T4")
    assert most("T4", student=Student("qwen3_4b", checkpointing=False)) < most("T4")


def test_a_cpus_minutes_hold_what_was_seen_on_one():
    part = Student("smollm2_135m", bits=16, max_length=512, checkpointing=False)
    seen = recipe(student=part, sft=SFT(batch_size=8, accumulate=1, max_steps=60), evaluate=Evaluate(limit=64))
    found = minutes.stage_minutes(seen, devices.processor(2), problems=1000)
    assert 0.5 < found["sft"] / (60 * 5.5 / 60) < 2  # 5.5 s a step
    assert 0.5 < found["evaluate"] / (4 * 4) < 2  # 4 min for 64 problems, four times
