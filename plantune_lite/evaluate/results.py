"""Read what the models of runs have answered so far, and what is known about these answers.

Input: run folders, of which eval/SUITE.MODEL.jsonl is read, with the problems (suites/SUITE.jsonl), the settings
(eval/SUITE.MODEL.json), and what evaluation recorded about each suite (eval/suites.json). Output, one per suite,
model and mode:

    Answers(suite="own", run="runs/mine", model="m1", mode="m1", scores=[...], caveats=(), ...)
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from plantune_lite.evaluate import metrics
from plantune_lite.files import read_object, read_records
from plantune_lite.runs.folder import RunFolder
from plantune_lite.types import Problem, Score

UNTUNED, BASELINE, GRPO = "untuned", "baseline", "grpo"
OF_A_RUN = (UNTUNED, BASELINE, "control", "m1", "m2", "cpl", GRPO)  # a run's own models, in order
SUITES = "suites.json"  # in eval/: suite -> {"problems": 300, "answered": 128, "in_training": [id, ...], "words": 13}

Key = tuple[str, ...]  # what makes a problem the same in two runs
Runs = tuple[Path | None, ...]  # seed by seed, None where one failed
Shares = Mapping[tuple[int, Key], float]  # (seed, problem) -> the share of its samples that are right


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One model in one mode on one suite, answer by answer."""

    suite: str
    run: str
    model: str
    mode: str
    name: str  # the model's, prefixed with its run's if there are several runs
    scores: list[Score]
    problems: Mapping[str, Problem]  # the suite's, by id; empty if the run has no suites/
    settings: Mapping[str, Any] = field(default_factory=dict)  # how it was asked
    caveats: tuple[str, ...] = ()  # to be shown with every figure of this model on this suite

    @cached_property
    def shares(self) -> dict[Key, float]:
        """Return for each problem the share of its samples that are right.

        The same id may be another problem in a run with another seed, and small numbers often share a gold answer, so
        the key has the question as well.
        """
        gold = {score.problem_id: score.gold for score in self.scores}
        return {self._key(id, gold[id]): share for id, share in metrics.shares(self.scores).items()}

    def _key(self, id: str, gold: str) -> Key:
        problem = self.problems.get(id)
        return (id, gold, *((problem.question, *problem.choices) if problem else ()))


def answers(runs: Sequence[Path]) -> Iterator[Answers]:
    """Read all answers in the eval/ of these runs."""
    for run, prefix in zip(runs, _prefixes(runs), strict=True):
        suites, questions = known_of(run), RunFolder(run).suite_problems()
        for path in sorted(RunFolder(run).eval.glob("*.jsonl")):
            suite, _, model = path.stem.partition(".")
            settings = _json_of(path.with_suffix(".json"))
            problems = {problem.id: problem for problem in questions.get(suite, ())}
            for mode, scores in metrics.grouped((score.mode, score) for score in read_records(Score, path)).items():
                yield Answers(
                    suite=suite,
                    run=str(run),
                    model=model,
                    mode=mode,
                    name=prefix + model,
                    scores=scores,
                    problems=problems,
                    settings=settings.get(mode, {}),
                    caveats=tuple(_caveats(suite, model, scores, suites[suite])) if suite in suites else (),
                )


def plan_uses(runs: Sequence[Path]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield own minus swapped for each suite and model whose plans were swapped."""
    for run, prefix in zip(runs, _prefixes(runs), strict=True):
        for path in sorted(RunFolder(run).interventions.glob("*.summary.json")):
            suite, _, model = path.name.removesuffix(".summary.json").partition(".")
            if use := _json_of(path).get("own_minus", {}).get("swapped"):
                yield suite, prefix + model, use


def known_of(run: Path) -> dict[str, dict[str, Any]]:
    """Read what evaluation recorded about a run's suites, next to their answers."""
    return _json_of(RunFolder(run).eval / SUITES)


def _json_of(path: Path) -> dict[str, Any]:
    return read_object(path) if path.is_file() else {}


def _prefixes(runs: Sequence[Path]) -> list[str]:
    """Return the prefix of each run's models: empty for a single run, else its name, or its path if names clash."""
    names = [run.resolve().name for run in runs]
    if len(runs) == 1:
        return [""]
    return [f"{name if names.count(name) == 1 else run}/" for run, name in zip(runs, names, strict=True)]


def _caveats(suite: str, model: str, scores: Sequence[Score], known: Mapping[str, Any]) -> Iterator[str]:
    if model not in OF_A_RUN:
        yield f"it is not known here what {model} was trained on, or whether these problems were part of it"
    elif model != UNTUNED and known["in_training"]:
        yield (
            f"{len(known['in_training'])} of {known['problems']} problems of {suite} share {known['words']} words in a "
            "row with the training rows"
        )
    if model == BASELINE and known.get("baseline"):
        yield known["baseline"]
    if (answered := len(metrics.by_problem(scores))) < known["problems"]:
        yield f"only {answered} of {known['problems']} problems of {suite} have been asked so far"


# --- the models of a table --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """One variant of a study: its runs, or the name of the arm that answers each source."""

    name: str
    runs: Runs = ()
    routes: Mapping[str, str] = field(default_factory=dict)


class Model(NamedTuple):
    """A model with its own row: one of a run in one mode, or an arm over its seeds."""

    name: str
    mode: str  # "": an arm is known by its name
    answers: Mapping[int, Answers]  # by seed; a run alone is seed 0

    def shares(self) -> Shares:
        """Return the share that is right for each problem of each seed."""
        return {(seed, key): share for seed, result in self.answers.items() for key, share in result.shares.items()}

    def caveats(self) -> tuple[str, ...]:
        """Return the caveats to show with its figures."""
        return tuple(dict.fromkeys(caveat for result in self.answers.values() for caveat in result.caveats))


def alone(answers: Answers) -> Model:
    """Make a model of one run's answers."""
    return Model(answers.name, answers.mode, {0: answers})


def place(answers: Answers) -> int:
    """Return its place among the models of a run, in the order in which they are trained; others follow."""
    return OF_A_RUN.index(answers.model) if answers.model in OF_A_RUN else len(OF_A_RUN)


def best_untuned(answers: Iterable[Answers]) -> Answers | None:
    """Find the answers of a seed's untuned model at its best prompt."""
    untuned = [result for result in answers if result.model == UNTUNED]
    if not untuned:
        return None
    return untuned[metrics.best_mode({number: result.shares for number, result in enumerate(untuned)})]


def untuned_over_seeds(arms: Iterable[Sequence[Sequence[Answers]]]) -> list[Model]:
    """Pool the untuned model over the seeds, each at the prompt it chose; all arms share it."""
    of_seed: dict[int, list[Answers]] = {}
    for runs in arms:
        for seed, run in enumerate(runs):
            of_seed.setdefault(seed, []).extend(run)
    best = {seed: result for seed, these in sorted(of_seed.items()) if (result := best_untuned(these))}
    modes = dict.fromkeys(result.mode for result in best.values())
    return [Model(UNTUNED, " or ".join(modes), best)] if best else []


def tuned_over_seeds(arms: Sequence[Arm], answers: Mapping[str, Sequence[Sequence[Answers]]]) -> Iterator[Model]:
    """Yield what each arm's own model answered; if a run has several, the one trained last."""
    by_arm: dict[str, Mapping[int, Answers]] = {}
    for arm in arms:
        if arm.routes:
            by_arm[arm.name] = _routed({source: by_arm[name] for source, name in arm.routes.items()})
        else:
            own = ([result for result in run if result.model in OF_A_RUN[1:]] for run in answers[arm.name])
            by_arm[arm.name] = {seed: max(these, key=place) for seed, these in enumerate(own) if these}
        yield Model(arm.name, "", by_arm[arm.name])


def _routed(answers: Mapping[str, Mapping[int, Answers]]) -> dict[int, Answers]:
    """Take each problem's answer from the arm of its source; only seeds that all arms answered count."""
    routed = {}
    for seed in sorted(set.intersection(*map(set, answers.values()))):
        of_seed = {source: by_seed[seed] for source, by_seed in answers.items()}
        scores = [
            score
            for source, result in of_seed.items()
            for score in result.scores
            if result.problems[score.problem_id].source == source
        ]
        routed[seed] = replace(next(iter(of_seed.values())), scores=scores)
    return routed
