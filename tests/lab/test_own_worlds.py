"""A world of one's own: whatever a user's PDDL says is read, planned for or refused with a sentence."""

import sys
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from plantune_lite.lab.worlds import corpora, sources
from plantune_lite.lab.worlds.grade import grade
from plantune_lite.lab.worlds.pddl import PddlError
from plantune_lite.lab.worlds.simulator import WorldError, from_files, world_of
from plantune_lite.lab.worlds.sources import from_folder
from plantune_lite.plan import render
from plantune_lite.problems.load import load_problems
from plantune_lite.recipe.schema import Problems
from plantune_lite.types import MissingError, PlantuneError

EXAMPLES = Path(__file__).parents[2] / "examples"

ROADS = """(define (domain roads) (:requirements :strips :typing) (:types van place)
  (:predicates (at ?v - van ?p - place) (road ?a ?b - place))
  (:action drive :parameters (?v - van ?a ?b - place) :precondition (and (at ?v ?a) (road ?a ?b))
    :effect (and (at ?v ?b) (not (at ?v ?a)))))"""
TRIP = """(define (problem trip) (:domain roads) (:objects v - van a b c - place)
  (:init (at v a) (road a b) (road b c)) (:goal (at v c)))"""
PLAN = ("drive v a b", "drive v b c")


def changed(text, *pairs):
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


# --- what the reader takes --------------------------------------------------------------------------------------------


def test_a_file_from_windows_notepad_is_read(tmp_path):
    for name, text in (("domain", ROADS), ("trip", TRIP)):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert from_files(tmp_path / "domain", tmp_path / "trip").check(PLAN).valid


def test_nothing_to_reach_is_reached_by_doing_nothing():
    world = world_of(ROADS, changed(TRIP, ("(:goal (at v c))", "(:goal ())")))
    assert world.check(()).valid and world.check(PLAN).valid


def test_what_does_not_hold_at_the_start_may_be_said_once_and_without_contradiction():
    world = world_of(ROADS, changed(TRIP, ("(:init", "(:init (not (at v b))")))
    assert world.task.start == world_of(ROADS, TRIP).task.start
    with pytest.raises(PddlError, match=r"the problem line 2: \(at v a\) both holds at the start and does not"):
        world_of(ROADS, changed(TRIP, ("(:init", "(:init (not (at v a))")))
    with pytest.raises(PddlError, match=r"line 2: no object 'x' here"):
        world_of(ROADS, changed(TRIP, ("(:init", "(:init (not (at v x))")))


def test_the_start_is_a_list_and_says_so():
    with pytest.raises(PddlError, match=r"line 2: \(:init ...\) is a list of atoms, without \(and ...\)"):
        world_of(ROADS, changed(TRIP, ("(:init (at v a)", "(:init (and (at v a))")))


COSTS = (
    (":typing", ":typing :action-costs"),
    ("(:action", "(:functions (total-cost) (length ?a ?b - place) - number)\n  (:action"),
    ("(and (at ?v ?b)", "(and (increase (total-cost) (length ?a ?b)) (at ?v ?b)"),
)
COSTLY = (
    ("(:init", "(:init (= (total-cost) 0) (= (length a b) 3) (= (length b c) 4)"),
    ("(:goal (at v c))", "(:goal (at v c)) (:metric minimize (total-cost))"),
)


def test_costs_of_actions_are_passed_over():
    world = world_of(changed(ROADS, *COSTS), changed(TRIP, *COSTLY))
    assert world.check(PLAN).valid and set(world.actions) == set(world_of(ROADS, TRIP).actions)
    assert world.task.start == world_of(ROADS, TRIP).task.start


def test_what_costs_are_no_part_of_is_still_refused():
    with pytest.raises(PddlError, match=r"line 4: \(increase ...\) is not supported"):
        world_of(changed(ROADS, *COSTS, ("(and (at ?v ?a)", "(and (increase (total-cost) 1) (at ?v ?a)")), TRIP)
    with pytest.raises(PddlError, match=r"line 2: \(increase ...\) is not supported"):
        world_of(ROADS, changed(TRIP, ("(:goal (at v c))", "(:goal (increase x 1))")))


def test_a_plan_without_steps_breaks_into_some_action():
    world = world_of(ROADS, TRIP)
    assert {world.broken((), Random(seed)) for seed in range(40)} == {(one,) for one in world.actions}
    nothing = world_of(ROADS, changed(TRIP, ("v - van", ""), ("(at v a)", ""), ("(at v c)", "(road a b)")))
    assert nothing.broken((), Random(0)) == ()


# --- what the planner takes -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planners():
    pytest.importorskip("up_pyperplan", reason="needs the extra [lab]")
    from plantune_lite.lab.worlds import planners

    return planners


NAMED = {
    "a type and a predicate": ((("road", "van"),), (("road", "van"),)),
    "an action and a predicate": ((("(:action drive", "(:action at"),), ()),
    "an object and a predicate": ((), (("v - van", "at - van"), ("(at v", "(at at"))),
    "an object and an action": ((), (("v - van", "drive - van"), ("(at v", "(at drive"))),
    "an object and a type": ((), (("v - van", "van - van"), ("(at v", "(at van"))),
    "a parameter and a constant": (
        (("(:predicates", "(:constants v - van) (:predicates"), ("?v", "?w"), ("?a", "?v")),
        (("v - van", ""),),
    ),
}


@pytest.mark.parametrize("which", NAMED)
def test_one_name_for_two_things_is_planned_for(planners, which):
    domain, problem = NAMED[which]
    world = world_of(changed(ROADS, *domain), changed(TRIP, *problem))
    found = planners.plan(world, optimal=True)
    assert len(found) == 2 and world.check(found).valid


def test_an_object_without_a_type_among_others_with_one_is_planned_for(planners):
    assert planners.plan(world_of(ROADS, changed(TRIP, ("a b c - place", "a b c - place moon")))) == PLAN
    domain = changed(ROADS, ("(:predicates", "(:constants moon) (:predicates"))
    assert planners.plan(world_of(domain, TRIP)) == PLAN


def test_a_parameter_wider_than_its_predicates_type_is_planned_for(planners):
    domain = changed(ROADS, ("(?v - van ?a ?b - place) :pre", "(?v ?a - object ?b - place) :pre"))
    world = world_of(domain, TRIP)
    assert planners.plan(world) == PLAN
    with pytest.raises(WorldError, match=r"^trip: unified-planning's reader cannot read this world \("):
        planners.Library(world)


def test_an_action_that_deletes_what_it_adds_is_planned_for(planners):
    domain = changed(ROADS, ("(and (at ?v ?b) (not", "(and (not (at ?v ?b)) (at ?v ?b) (at ?v ?b) (not"))
    assert planners.plan(world_of(domain, TRIP)) == PLAN


def test_a_plan_where_actions_cost_something_is_a_short_one(planners):
    world = world_of(changed(ROADS, *COSTS), changed(TRIP, *COSTLY))
    assert planners.plan(world, optimal=True) == PLAN
    with pytest.raises(WorldError, match="^trip: unified-planning cannot validate plans here .*establish whether"):
        planners.Library(world).is_valid(PLAN)  # roads have no length where there are none
    same = planners.Library(world_of(ROADS, TRIP))
    assert same.is_valid(PLAN) and not same.is_valid(PLAN[:1])


def test_a_goal_that_holds_already_has_a_plan_without_steps(planners):
    for goal in ("(:goal ())", "(:goal (at v a))", "(:goal (road a b))"):
        assert planners.plan(world_of(ROADS, changed(TRIP, ("(:goal (at v c))", goal)))) == ()


def test_a_goal_that_nothing_can_bring_about_has_no_plan(planners):
    for change in (("(:goal (at v c))", "(:goal (road a c))"), ("(road b c)", "")):
        world = world_of(ROADS, changed(TRIP, change))
        assert planners.plan(world) is None and planners.plan(world, optimal=True) is None


@pytest.mark.parametrize(
    ("domain", "problem"),
    [
        ((("(and (at ?v ?a)", "(and (not (at ?v ?b)) (at ?v ?a)"),), ()),
        ((("(and (at ?v ?a)", "(and (not (= ?a ?b)) (at ?v ?a)"),), ()),
        ((), (("(:goal (at v c))", "(:goal (not (at v a)))"),)),
    ],
)
def test_what_the_planner_does_not_take_is_a_sentence_with_the_way_out(planners, domain, problem):
    domain = changed(ROADS, (":typing", ":typing :negative-preconditions :equality"), *domain)
    world = world_of(domain, changed(TRIP, *problem))
    with pytest.raises(WorldError, match=r"^trip: pyperplan cannot plan here \(.*or learn from random walks$"):
        planners.plan(world)


def test_the_library_is_left_as_it_was(planners):
    from unified_planning.environment import get_environment

    env = get_environment()
    before = env.credits_stream, env.error_used_name
    assert planners.plan(world_of(ROADS, TRIP)) == PLAN
    assert (env.credits_stream, env.error_used_name) == before and before[1] is True


# --- a folder of one's own problems -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Nine trips through three places, and a domain beside them."""
    (tmp_path / "domain.pddl").write_text(ROADS, encoding="utf-8")
    trips = [(size, start, goal) for size in (3, 4) for start in range(size) for goal in range(size) if start != goal]
    for number, (size, start, goal) in enumerate([one for one in trips if one[0] == 3 or one[2] == 3]):
        write_trip(tmp_path / f"p{number:02}.pddl", size, start, goal)
    return tmp_path


def write_trip(path, size, start, goal):
    places = "abcdef"[:size]
    roads = " ".join(f"(road {one} {other}) (road {other} {one})" for one, other in pairwise(places))
    path.write_text(
        f"(define (problem {path.stem}) (:domain roads) (:objects v - van {' '.join(places)} - place)\n"
        f"  (:init (at v {places[start]}) {roads})\n  (:goal (at v {places[goal]})))",
        encoding="utf-8",
    )


def split(made):
    of = {"train": [], "test": [], "larger": []}
    for one in made:
        of["larger" if "/larger/" in one.id else one.split].append(one)
    return of


def test_a_folder_is_learned_from_and_tested_on_by_problem_and_its_largest_are_for_tests_only(planners, folder):
    of = split(from_folder(folder / "domain.pddl", folder))
    assert {kind: len(ones) for kind, ones in of.items()} == {"train": 5, "test": 1, "larger": 3}
    assert all("d" in one.question.split("place: ")[1].splitlines()[0] for one in of["larger"])
    assert all(one.split == "test" for one in of["larger"])
    every = [one for ones in of.values() for one in ones]
    assert len({one.question for one in every}) == len({one.id for one in every}) == 9
    assert all(grade(one, render(one.steps)).verdict.same for one in every)
    drawn = [split(from_folder(folder / "domain.pddl", folder, seed=seed))["test"][0].id for seed in range(5)]
    assert len(set(drawn)) > 1


def test_where_all_problems_have_one_size_none_is_larger(planners, folder):
    for path in sorted(folder.glob("p0*"))[6:]:
        path.unlink()
    of = split(from_folder(folder / "domain.pddl", folder))
    assert [len(of[kind]) for kind in ("train", "test", "larger")] == [5, 1, 0]


def test_a_limit_is_of_what_is_learned_and_leaves_the_tests_as_they_are(planners, folder):
    all_of, few = (split(from_folder(folder / "domain.pddl", folder, limit=limit)) for limit in (None, 2))
    assert few["train"] == all_of["train"][:2] and few["test"] == all_of["test"]


def test_half_and_half_are_plans_and_walks(planners, folder):
    painter = EXAMPLES / "own_world"
    made = split(from_folder(painter / "domain.pddl", painter / "problems", "mixed"))["train"]
    assert {one.extra["teacher"] for one in made} == {"planner", "random walk"}
    with pytest.raises(WorldError, match="5 problems have no more than 5 different walks"):
        list(from_folder(folder / "domain.pddl", folder, "mixed"))


def test_random_walks_ask_no_planner_and_meet_no_test(folder, monkeypatch):
    """In a world of its own that no planner here takes; a small one has fewer walks than a recipe asks for."""
    domain = changed(
        ROADS, (":typing", ":typing :negative-preconditions"), ("(at ?v ?a)", "(at ?v ?a) (not (at ?v ?b))")
    )
    (folder / "domain.pddl").write_text(domain.replace("(not (at ?v ?a) (not (at ?v ?b)))", "(not (at ?v ?a))"))
    monkeypatch.setitem(sys.modules, "up_pyperplan", None)
    of = split(from_folder(folder / "domain.pddl", folder, "walks", limit=400))
    assert 0 < len(of["train"]) <= 6 and len(of["test"]) == 1 and len(of["larger"]) == 3
    assert all(grade(one, render(one.steps)).verdict.same for one in of["train"])
    assert not {one.question for one in of["train"]} & {one.question for one in of["test"]}
    assert len(split(from_folder(folder / "domain.pddl", folder, "walks", limit=2))["train"]) == 2
    with pytest.raises(MissingError, match="planners need"):
        list(from_folder(folder / "domain.pddl", folder))


def test_a_bad_file_in_a_folder_gets_its_name_the_line_and_what_is_wrong(planners, folder):
    path = folder / "p04.pddl"
    whole = path.read_text()
    for text, error in (
        (whole.replace("(at v a)", "(at v moon)"), "^p04.pddl line 3: no object 'moon' here"),
        (whole.replace("(:goal", "(:goal (and) "), r"^p04.pddl line 3: \(:goal ...\) takes one condition"),
        (whole.replace("(at v a)", "(at v c)"), "^p04.pddl: its goal holds from the start"),
        ((folder / "p00.pddl").read_text(), "^p04.pddl has the start and the goal of p00.pddl"),
        (whole.replace("(road c b)", ""), "^p04.pddl: no plan reaches its goal"),
    ):
        assert text != whole
        path.write_text(text)
        with pytest.raises(PlantuneError, match=error):
            list(from_folder(folder / "domain.pddl", folder))
    for path in sorted(folder.glob("p*"))[2:]:
        path.unlink()
    with pytest.raises(WorldError, match="has 2 problem files .* at least three are needed"):
        list(from_folder(folder / "domain.pddl", folder))
    with pytest.raises(WorldError, match="no kind 'walk' of problems; there are planner, walks, mixed"):
        list(from_folder(folder / "domain.pddl", folder, "walk"))


def test_the_example_of_a_world_is_a_recipes_source(planners):
    for name, most in (("mine", 10), ("walks", 40)):
        part = Problems(f"{EXAMPLES / 'own_world' / 'own_world.py'}:{name}", limit=40)
        loaded = load_problems(part, seed=0)
        assert (len(loaded.pool), len(loaded.own)) == (most, 6)
        assert all(grade(one, render(one.steps)).verdict.same for one in loaded.pool)
        assert sum("/larger/" in one.id for one in loaded.own) == 3


# --- a source that holds its own tests out ----------------------------------------------------------------------------

SOURCE = """
def mine(seed, limit):
    open({log!r}, "a").write(f"{{limit}} ")
    for number in range({given}):
        yield {{"question": f"What is {{number}} and {{limit}}?", "answer": number, "split": {split}}}
"""


@pytest.mark.parametrize(
    ("split", "given", "asked", "learned"),
    [
        ("'test' if number < 4 else 'train'", "limit + 7", "14 10 ", 13),  # told what is learned from, and not cut down
        ("'train'", "limit", "14 ", 10),  # a fifth of it is held out, so it is asked for more
    ],
)
@pytest.mark.parametrize("held_out", [0.2, 0.0])
def test_who_holds_tests_out_is_asked_for_what_is_learned_from_and_not_cut_down(
    tmp_path, split, given, asked, learned, held_out
):
    log = tmp_path / "log"
    (tmp_path / "mine.py").write_text(SOURCE.format(log=str(log), given=given, split=split), encoding="utf-8")
    part = Problems(f"{tmp_path / 'mine.py'}:mine", limit=10, held_out=held_out)
    loaded = load_problems(part, seed=0)
    assert len(loaded.pool) == learned
    assert log.read_text() == (asked if held_out else asked.replace("14", "11"))


def test_who_holds_tests_out_and_is_told_no_limit_is_cut_down_to_it(tmp_path):
    text = (
        SOURCE.replace("(seed, limit)", "()")
        .replace("{{limit}}", "all")
        .format(log=str(tmp_path / "log"), given=50, split="'test' if number < 4 else 'train'")
    )
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    loaded = load_problems(Problems(f"{tmp_path / 'mine.py'}:mine", limit=10), seed=0)
    assert (len(loaded.pool), len(loaded.own), (tmp_path / "log").read_text()) == (10, 4, "all ")


def test_the_three_corpora_of_a_recipe_teach_equally_many_words(planners, monkeypatch):
    monkeypatch.setattr(sources, "TESTS", 4)
    spoken = {}
    for kind in ("blocksworld", "blocksworld_walks", "blocksworld_mixed"):
        loaded = load_problems(Problems(f"world:{kind}", limit=40), seed=0)
        spoken[kind] = [corpora.learned(one, corpora.words) for one in loaded.pool]
        assert len(loaded.own) == 4
    assert len(spoken["blocksworld"]) == 40 > len(spoken["blocksworld_walks"])
    totals = [sum(ones) for ones in spoken.values()]
    assert max(totals) - min(totals) <= max(map(max, spoken.values()))
