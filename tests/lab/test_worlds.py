"""Worlds: what is read is what the file says, a step does what its domain says, and what is wrong is named."""

from random import Random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plantune_lite.distill.worked import plan_of
from plantune_lite.files import from_row, to_row
from plantune_lite.lab.worlds import corpora, domains
from plantune_lite.lab.worlds.corpora import coverage, drawn, toward, words
from plantune_lite.lab.worlds.domains import BLOCKSWORLD, NAMES, generate
from plantune_lite.lab.worlds.grade import grade, problem_of, question, steps_in, valid_prefix, world_in
from plantune_lite.lab.worlds.pddl import PddlError, read_domain, read_task, write_task
from plantune_lite.lab.worlds.simulator import World, WorldError, from_files, world_of
from plantune_lite.plan import ask_plainly, parse, render, spoiler
from plantune_lite.types import PlantuneError

TOWER = """(define (problem tower) (:domain blocksworld) (:objects a b c)
  (:init (ontable a) (on b a) (clear b) (ontable c) (clear c) (handempty))
  (:goal (and (on a b) (on b c))))"""
PLAN = ("unstack b a", "stack b c", "pick-up a", "stack a b")


@pytest.fixture
def tower():
    return world_of(BLOCKSWORLD, TOWER)


# --- what a step does -------------------------------------------------------------------------------------------------


def test_what_can_be_done_is_what_the_rules_of_blocks_say(tower):
    assert {one.text for one in tower.applicable(tower.start)} == {"unstack b a", "pick-up c"}
    held = tower.after(["unstack b a"])
    assert {one.text for one in tower.applicable(held)} == {"put-down b", "stack b a", "stack b c"}
    assert tower.facts(held) == {("holding", "b"), ("clear", "a"), ("ontable", "a"), ("ontable", "c"), ("clear", "c")}


def test_a_plan_that_reaches_the_goal_is_valid(tower):
    assert tower.check(PLAN).sentence() == "valid, 4 steps"


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        (("unstack b a", "stack c a"), "step 2, stack c a: needs holding c"),
        (("pick-up a",), "step 1, pick-up a: needs clear a"),
        (("pick-up c", "pick-up a"), "step 2, pick-up a: needs clear a and handempty"),
        (PLAN[:3], "after 3 steps the goal still needs on a b"),
        (("unstack b a", "stack b d"), "step 2, stack b d: there is no d"),
        (("unstack b",), "step 1, unstack b: unstack takes 2 objects"),
        (("fly b a",), "step 1, fly b a: there is no such action, only pick-up, put-down, stack, unstack"),
        ((), "after 0 steps the goal still needs on a b and on b c"),
    ],
)
def test_the_first_wrong_step_is_named_with_what_it_needs(tower, steps, sentence):
    assert (tower.check(steps).valid, tower.check(steps).sentence()) == (False, sentence)


def test_the_spelling_of_a_step_is_of_no_account(tower):
    for spelled in ("(unstack b a)", "UNSTACK B A", "unstack(b, a)", " unstack  b a. "):
        assert tower.named(spelled).text == "unstack b a"
    assert tower.named("unstack a b c") is None


def test_a_state_after_a_wrong_step_is_an_error_that_says_which(tower):
    with pytest.raises(WorldError, match="tower: step 1, put-down a: needs holding a"):
        tower.after(["put-down a"])


@pytest.mark.parametrize("name", NAMES)
def test_a_random_walk_can_be_done_and_its_near_misses_cannot_for_exactly_one_reason(name):
    rng = Random(0)
    for world in generate(name, sizes=(3,), seed=0, count=5):
        walk = world.walk(rng, 15)
        state = world.after([one.text for one in walk])
        assert len(walk) == 15
        for action, why in world.near_misses(state):
            assert world.lacks(action, state) == [why]
            assert not world.can(action, state)
            assert world.check([*(one.text for one in walk), action.text]).why == f"needs {why}"


def test_what_never_changes_can_be_what_is_lacking():
    [world] = generate("logistics", sizes=(1,), seed=0, count=1)
    reasons = {str(why) for _, why in world.near_misses(world.start)}
    assert any(why.startswith("road") for why in reasons) and any(why.startswith("at") for why in reasons)
    assert all(not one.never for one in world.applicable(world.start))


def test_negative_conditions_constants_and_equality_are_understood():
    domain = """(define (domain lamps) (:requirements :strips :typing :negative-preconditions :equality)
      (:types lamp) (:constants hall - lamp) (:predicates (lit ?x - lamp) (broken ?x - lamp))
      (:action switch :parameters (?x ?y - lamp)
        :precondition (and (not (lit ?x)) (not (= ?x ?y)) (not (broken ?x)) (lit ?y))
        :effect (and (lit ?x) (not (lit ?y)))))"""
    problem = """(define (problem p) (:domain lamps) (:objects desk bed - lamp)
      (:init (lit hall) (broken bed)) (:goal (and (lit desk) (not (lit hall)))))"""
    world = world_of(domain, problem)
    assert [one.text for one in world.applicable(world.start)] == ["switch desk hall"]
    assert "switch hall hall" not in world.actions
    assert world.check(["switch bed hall"]).sentence() == "step 1, switch bed hall: needs not broken bed"
    assert world.check(["switch desk hall"]).valid


def test_what_is_deleted_and_added_at_once_is_added():
    domain = """(define (domain d) (:predicates (p ?x)) (:action stay :parameters (?x ?y)
      :precondition (p ?x) :effect (and (p ?y) (not (p ?x)))))"""
    world = world_of(domain, "(define (problem q) (:domain d) (:objects a) (:init (p a)) (:goal (p a)))")
    assert world.facts(world.after(["stay a a"])) == {("p", "a")}


def test_a_world_with_far_too_many_actions_is_refused_with_their_number():
    domain = "(define (domain d) (:predicates (p ?x)) (:action a :parameters (?v ?w ?x ?y) :effect (p ?v)))"
    problem = (
        f"(define (problem q) (:domain d) (:objects {' '.join(f'o{n}' for n in range(30))}) (:init) (:goal (p o1)))"
    )
    with pytest.raises(WorldError, match="a of q can be done with 810,000 combinations of objects"):
        world_of(domain, problem)


# --- what a bad file gets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (
            "(clear ?x) (ontable ?x) (handempty))",
            "(clear ?x) (ontable ?x) (handempty)",
            r"line 4: this parenthesis is not closed where \(:action begins, line 7",
        ),
        ("(holding ?x))\n  (:action pick-up", "(holding ?x))\n  (:derived (p) (q))\n  (:action pick-up", "line 4: "),
        (":precondition (holding ?x)", ":precondition (held ?x)", "line 8: no predicate 'held' in :predicates"),
        (":precondition (holding ?x)", ":precondition (holding ?x ?x)", "line 8: holding takes 1 terms, and"),
        (":precondition (holding ?x)", ":precondition (holding ?z)", r"line 8: no parameter '\?z' here"),
        (":precondition (holding ?x)", ":precondition (or (holding ?x))", r"line 8: \(or ...\) is not supported"),
        (":precondition (holding ?x)", ":precondition holding", "line 8: action put-down: :precondition is not"),
        ("(:action put-down", "(:action stack", "line 10: action stack is declared twice"),
        ("(on ?x ?y) (ontable", "(on ?x ?x) (ontable", r"line 3: \?x is named twice"),
        (":strips", ":adl", "line 2: ':adl' is not supported, only :strips, :typing"),
        ("(domain blocksworld)", "(domain 3)", "line 1: a name is expected, a letter first, not '3'"),
    ],
)
def test_a_bad_domain_gets_its_file_the_line_and_what_is_wrong(old, new, error):
    assert old in BLOCKSWORLD
    with pytest.raises(PddlError, match=f"^blocks.pddl {error}"):
        read_domain(BLOCKSWORLD.replace(old, new, 1), file="blocks.pddl")


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("(clear b)", "(clear d)", "line 2: no object 'd' here; there are a, b, c"),
        (
            "(:domain blocksworld)",
            "(:domain blocks)",
            r"line 1: \(:domain blocksworld\) is expected, not \(:domain blocks",
        ),
        ("a b c", "a b b", "line 1: b is named twice"),
        ("a b c", "a b c - block", "line 1: no type 'block' in :types; there are object"),
        (":init", ":start", r"line 1: the problem has no \(:init ...\)"),
        ("(on b c))))", "(on b c)))) extra", "line 3: 'extra' is outside all parentheses"),
        ("(:goal (and", "(:constraints (x)) (:goal (and", r"line 3: \(:constraints ...\) is not supported"),
    ],
)
def test_a_bad_problem_gets_its_file_the_line_and_what_is_wrong(tmp_path, old, new, error):
    assert old in TOWER
    (tmp_path / "blocks.pddl").write_text(BLOCKSWORLD, encoding="utf-8")
    (tmp_path / "tower.pddl").write_text(TOWER.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(PlantuneError, match=f"^tower.pddl {error}"):
        from_files(tmp_path / "blocks.pddl", tmp_path / "tower.pddl")


def test_a_users_own_files_make_a_world_and_a_missing_one_is_a_sentence(tmp_path):
    (tmp_path / "blocks.pddl").write_text("; mine\n" + BLOCKSWORLD.upper(), encoding="utf-8")
    (tmp_path / "tower.pddl").write_text(TOWER, encoding="utf-8")
    assert from_files(tmp_path / "blocks.pddl", tmp_path / "tower.pddl").check(PLAN).valid
    with pytest.raises(WorldError, match="none.pddl cannot be read as PDDL"):
        from_files(tmp_path / "none.pddl", tmp_path / "tower.pddl")


@given(st.text(alphabet="()ab?-; :\n", max_size=80), st.sampled_from((BLOCKSWORLD, TOWER)), st.integers(0, 700))
def test_no_text_breaks_the_reader_otherwise_than_by_its_own_error(noise, text, at):
    domain = read_domain(BLOCKSWORLD)
    try:
        read_domain(text[:at] + noise + text[at:])
    except PddlError as error:
        assert str(error).startswith("the domain line ")
    try:
        read_task(text[:at] + noise + text[at:], domain)
    except PddlError as error:
        assert str(error).startswith("the problem line ")


def test_types_descend_and_an_object_of_the_wrong_one_is_refused():
    domain = read_domain(domains.LOGISTICS)
    assert domain.is_a("airport", "place") and domain.is_a("truck", "thing") and not domain.is_a("truck", "package")
    text = (
        "(define (problem p) (:domain logistics) (:objects t - truck a - place) (:init (route a a)) (:goal (at t a)))"
    )
    with pytest.raises(PddlError, match="line 1: route takes a airport, and a is a place"):
        read_task(text, domain)


# --- generators -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_problems_of_a_seed_are_the_same_every_time_all_different_and_only_grow_in_number(name):
    few = [world.task.text for world in generate(name, sizes=(2, 3), seed=1, count=10)]
    many = [world.task.text for world in generate(name, sizes=(2, 3), seed=1, count=20)]
    others = [world.task.text for world in generate(name, sizes=(2, 3), seed=2, count=10)]
    assert few == many[:10] and few != others and len(set(many)) == 20
    assert not any(world.is_goal(world.start) for world in generate(name, sizes=(2, 3), seed=1, count=20))


def test_a_size_that_is_used_up_and_one_that_there_is_not_are_sentences():
    with pytest.raises(WorldError, match="blocksworld of these sizes has no more than 4 different problems"):
        list(generate("blocksworld", sizes=(2,), seed=0, count=100))
    with pytest.raises(WorldError, match="gripper has the sizes 1 to 12, not 40"):
        generate("gripper", sizes=(40,), seed=0, count=1)
    with pytest.raises(WorldError, match="no world 'hanoi'"):
        generate("hanoi", sizes=(3,), seed=0, count=1)


@pytest.mark.parametrize("name", NAMES)
def test_a_written_problem_is_read_as_it_was(name):
    for world in generate(name, sizes=(2,), seed=0, count=3):
        task = world.task
        again = read_task(write_task(task.domain, task.name, task.objects, task.start, task.goal), task.domain)
        assert (again.objects, again.start, again.goal) == (task.objects, task.start, task.goal)


# --- problems, grades, rewards ----------------------------------------------------------------------------------------


def test_a_world_is_a_problem_like_any_other(tower):
    problem = problem_of(tower, PLAN, id="blocksworld/train/0")
    assert from_row(type(problem), to_row(problem)) == problem
    assert problem.question == (
        "Blocksworld. Actions: pick-up ?x, put-down ?x, stack ?x ?y, unstack ?x ?y.\n"
        "Objects: a b c\nStart: clear b, clear c, handempty, on b a, ontable a, ontable c\nGoal: on a b, on b c"
    )
    assert plan_of(problem).plan == PLAN and spoiler(PLAN, problem) is None
    assert ask_plainly(problem)[-1]["content"] == problem.question


def test_typed_objects_are_listed_by_type():
    [world] = generate("gripper", sizes=(2,), seed=0, count=1)
    assert "\nObjects: ball: ball1 ball2; hand: left right; room: room1 room2\n" in question(world)


@pytest.mark.parametrize(
    ("text", "same", "how"),
    [
        (render(PLAN), True, "valid, 4 steps"),
        ("1. (unstack b a)\n2. (stack b c)\n3. (pick-up a)\n4. (stack a b)", True, "valid, 4 steps"),
        ("First:\n- **unstack b a**\n- stack(b, c)\nthen\n- pick-up a\n- stack a b\n", True, "valid, 4 steps"),
        (render(PLAN[:2]), False, "after 2 steps the goal still needs on a b"),
        (render(PLAN[1:]), False, "step 1, stack b c: needs holding b"),
        (
            f"<plan>\n1. Free a.\n2. Build.\n</plan>\n{chr(10).join(PLAN)}\nThe answer is \\boxed{{on a b}}.",
            True,
            "valid, 4 steps",
        ),
        (
            "<plan>\n1. Free a.\n</plan>\nDone.",
            False,
            "step 1, Free a.: there is no such action, only pick-up, put-down, stack, unstack",
        ),
        ("I would move the blocks.", None, "no plan in the reply"),
        ("", None, "no plan in the reply"),
        ("<plan>\n1. unstack b a", False, "after 1 steps the goal still needs on a b and on b c"),
    ],
)
def test_a_reply_is_graded_by_validation_whatever_its_form(tower, text, same, how):
    verdict = grade(problem_of(tower, id="x"), text).verdict
    assert (verdict.same, verdict.how) == (same, how)


def test_a_problem_of_kind_plan_without_its_world_is_a_sentence():
    from plantune_lite.types import Problem

    with pytest.raises(WorldError, match="x asks for a plan and has no 'world'"):
        grade(Problem(id="x", question="?", answer="?", kind="plan"), render(PLAN))


def test_the_reward_is_1_for_a_valid_plan_and_else_the_share_before_the_first_wrong_step(tower):
    texts = [render(PLAN), render(PLAN[:2]), render((*PLAN[:3], "stack a c")), "nothing"]
    world = [problem_of(tower, id="x").extra["world"]] * 4
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    for completions in (texts, chats):
        assert valid_prefix([], completions, world=world) == [1.0, 2 / 3, 3 / 5, 0.0]


def test_a_plan_that_stops_early_earns_no_more_than_the_part_of_the_reference_that_it_is(tower):
    longer = ("pick-up c", "put-down c", *PLAN)
    texts = [render(PLAN[:2]), render(PLAN), render(longer), render((*PLAN[:2], "fly a", "fly b", "fly c"))]
    world = [problem_of(tower, id="x").extra["world"]] * 4
    assert valid_prefix([], texts, world=world, plan=[PLAN] * 4) == [2 / 5, 1.0, 1.0, 2 / 6]
    assert valid_prefix([], [render(PLAN)], world=world[:1], plan=[longer]) == [1.0]


def test_a_plan_that_goes_on_without_reaching_the_goal_never_earns_what_a_valid_one_does(tower):
    world = [problem_of(tower, id="x").extra["world"]]
    dithering = [render(("pick-up c", "put-down c") * times) for times in (1, 2, 6)]
    earned = [valid_prefix([], [text], world=world, plan=[PLAN])[0] for text in dithering]
    assert earned == [2 / 5, 4 / 5, 12 / 13]


@given(st.lists(st.sampled_from([*world_of(BLOCKSWORLD, TOWER).actions, "fly b", "stack"]), min_size=1, max_size=6))
def test_a_plan_that_is_rendered_is_graded_as_the_simulator_checks_it(steps):
    tower = world_of(BLOCKSWORLD, TOWER)
    problem = problem_of(tower, id="x")
    assert steps_in(tower, render(steps)) == tuple(steps) == parse(render(steps)).plan
    assert grade(problem, render(steps)).verdict.same is tower.check(steps).valid


# --- corpora ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three():
    """Three corpora of thirty problems; their plans are found here, by breadth."""
    worlds = drawn("blocksworld", sizes=(3,), larger=(4,), seed=0, train=30, test=5)
    return worlds, corpora.corpora(
        worlds.train, {world: shortest(world) for world in worlds.train}, seed=0, apart=worlds.test
    )


def shortest(world: World) -> tuple[str, ...]:
    seen, edge = {world.start: ()}, [world.start]
    while edge:
        for state in edge:
            if world.is_goal(state):
                return seen[state]
        further = []
        for state in edge:
            for action in world.applicable(state):
                there = world.step(action, state)
                if there not in seen:
                    seen[there] = (*seen[state], action.text)
                    further.append(there)
        edge = further
    raise AssertionError("no plan")


def test_the_three_corpora_teach_equally_many_tokens_and_only_valid_plans(three):
    _, found = three
    tokens = [found[kind].tokens for kind in ("planner", "walks", "mixed")]
    longest = max(words(render(one.steps)) for corpus in found.values() for one in corpus.problems)
    assert max(tokens) - min(tokens) <= longest
    for corpus in found.values():
        assert all(grade(one, render(one.steps)).verdict.same for one in corpus.problems)
        assert len({one.id for one in corpus.problems}) == len({one.question for one in corpus.problems})


def test_walks_cover_more_than_plans_do_and_a_plan_covers_itself(three, tower):
    _, found = three
    assert found["walks"].coverage.pairs > found["planner"].coverage.pairs
    one = coverage([problem_of(tower, PLAN, id="x")])
    assert (one.states, one.pairs) == (5, 4)
    there_and_back = ("pick-up c", "put-down c")
    again = coverage([problem_of(tower, PLAN, id="x"), problem_of(tower, there_and_back, id="y")])
    assert (again.states, again.pairs) == (6, 6)


def test_larger_problems_are_larger_than_those_that_are_learned_from():
    with pytest.raises(WorldError, match="must be larger than those that are trained on"):
        drawn("blocksworld", sizes=(3,), larger=(3,), seed=0, train=1, test=1)


def test_no_walk_is_a_problem_that_is_tested_on(three):
    worlds, _ = three
    met = world_in(next(corpora.walks(worlds.train[:5], [1, 2, 3, 4], Random(0))))
    avoiding = corpora.walks(worlds.train[:5], [1, 2, 3, 4], Random(0), {corpora.asked(met)})
    assert corpora.asked(met) not in {corpora.asked(world_in(next(avoiding))) for _ in range(8)}


def test_a_goal_in_another_order_is_the_same_problem(tower):
    goal = [("on", "c", "b"), ("on", "b", "a")]
    one, other = toward(tower, goal), toward(tower, goal[::-1])
    assert question(one) != question(other) and corpora.asked(one) == corpora.asked(other)


@pytest.mark.parametrize("seed", range(3))
def test_no_problem_is_both_learned_from_and_tested_on(seed):
    worlds = drawn("blocksworld", sizes=(3, 4), larger=(5,), seed=seed, train=120, test=40)
    learned = corpora.corpora(
        worlds.train, {world: shortest(world) for world in worlds.train}, seed=seed, apart=worlds.test
    )
    tested = {corpora.asked(world) for world in (*worlds.test, *worlds.larger)}
    for corpus in learned.values():
        of = [corpora.asked(world_in(one)) for one in corpus.problems]
        assert len(set(of)) == len(of) and not tested & set(of)


def test_tests_have_all_sizes_in_the_proportion_of_what_is_learned_from():
    worlds = drawn("blocksworld", sizes=(3, 4), larger=(), seed=0, train=400, test=60)
    small = [fmean(len(one.task.objects) == 3 for one in part) for part in (worlds.train, worlds.test)]
    assert len(worlds.test) == 60 and small[0] == pytest.approx(small[1], abs=0.02) and 0.2 < small[0] < 0.4


def test_more_tokens_than_there_are_plans_for_is_a_sentence(three):
    worlds, _ = three
    solved = {world: shortest(world) for world in worlds.train}
    with pytest.raises(WorldError, match="9999 tokens are asked for"):
        corpora.corpora(worlds.train, solved, seed=0, tokens=9999)
    with pytest.raises(WorldError, match="1 problems have no more than 0 different walks"):
        corpora.taken(corpora.walks([toward(worlds.train[0], [("on", "a", "b")])], [1], Random(0)), words, 10**6)


# --- the library's second opinion -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planners():
    pytest.importorskip("up_pyperplan", reason="needs the extra [lab]")
    from plantune_lite.lab.worlds import planners

    return planners


@pytest.mark.parametrize("name", NAMES)
def test_a_planners_plan_is_valid_and_an_optimal_one_no_longer(planners, name):
    for world in generate(name, sizes=(2,), seed=0, count=2):
        found, best = planners.plan(world), planners.plan(world, optimal=True)
        assert world.check(found).valid and len(best) <= len(found)
        if name == "blocksworld":
            assert len(best) == len(shortest(world))


def test_a_world_is_planned_for_as_the_library_reads_it_itself(planners):
    for name in NAMES:
        for world in generate(name, sizes=(3,), seed=1, count=3):
            assert planners.plan(world) == planners.Library(world).plan(optimal=False)
            assert _said(planners.Library(world).problem) == _said(planners._built(world))


def _said(problem):
    return {str(fact): str(value) for fact, value in problem.initial_values.items()}


def test_a_domain_with_constants_is_planned_for(planners):
    domain = """(define (domain d) (:requirements :strips :typing) (:types place) (:constants home - place)
      (:predicates (at ?p - place)) (:action go :parameters (?a ?b - place) :precondition (at ?a)
      :effect (and (at ?b) (not (at ?a)))))"""
    problem = "(define (problem p) (:domain d) (:objects town - place) (:init (at town)) (:goal (at home)))"
    assert planners.plan(world_of(domain, problem)) == ("go town home",)


def test_a_goal_out_of_reach_has_no_plan(planners, tower):
    assert planners.plan(toward(tower, [("on", "a", "b"), ("on", "b", "a")])) is None


def test_what_the_planner_cannot_read_is_a_sentence(planners):
    domain = """(define (domain d) (:requirements :strips :negative-preconditions) (:predicates (p) (q))
      (:action a :parameters () :precondition (not (p)) :effect (q)))"""
    world = world_of(domain, "(define (problem n) (:domain d) (:objects) (:init) (:goal (q)))")
    with pytest.raises(WorldError, match="n: pyperplan cannot plan here .*leave out negative conditions"):
        planners.plan(world)


@pytest.mark.parametrize("name", NAMES)
def test_validation_agrees_with_the_librarys_own_on_good_and_broken_plans(planners, name):
    rng, agreed = Random(0), {True: 0, False: 0}
    for world in generate(name, sizes=(2, 3), seed=3, count=10):
        library = planners.Library(world)
        plan = planners.plan(world)
        for steps in (plan, *(world.broken(plan, rng) for _ in range(6))):
            ours = world.check(steps).valid
            assert library.is_valid(steps) == ours, (world.task.text, steps)
            agreed[ours] += 1
    assert agreed[True] >= 10 and agreed[False] >= 30
