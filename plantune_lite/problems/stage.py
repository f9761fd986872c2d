"""Run the stages that load problems and test suites."""

from plantune_lite.files import write_records
from plantune_lite.problems.load import load_problems, load_suite, revisions_of, suite_names
from plantune_lite.runs.job import Job
from plantune_lite.runs.manifest import ProblemsSummary, SuitesSummary
from plantune_lite.types import ProblemError


def run_problems(job: Job) -> ProblemsSummary:
    """Load the pool and hold out the recipe's own test problems."""
    loaded = load_problems(
        job.recipe.problems,
        seed=job.recipe.seed,
        revisions=job.earlier.problems.revisions,
        checked=job.recipe.wants_checked_answers,
    )
    if job.recipe.has_baseline and not any(problem.solution or problem.steps for problem in loaded.pool):
        raise ProblemError(
            "evaluate.baseline is true, but no problem has a solution for the baseline to learn from: name their "
            "column in problems.solution, or set evaluate.baseline=false"
        )
    write_records(job.run.pool, loaded.pool)
    write_records(job.run.held_out, loaded.own)
    for note in loaded.notes:
        job.say(note)
    return ProblemsSummary(
        line=f"{len(loaded.pool)} problems to learn from, {len(loaded.own)} held out",
        origin=loaded.origin,
        revisions=revisions_of(loaded.origin.values()),
    )


def run_suites(job: Job) -> SuitesSummary:
    """Load the test suites, before anything is spent."""
    own, pool, part = job.run.own(), job.run.problems(), job.recipe.evaluate
    known = job.earlier.suites.revisions
    counts, origins, suite_holds_programs = {}, {}, []
    for name in suite_names(part.suites):
        suite = load_suite(name, limit=part.limit, seed=job.recipe.seed, own=own, pool=pool, revisions=known)
        write_records(job.out / f"{name}.jsonl", suite.problems)
        for note in suite.notes:
            job.say(note)
        counts[name], origins[name] = len(suite.problems), suite.origin
        suite_holds_programs.append(any(problem.kind == "code" for problem in suite.problems))
    if all(suite_holds_programs) and not part.allow_code:
        raise ProblemError(
            f"all answers of {', '.join(counts)} are programs, which are only run with evaluate.allow_code=true: "
            "set it, or add a suite with other answers"
        )
    line = ", ".join(f"{name} {count}" for name, count in counts.items())
    return SuitesSummary(line=f"test problems: {line}", revisions=revisions_of(origins.values()))
