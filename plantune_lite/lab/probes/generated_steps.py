"""Measure what a model does in a world, as opposed to what it may know: plans it writes, and single next steps.

plans_written(generate, problems, max_tokens=256)  -> {"success": Estimate, "executable": ..., "prefix": ...}
next_steps(generate, cases, problems, seed=0)      -> Estimate: how often the next step it writes can be done
"""

from collections.abc import Sequence
from statistics import fmean

from plantune_lite import plan
from plantune_lite.evaluate import stats
from plantune_lite.evaluate.stats import Estimate
from plantune_lite.lab.probes.cases import Case
from plantune_lite.lab.worlds.grade import steps_in, world_in
from plantune_lite.types import Generate, Problem, Sampling

_STEP_TOKENS = 24  # no step is longer


def plans_written(generate: Generate, problems: Sequence[Problem], *, max_tokens: int) -> dict[str, Estimate]:
    """Generate greedy plans: how many are valid, how many can be carried out, and how much before the first error."""
    replies = generate([plan.ask_plainly(problem) for problem in problems], Sampling(max_tokens=max_tokens))
    success, executable, prefix = [], [], []
    for problem, [reply] in zip(problems, replies, strict=True):
        world = world_in(problem)
        steps = steps_in(world, reply.text)
        checked = world.check(steps)
        success.append(float(bool(steps) and checked.valid))
        executable.append(float(bool(steps) and checked.wrong is None))
        prefix.append(checked.good_steps / len(steps) if steps else 0.0)
    return {
        "success": stats.of_problems(success),
        "executable": stats.of_problems(executable),
        "prefix": stats.of_problems(prefix),
    }


def next_steps(generate: Generate, cases: Sequence[Case], problems: Sequence[Problem], *, seed: int) -> Estimate:
    """Sample a step after the steps of each pair of cases: how often it can be done, averaged by problem."""
    world_of = {problem.id: world_in(problem) for problem in problems}
    distinct = list({(case.problem_id, case.begun): case for case in cases}.values())
    sampling = Sampling(temperature=1.0, max_tokens=_STEP_TOKENS, stop=("\n",), seed=seed)
    legal: dict[str, list[float]] = {}
    for case, [reply] in zip(distinct, generate([case.before for case in distinct], sampling), strict=True):
        world = world_of[case.problem_id]
        action = world.named(plan.clean_step(reply.text))
        can = action is not None and world.can(action, world.state(case.facts))
        legal.setdefault(case.problem_id, []).append(float(can))
    return stats.of_problems([fmean(values) for values in legal.values()])
