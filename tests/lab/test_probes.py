"""Probes: what is planted is found, what is not there is not, and what is read is what the model holds."""

import json
import math
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from tiny import tiny_student, trained_run

from plantune_lite.evaluate.answers import Asking
from plantune_lite.files import write_records
from plantune_lite.lab.probes import generated_steps, linear, residuals, step_ranks, world_probe
from plantune_lite.lab.probes import run as probe_verb
from plantune_lite.lab.probes.cases import cases
from plantune_lite.lab.probes.linear import auroc, balanced_accuracy, best_threshold, difference, fit, over_problems
from plantune_lite.lab.probes.plan_probe import Try, knows, tried
from plantune_lite.lab.probes.resample import compare, resampling
from plantune_lite.lab.probes.residuals import Residuals
from plantune_lite.lab.probes.run import probe_run
from plantune_lite.lab.probes.saved_judge import judge_of
from plantune_lite.lab.worlds.domains import generate
from plantune_lite.lab.worlds.grade import problem_of, world_in
from plantune_lite.plan import CLOSE, chat, parse, render
from plantune_lite.recipe.schema import Student
from plantune_lite.student import presets
from plantune_lite.student.load import load_student
from plantune_lite.types import PlantuneError, Problem, RecipeError, Reply, RunError, Sampling, Score

# --- linear probes ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    """300 points in 20 dimensions, of which one says the label, though not for certain."""
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(300, 20)), rng.integers(0, 2, 300)
    points[:, 3] += 2.5 * labels
    points *= 10 ** rng.uniform(-3, 3, 20)  # some dimensions of a residual are a million times others
    return points.astype(np.float32), labels.astype(float)


def test_a_planted_direction_is_found_and_shuffled_labels_are_not(planted):
    points, labels = planted
    found = fit(points[:200], labels[:200], strength=0.1)(points[200:])[:, 0].numpy()
    assert auroc(found, labels[200:]) > 0.85 and balanced_accuracy(found, labels[200:]) > 0.8
    shuffled = np.random.default_rng(1).permutation(labels[:200])
    lost = fit(points[:200], shuffled, strength=0.1)(points[200:])[:, 0].numpy()
    assert 0.3 < auroc(lost, labels[200:]) < 0.7


def test_a_probe_is_the_minimum_of_its_loss(planted):
    points, labels = planted
    made = fit(points, labels, strength=0.1)
    x = ((torch.tensor(points) - made.middle_H) / made.scale_H).clamp(-10, 10)
    weights, bias = made.weights_H_T.clone().requires_grad_(), made.bias_T.clone().requires_grad_()
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        (x @ weights + bias)[:, 0], torch.tensor(labels).float()
    )
    (losses + 0.05 * weights.square().sum()).backward()
    assert weights.grad.abs().max() < 1e-3 and bias.grad.abs().max() < 1e-3


def test_many_probes_at_once_are_the_same_as_one_by_one_and_unknown_labels_teach_nothing(planted):
    points, labels = planted
    other = np.where(np.arange(300) < 150, 1 - labels, np.nan)
    together = fit(points, np.stack([labels, other], 1), strength=0.1)
    alone = fit(points[:150], 1 - labels[:150], strength=0.1)
    assert auroc(together(points)[:, 0], labels) == pytest.approx(
        auroc(fit(points, labels, strength=0.1)(points)[:, 0], labels), abs=0.01
    )
    assert auroc(together(points)[:, 1], 1 - labels) == pytest.approx(auroc(alone(points)[:, 0], 1 - labels), abs=0.02)


def test_a_probe_goes_to_json_and_back(planted):
    points, labels = planted
    made = fit(points, labels, strength=0.1)
    again = linear.from_row(json.loads(json.dumps(made.to_row())))
    assert torch.equal(again(points), made(points))


def test_auroc_counts_pairs_ties_half_and_weights_as_copies():
    scores, labels = [1, 2, 2, 3, 0], [0, 1, 0, 1, 1]
    by_hand = np.mean([(y > n) + (y == n) / 2 for y in (2, 3, 0) for n in (1, 2)])
    assert auroc(scores, labels) == pytest.approx(by_hand)
    assert auroc(scores, labels, [2, 1, 0, 3, 1]) == auroc([1, 1, 2, 3, 3, 3, 0], [0, 0, 1, 1, 1, 1, 1])
    assert math.isnan(auroc([1, 2], [1, 1]))


def test_balanced_accuracy_of_a_lopsided_guess_is_a_half():
    assert balanced_accuracy([1] * 10, [1] * 9 + [0]) == 0.5
    assert balanced_accuracy([1, -1, 1, -1], [1, 0, 0, 1]) == 0.5
    assert best_threshold([-3, -2, -1, 0], [0, 0, 1, 1]) == -1.5


def test_intervals_are_wide_where_few_problems_stand_behind_many_cases():
    rng = np.random.default_rng(0)
    labels, luck = np.arange(200) % 2, rng.normal(size=10)
    scores = labels * luck.repeat(20) + rng.normal(size=200)  # what is told depends on the problem
    by_case = over_problems(auroc, scores, labels, list(map(str, range(200))))
    by_problem = over_problems(auroc, scores, labels, [str(n // 20) for n in range(200)])
    assert by_problem.high - by_problem.low > by_case.high - by_case.low
    assert by_problem.low < by_problem.value < by_problem.high


def test_three_problems_that_agree_are_not_certain_and_one_says_next_to_nothing():
    scores, labels = [1, 2, 3, 0, -1, -2], [1, 1, 1, 0, 0, 0]
    three = over_problems(auroc, scores, labels, list("abcabc"))
    assert three.value == 1 == three.high and 0.3 < three.low < 0.8
    one = over_problems(auroc, scores, labels, ["a"] * 6)
    assert one.low < 0.2 and one.high == 1


def test_two_scores_of_the_same_cases_are_compared_problem_by_problem():
    rng = np.random.default_rng(0)
    labels, ids = np.arange(400) % 2, [str(n // 8) for n in range(400)]
    better, worse = (labels * much + rng.normal(size=400) for much in (2.0, 0.5))
    gained = difference(auroc, [(better, worse, labels, ids)])
    assert gained.value == pytest.approx(auroc(better, labels) - auroc(worse, labels)) and gained.low > 0.05
    none = difference(auroc, [(better, better, labels, ids), (worse, worse, labels, ids)])
    assert none.value == 0 and none.low < 0 < none.high
    lost = difference(auroc, [(worse, better, labels, ids), (worse, better, labels, ids)])
    assert lost.value == pytest.approx(-gained.value) and lost.high - lost.low < gained.high - gained.low


def test_the_penalty_is_the_best_on_other_cases_and_of_equals_the_strongest(planted):
    points, labels = planted
    first, second = range(150), range(150, 250)
    found = linear.best_fit(points, labels, first, second)
    of = {
        strength: auroc(fit(points[first], labels[first], strength=strength)(points[second])[:, 0], labels[second])
        for strength in linear.STRENGTHS
    }
    assert found.auroc == max(of.values()) == of[found.strength] and len(set(of.values())) > 1
    assert found.auroc == auroc(found.scores[second], labels[second]) and len(found.scores) == 300
    told = np.stack([labels, -labels], 1)
    assert linear.best_fit(told, labels, first, second)[:2] == (1.0, max(linear.STRENGTHS))


# --- what is asked about ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worlds():
    """Problems with a walk as their plan."""
    found = generate("blocksworld", sizes=(3,), seed=0, count=20)
    walked = ((world, [one.text for one in world.walk(Random(0), 6)]) for world in found)
    return [problem_of(world, steps, id=f"w/{number}") for number, (world, steps) in enumerate(walked)]


@pytest.fixture(scope="module")
def asked(worlds):
    return cases(worlds, per_problem=8, seed=0)


def test_cases_come_in_pairs_of_one_kind_of_action_that_differ_only_in_objects(asked):
    assert len(asked) == 160
    for good, bad in zip(asked[::2], asked[1::2], strict=True):
        assert (good.valid, bad.valid, good.begun, good.after) == (True, False, bad.begun, bad.after)
        assert good.step.split()[0] == bad.step.split()[0] and good.step != bad.step


def test_all_kinds_of_action_and_all_that_can_be_lacking_are_asked_about(worlds):
    asked = cases(worlds, per_problem=20, seed=0)
    counted = Counter(f"{one.step.split()[0]} {one.lacks}" for one in asked if not one.valid)
    assert set(counted) == {
        "pick-up clear",
        "pick-up ontable",
        "put-down holding",
        "stack clear",
        "stack holding",
        "unstack clear",
        "unstack on",
    }
    kinds = Counter(one.step.split()[0] for one in asked)
    assert min(kinds.values()) > 0.1 * len(asked)
    assert all(one.lacks == one.why.split()[0] for one in asked if not one.valid)


def test_what_a_case_says_is_what_the_simulator_says(worlds, asked):
    of = {one.id: world_in(one) for one in worlds}
    for case in asked:
        world = of[case.problem_id]
        steps = parse(f"{case.begun} {case.step}\n{CLOSE}").plan
        state = world.after(steps[:-1])
        assert world.facts(state) == case.facts
        assert case.changed == case.facts ^ world.facts(world.start)
        missing = world.lacks(world.actions[case.step], state)
        assert [str(one) for one in missing] == ([] if case.valid else [case.why])


def test_half_of_the_cases_follow_the_problems_own_plan(worlds, asked):
    own = {one.id: render(one.steps) for one in worlds}
    after_plan = [one for one in asked if one.after == "plan"]
    assert len(after_plan) == 80
    for case in after_plan:
        assert own[case.problem_id].startswith(case.begun.rpartition("\n")[0])


def test_cases_are_the_same_every_time_and_of_another_seed_others(worlds, asked):
    assert cases(worlds, per_problem=8, seed=0) == asked != cases(worlds, per_problem=8, seed=1)


# --- what a model holds -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A tiny student with an adapter that is not nothing."""
    folder = tiny_student(tmp_path_factory.mktemp("base"), "llama", dtype=torch.float32, max_position_embeddings=1024)
    (folder / "chat_template.jinja").write_text(presets.find("smollm2_135m").chat_template, encoding="utf-8")
    part = Student(str(folder), bits=32, max_length=1024, lora_rank=4, lora_alpha=4)
    loaded = load_student(part, training=True, say=lambda line: None)
    for name, values in loaded.model.named_parameters():
        if "lora_B" in name:
            values.data = 0.3 * torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    return loaded


def test_what_is_read_in_padded_batches_is_what_each_text_gives_alone(small, tmp_path, monkeypatch):
    texts = [small.encode_chat(chat("x" * length)) for length in (30, 5, 60, 31)]
    monkeypatch.setattr(residuals, "TOKENS_AT_ONCE", 2 * max(map(len, texts)))
    read = residuals.read(small, texts, tmp_path / "r.f32", learned=[3, 0, 5, 1])
    small.model.eval()
    for place, ids in enumerate(texts):
        with torch.inference_mode():
            made = small.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        for number, layer in enumerate(made.hidden_states):
            assert np.allclose(read.layer(number)[place], layer[0, -1], atol=1e-4)
        logprobs = made.logits[0].log_softmax(-1)
        count = (3, 0, 5, 1)[place]
        expected = [float(logprobs[at - 1, ids[at]]) for at in range(len(ids) - count, len(ids))]
        assert read.logprobs[place] == pytest.approx(expected, abs=1e-4)
    assert (read.layers, read.texts) == (3, 4)


def test_batches_hold_no_more_tokens_than_they_may_and_every_text_once(monkeypatch):
    monkeypatch.setattr(residuals, "TOKENS_AT_ONCE", 100)
    texts = [[0] * length for length in (10, 90, 30, 30, 45, 200, 1)]
    batches = residuals._batches(texts)
    assert sorted(place for batch in batches for place in batch) == list(range(7))
    assert all(len(batch) == 1 or len(batch) * len(texts[batch[0]]) <= 100 for batch in batches)


def test_reading_leaves_a_student_that_trains_as_it_was(small, tmp_path):
    small.model.train()
    residuals.read(small, [[1, 2, 3]], tmp_path / "r.f32", learned=[0])
    assert small.model.training


def killed(out):
    """What a probe leaves that never comes to its end."""
    folder = out / f"{residuals.ROOM}killed"
    folder.mkdir()
    (folder / "tuned.f32").write_bytes(bytes(999))


# --- probes of worlds -------------------------------------------------------------------------------------------------


def held(file, layers_L_N_H):
    """Residuals as if a model had held them."""
    layers_L_N_H.astype(np.float32).tofile(file)
    layers, texts, width = layers_L_N_H.shape
    return Residuals(file, layers, texts, width, tuple((-float(number),) for number in range(texts)))


def test_validity_planted_on_one_layer_is_found_there_and_only_there(asked, tmp_path):
    rng = np.random.default_rng(0)
    layers = rng.normal(size=(3, len(asked), 16))
    layers[1, :, 5] += [4 * one.valid for one in asked]
    read, parts = held(tmp_path / "r", layers), world_probe.split([one.problem_id for one in asked], seed=0)
    found = world_probe.by_layer(read, asked, parts, seed=0)
    assert found["layer"] == 1 and found["auroc"]["value"] > 0.95 and set(found["auroc_after"]) == {"plan", "walk"}
    assert all(found["by_layer"][layer] < 0.75 for layer in (0, 2))
    controls = world_probe.controls(read, 1, asked, parts, seed=0)
    assert all(controls[name]["value"] < 0.8 for name in ("embedding", "shuffled", "bag_of_objects"))


def test_facts_planted_on_one_layer_are_found_where_they_changed(asked, tmp_path):
    rng = np.random.default_rng(0)
    atoms = sorted({atom for one in asked for atom in one.atoms})
    holds = np.array([[atom in one.facts for atom in atoms] for one in asked])
    layers = rng.normal(size=(2, len(asked), len(atoms)))
    layers[1] += 6 * holds
    read, parts = held(tmp_path / "r", layers), world_probe.split([one.problem_id for one in asked], seed=0)
    found = world_probe.predicates(read, asked, parts, seed=0)
    assert found["layer"] == 1 and found["all"]["value"] > 0.9
    assert {name: one["scored"] for name, one in found["by_predicate"].items()} == {
        "clear": "changed",
        "handempty": "everywhere",  # no start has a full hand
        "holding": "everywhere",
        "on": "changed",
        "ontable": "changed",
    }
    assert all(one["value"] > 0.85 for one in found["by_predicate"].values())
    nothing = world_probe.predicates(held(tmp_path / "n", rng.normal(size=layers.shape)), asked, parts, seed=0)
    assert nothing["all"]["value"] < 0.65


def test_a_fact_that_always_holds_where_it_changed_does_not_lift_the_score(asked, tmp_path):
    """Residuals that only say how a fact began are worth nothing: it is scored where it is no longer so."""
    atoms = sorted({atom for one in asked for atom in one.atoms})
    began = np.array([[atom in (one.facts ^ one.changed) for atom in atoms] for one in asked], dtype=float)
    read = held(tmp_path / "r", np.stack([began, began]))
    found = world_probe.predicates(read, asked, world_probe.split([one.problem_id for one in asked], seed=0), seed=0)
    assert found["all"]["value"] < 0.6


def test_no_problem_is_in_two_parts_and_a_few_are_too_few():
    ids = [str(number // 3) for number in range(60)]
    parts = world_probe.split(ids, seed=0)
    named = [{ids[place] for place in places} for places in (parts.fit, parts.choose, parts.report)]
    assert [len(names) for names in named] == [12, 4, 4] and len(set.union(*named)) == 20
    spared = world_probe.split(ids, seed=0, spared={str(number) for number in range(4)})
    assert {ids[place] for place in spared.report} == {"0", "1", "2", "3"}
    with pytest.raises(PlantuneError, match="9 problems cannot be split in three"):
        world_probe.split(ids[:27], seed=0)


def test_output_probability_is_that_of_the_steps_own_tokens(asked, tmp_path):
    parts = world_probe.split([one.problem_id for one in asked], seed=0)
    read = held(tmp_path / "r", np.zeros((1, len(asked), 2)))
    read = replace(read, logprobs=tuple((-1.0, -1.0) if one.valid else (-3.0,) for one in asked))
    found = world_probe.said(read, asked, parts, seed=0)
    assert found["mean"]["auroc"]["value"] == found["sum"]["balanced_accuracy"]["value"] == 1.0


def test_a_whole_probe_of_a_tiny_model_has_every_figure_and_leaves_no_large_file(small, worlds, tmp_path):
    lines = []
    killed(tmp_path)
    found = world_probe.probe(small, worlds[:12], tmp_path, per_problem=4, max_tokens=8, seed=0, say=lines.append)
    assert (found["cases"], found["problems"], found["layers"]) == (48, 12, 3)
    for name in ("validity", "output_probability", "rank", "predicates", "generative"):
        assert set(found[name]) == {"tuned", "untuned"}
    assert found["rank"]["tuned"]["cases"] == 8 and found["rank"]["tuned"] != found["rank"]["untuned"]
    assert found["validity"]["tuned"]["scores"] != found["validity"]["untuned"]["scores"]
    assert len(found["validity"]["tuned"]["scores"]) == len(found["reported"]["valid"])
    assert sum(found["kinds"].values()) == 24
    assert found["validity"]["tuned"]["by_layer"][0] == found["validity"]["untuned"]["by_layer"][0]  # the embeddings
    assert found["generative"]["tuned"]["success"]["value"] == 0
    assert json.loads(json.dumps(found)) == found and not list(tmp_path.iterdir())
    assert lines[0] == "48 steps of 12 problems, half of them possible, 8 reported on" and len(lines) == 2


def test_a_step_is_ranked_among_all_of_its_kind_by_what_the_model_would_write(small, worlds, asked, tmp_path):
    some = [one for one in asked if one.step.startswith("stack")][:4]
    of = {one.id: world_in(one) for one in worlds}
    for case in some:
        kind = [step for step in of[case.problem_id].actions if step.startswith("stack")]
        texts = [small.encode_chat(replace(case, step=step).messages) for step in kind]
        learned = [len(text) - len(small.encode_chat(case.before)) for text in texts]
        read = residuals.read(small, texts, tmp_path / "r.f32", learned=learned)
        said = {step: sum(one) for step, one in zip(kind, read.logprobs, strict=True)}
        below = sum(said[step] < said[case.step] for step in kind) / (len(kind) - 1)
        found = step_ranks.ranked(small, [case], of, seed=0)
        assert len(kind) > 4 and found["possible" if case.valid else "impossible"]["value"] == pytest.approx(below)


def test_ways_to_go_on_are_as_probable_together_as_each_is_alone(small):
    before, endings = small.encode_chat(chat("x")), [[70, 71, 72], [70], [300, 9]]
    for ending, said in zip(endings, step_ranks.logprobs(small, before, endings), strict=True):
        with torch.inference_mode():
            logits = small.model(torch.tensor([[*before, *ending]])).logits[0].log_softmax(-1)
        alone = [float(logits[len(before) - 1 + place, id]) for place, id in enumerate(ending)]
        assert said == pytest.approx(alone, abs=1e-4)


# --- what a model does ------------------------------------------------------------------------------------------------


def saying(*texts):
    """A Generate that says these in turn."""
    said = iter(texts)
    return lambda prompts, sampling: [[Reply(text=next(said)) for _ in range(sampling.n)] for _ in prompts]


def test_written_plans_are_counted_valid_executable_and_up_to_the_first_wrong_step(worlds):
    world = world_in(worlds[0])
    walk = [one.text for one in world.walk(Random(5), 4)]
    from plantune_lite.lab.worlds.corpora import toward

    ended = toward(world, [fact for fact in world.facts(world.after(walk)) if fact[0] in ("on", "ontable")])
    problems = [problem_of(ended, id=str(number)) for number in range(4)]
    generate_four = saying(render(walk), render(walk[:3]), render([*walk[:3], "fly a"]), "no")
    found = generated_steps.plans_written(generate_four, problems, max_tokens=9)
    assert [found[name].value for name in ("executable", "prefix")] == [0.5, (1 + 1 + 0.75 + 0) / 4]
    assert found["success"].value == (2 if ended.check(walk[:3]).valid else 1) / 4


def test_a_next_step_is_legal_where_it_can_be_done_in_the_state_it_is_sampled_in(worlds, asked):
    of = {one.id: world_in(one) for one in worlds}
    places = list({(one.problem_id, one.begun): one for one in asked}.values())
    legal = [of[one.problem_id].applicable(of[one.problem_id].state(one.facts))[0].text for one in places]
    assert generated_steps.next_steps(saying(*(f" {one}\n" for one in legal)), asked, worlds, seed=0).value == 1
    assert generated_steps.next_steps(saying(*["stack a a"] * len(places)), asked, worlds, seed=0).value == 0
    assert all(one.before[-1]["content"].endswith(".") for one in places)  # the space is the step's


# --- does it know its plans -------------------------------------------------------------------------------------------


def a_try(number, sample, *, right, plan, answer="7", tokens=30):
    problem = Problem(id=f"p/{number}", question=f"What is {number} and so on?", answer="7")
    text = render([plan]).rstrip()
    about = {"problem_id": problem.id, "sample": sample, "mode": "m1", "gold": "7", "how": ""}
    return Try(problem, Score(text=text, prediction=answer, same=right, **about), text, 10, tokens)


def judged(one, right):
    return replace(one, score=replace(one.score, same=right))


@pytest.fixture(scope="module")
def tries():
    """Plans whose last word says whether they come out right, which a random model cannot help but hold."""
    rng, found = Random(0), []
    for number in range(40):
        for sample in range(4):
            right = rng.random() < 0.5
            found.append(a_try(number, sample, right=right, plan=f"Add {rng.randrange(90)} {'up' if right else 'zq'}"))
    return found


def test_what_a_plans_last_words_tell_is_found_also_among_tries_of_one_problem(small, tries, tmp_path):
    killed(tmp_path)
    found, judge = knows(small, tries, tmp_path)
    assert not list(tmp_path.iterdir())
    assert found["auroc"]["value"] > 0.9 and found["within_a_problem"]["value"] > 0.9
    assert abs(found["controls"]["pass_rate"]["value"] - 0.5) < 0.35
    assert len(found["by_layer"]) == 3 and len(found["reported_on"]) == 8
    some = [one for one in tries if one.problem.id in found["reported_on"]]
    again = judge.scores(small, [one.messages for one in some])
    assert auroc(again, [one.right for one in some]) == pytest.approx(found["auroc"]["value"], abs=0.02)


def test_where_nothing_tells_right_from_wrong_nothing_is_found(small, tries, tmp_path):
    rng = Random(3)
    found, _ = knows(small, [judged(one, rng.random() < 0.5) for one in tries], tmp_path)
    assert 0.2 < found["auroc"]["value"] < 0.8


def test_a_model_that_is_always_right_has_nothing_to_be_told(small, tries, tmp_path):
    with pytest.raises(PlantuneError, match="all of the 96 replies to fit on are right"):
        knows(small, [judged(one, True) for one in tries], tmp_path)
    with pytest.raises(PlantuneError, match="no reply begins with a whole plan"):
        knows(small, [], tmp_path)


class Talker:
    """A student that says what it is told to, and remembers what it was asked for."""

    def __init__(self, small, plan_of):
        self.encode_chat, self.tokenizer = small.encode_chat, small.tokenizer
        self.plan_of, self.asked = plan_of, []
        self.generate_untuned = self.generate

    def generate(self, prompts, sampling):
        replies = []
        for prompt in prompts:
            begun = prompt[-1]["content"] if prompt[-1]["role"] == "assistant" else ""
            self.asked.append((bool(begun), sampling.stop, sampling.temperature))
            plan = begun or self.plan_of(prompt[-1]["content"], len(self.asked))
            end = "It is \\boxed{7}." if "up" in plan else "It is \\boxed{8}."
            text = end if begun else plan if sampling.stop else f"{plan}\n{CLOSE}\n{end}"
            replies.append([Reply(text=text, tokens_out=len(text)) for _ in range(sampling.n)])
        return replies


def test_tries_are_the_replies_that_begin_with_a_whole_plan_graded(small, tmp_path):
    talker = Talker(small, lambda question, turn: "<plan>\n1. Add up." if "3" in question else "Well")
    problems = [Problem(id=q, question=q, answer="7") for q in ("3?", "4?")]
    found = tried(talker, problems, tmp_path / "tries.jsonl", how=Asking(sampling=Sampling(n=2, max_tokens=99)))
    assert [(one.problem.id, one.score.sample, one.right, one.score.prediction) for one in found] == [
        ("3?", 0, True, "7"),
        ("3?", 1, True, "7"),
    ]
    assert found[0].plan == "<plan>\n1. Add up.\n</plan>" and 0 < found[0].plan_tokens <= found[0].tokens
    asked = len(talker.asked)
    assert tried(talker, problems, tmp_path / "tries.jsonl", how=Asking(sampling=Sampling(n=2, max_tokens=99))) == found
    assert len(talker.asked) == asked  # what is there is not asked for again
    with pytest.raises(PlantuneError, match="max_tokens=99, and now it is 50. Restore that setting, or move"):
        tried(talker, problems, tmp_path / "tries.jsonl", how=Asking(sampling=Sampling(n=2, max_tokens=50)))


def test_plans_that_another_model_carries_out_are_tried_with_what_that_makes_of_them(small, tmp_path):
    class Planner:
        encode_chat = staticmethod(small.encode_chat)

        def generate(self, prompts, sampling):
            assert sampling.stop == (CLOSE,)
            return [[Reply(text="<plan>\n1. Add up.\n", tokens_out=6)] * sampling.n for _ in prompts]

        def generate_untuned(self, prompts, sampling):
            assert all("1. Add up." in prompt[-1]["content"] for prompt in prompts)
            return [[Reply(text="It is \\boxed{7}.", tokens_out=30)] for _ in prompts]

    problem, how = Problem(id="p", question="3?", answer="7"), Asking(sampling=Sampling(n=2, max_tokens=9))
    [first, second] = tried(Planner(), [problem], tmp_path / "tries.jsonl", mode="m2", how=how)
    assert (first.plan, first.right, first.tokens) == ("<plan>\n1. Add up.\n</plan>", True, 36)
    assert (first.score.prediction, second.score.sample) == ("7", 1) and 0 < first.plan_tokens < 36


class Liking:
    """A judge that likes plans that say up."""

    def scores(self, student, planned):
        return [1.0 if "up" in messages[-1]["content"] else -1.0 for messages in planned]


def test_weak_plans_are_drawn_again_until_one_is_good_or_tries_are_spent(small):
    talker = Talker(small, lambda question, turn: f"<plan>\n1. Add {'up' if turn >= 4 else 'zq'}.")
    generate = resampling(talker, Liking(), tries=3)
    [[first], [second]] = generate([chat("a"), chat("b")], Sampling(max_tokens=50))
    # Turns 1 and 2 draw weak plans for both, turn 3 a weak and turn 4 a good one, turn 5 tries the first a last time.
    assert "up" in first.text and first.text.endswith("It is \\boxed{7}.") and "up" in second.text
    planned = [(stop, temperature) for begun, stop, temperature in talker.asked if not begun]
    assert planned == [((CLOSE,), heat) for heat in (0.0, 0.0, 0.7, 0.7, 0.7)] and len(talker.asked) == 7
    assert parse(first.text).plan == ("Add up.",)
    assert first.tokens_out > second.tokens_out  # all plans count


def test_at_equal_tokens_a_judge_that_knows_beats_a_majority_and_one_that_does_not_is_a_plain_draw():
    tries, scores = [], []
    for number in range(40):
        for sample in range(8):
            right = (number + sample) % 4 == 0  # a quarter, so most votes are wrong
            tries.append(a_try(number, sample, right=right, plan="x", answer="7" if right else "8"))
            scores.append(1.0 if right else -1.0)
    found = compare(tries, scores)
    assert found["probe"]["value"] == 1.0 and found["plain"]["value"] == 0.25 and found["majority"]["value"] <= 0.5
    assert found["tokens"] == pytest.approx(10 * np.mean([1, 4, 3, 2]) + 20)
    blind = compare(tries, [0.0] * len(tries))
    assert blind["probe"]["value"] == 0.25 and blind["tokens"] == blind["tokens_of_one_reply"] == 30


def test_an_answer_that_cannot_be_judged_has_no_vote_in_the_majority():
    said = [("5 or 6", None), ("5 or 6", None), ("7", True)]
    tries = [a_try(0, n, right=right, plan="x", answer=answer, tokens=10) for n, (answer, right) in enumerate(said)]
    found = compare(tries, [-1.0] * 3)  # all three are drawn, so that all three may vote
    assert found["tokens"] == 30 and found["majority"]["value"] == 1.0


# --- the verb ---------------------------------------------------------------------------------------------------------


def test_a_run_on_worlds_is_probed_and_says_what_could_not_be_asked(worlds, tmp_path):
    run = tmp_path / "mine"
    trained_run(run, max_tokens=16)
    write_records(run / "problems" / "own.jsonl", worlds[:12])
    found = probe_run(run, samples=2, per_problem=4, say=lambda line: None)
    assert "probe on layer" in found["line"] and "no reply begins with a whole plan" in found["plans_left_out"]
    shown = json.loads((run / "probe" / "section.json").read_text())
    assert shown["charts"] == ["validity.svg"] and (run / "probe" / "validity.svg").read_text().startswith("<svg")
    assert json.loads((run / "probe" / "probe.json").read_text())["worlds"]["cases"] == 48
    with pytest.raises(RunError, match="has no judge of plans; plantune probe .* makes one"):
        judge_of(run)


def test_a_probe_that_was_cut_off_goes_on_where_it_was(worlds, tmp_path, monkeypatch):
    run, how = tmp_path / "mine", {"samples": 2, "per_problem": 4, "say": lambda line: None}
    trained_run(run, max_tokens=16)
    write_records(run / "problems" / "own.jsonl", worlds[:12])

    def cut(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(probe_verb, "tried", cut)
        with pytest.raises(KeyboardInterrupt):
            probe_run(run, **how)
    begun = json.loads((run / "probe" / "probe.json").read_text())
    assert "worlds" in begun and "plans_left_out" not in begun
    with monkeypatch.context() as patch:
        patch.setattr(probe_verb, "probe", cut)  # it is not asked again
        assert probe_run(run, **how)["worlds"] == begun["worlds"]
        with pytest.raises(KeyboardInterrupt):  # but a probe that came to its end is made anew
            probe_run(run, **how)
    assert not list((run / "probe").glob(f"{residuals.ROOM}*"))


def test_a_run_that_is_not_trained_and_one_without_plans_are_sentences(tmp_path):
    run = tmp_path / "mine"
    trained_run(run, max_tokens=16)
    with pytest.raises(PlantuneError, match="holds nothing out to probe on"):
        write_records(run / "problems" / "own.jsonl", [])
        probe_run(run)
    (run / "manifest.json").unlink()
    with pytest.raises(RunError, match="has no trained model yet; plantune train"):
        probe_run(run)


def test_a_recipe_that_has_not_been_run_is_a_sentence_about_its_folder(tmp_path):
    with pytest.raises(RecipeError, match="no recipe, file or run"):
        probe_run(tmp_path / "never")


def test_a_probe_of_the_same_weights_is_not_made_twice_and_one_of_others_is(tmp_path, monkeypatch):
    monkeypatch.setattr(probe_verb.saved_judge, "weights_of", lambda folder: "base+sft:1")
    monkeypatch.setattr(probe_verb, "probe_run", lambda folder: "probed again")
    (tmp_path / "probe").mkdir()
    for weights, rest, same in (("1", {"plans": {}}, True), ("2", {"plans": {}}, False), ("1", {}, False)):
        found = {"of": f"base+sft:{weights}", **rest}
        (tmp_path / "probe" / "probe.json").write_text(json.dumps(found))
        assert probe_verb.probe_once(tmp_path) == (found if same else "probed again")
