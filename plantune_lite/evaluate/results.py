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
OF_A_RUN = (UNTUNED, BASELINE, "control", "m1", "m2", "cpl", GRPO)  # models in the order of a run; others are not its
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
    name: str  # the model's, with its run's before it where there are several
    scores: list[Score]
    problems: Mapping[str, Problem]  # the suite's, by id; none where the run has no suites/
    settings: Mapping[str, Any] = field(default_factory=dict)  # how it was asked
    caveats: tuple[str, ...] = ()  # what no figure of this model on this suite must be read without

    @cached_property
    def shares(self) -> dict[Key, float]:
        """Return for each problem the share of its samples that are right.

        An id alone may be another problem's in a run of another seed, and with small numbers as answers the gold is
        alike: so a problem is known by its question as well.
        """
        gold = {one.problem_id: one.gold for one in self.scores}
        return {self._key(id, gold[id]): share for id, share in metrics.shares(self.scores).items()}

    def _key(self, id: str, gold: str) -> Key:
        problem = self.problems.get(id)
        return (id, gold, *((problem.question, *problem.choices) if problem else ()))


def answers(runs: Sequence[Path]) -> Iterator[Answers]:
    """Read all that lies in the eval/ of these runs."""
    for run, where in zip(runs, _places(runs), strict=True):
        suites, questions = known_of(run), RunFolder(run).suite_problems()
        for path in sorted(RunFolder(run).eval.glob("*.jsonl")):
            suite, _, model = path.stem.partition(".")
            settings = _json_of(path.with_suffix(".json"))
            problems = {one.id: one for one in questions.get(suite, ())}
            for mode, scores in metrics.grouped((one.mode, one) for one in read_records(Score, path)).items():
                yield Answers(
                    suite=suite,
                    run=str(run),
                    model=model,
                    mode=mode,
                    name=where + model,
                    scores=scores,
                    problems=problems,
                    settings=settings.get(mode, {}),
                    caveats=tuple(_caveats(suite, model, scores, suites[suite])) if suite in suites else (),
                )


def plan_uses(runs: Sequence[Path]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield for each suite and model whose plans were exchanged what own minus swapped came to."""
    for run, where in zip(runs, _places(runs), strict=True):
        for path in sorted(RunFolder(run).interventions.glob("*.summary.json")):
            suite, _, model = path.name.removesuffix(".summary.json").partition(".")
            if use := _json_of(path).get("own_minus", {}).get("swapped"):
                yield suite, where + model, use


def known_of(run: Path) -> dict[str, dict[str, Any]]:
    """Read what evaluation has found out about the suites of a run, beside their answers."""
    return _json_of(RunFolder(run).eval / SUITES)


def _json_of(path: Path) -> dict[str, Any]:
    return read_object(path) if path.is_file() else {}


def _places(runs: Sequence[Path]) -> list[str]:
    """Return what stands before a model's name: nothing for one run, its name, or its path where names are alike."""
    names = [run.resolve().name for run in runs]
    if len(runs) == 1:
        return [""]
    return [f"{name if names.count(name) == 1 else run}/" for run, name in zip(runs, names, strict=True)]


def _caveats(suite: str, model: str, scores: Sequence[Score], known: Mapping[str, Any]) -> Iterator[str]:
    if model not in OF_A_RUN:
        yield f"what {model} was trained on is not known here, nor whether these problems were among it"
    elif model != UNTUNED and known["in_training"]:
        yield (
            f"{len(known['in_training'])} of {known['problems']} problems of {suite} share {known['words']} words in a "
            "row with the training rows"
        )
    if model == BASELINE and known.get("baseline"):
        yield known["baseline"]
    if (asked := len(metrics.by_problem(scores))) < known["problems"]:
        yield f"only {asked} of {known['problems']} problems of {suite} have been asked so far"


# --- the models of a table --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """One variant of a study: its runs, or the name of the arm that answers each source."""

    name: str
    runs: Runs = ()
    routes: Mapping[str, str] = field(default_factory=dict)


class Model(NamedTuple):
    """Model with a row of its own: one of a run in one mode, or an arm over its seeds."""

    name: str
    mode: str  # "": an arm is known by its name
    answers: Mapping[int, Answers]  # by seed; a run alone is seed 0

    def shares(self) -> Shares:
        """Return what is right of each problem of each seed."""
        return {(seed, key): share for seed, one in self.answers.items() for key, share in one.shares.items()}

    def caveats(self) -> tuple[str, ...]:
        """Return what its figures must not be read without."""
        return tuple(dict.fromkeys(caveat for one in self.answers.values() for caveat in one.caveats))


def alone(one: Answers) -> Model:
    """Make a model of one run's answers."""
    return Model(one.name, one.mode, {0: one})


def place(one: Answers) -> int:
    """Return its place among the models of a run, in the order in which they are trained; others follow."""
    return OF_A_RUN.index(one.model) if one.model in OF_A_RUN else len(OF_A_RUN)


def best_untuned(answers: Iterable[Answers]) -> Answers | None:
    """Find the untuned model of a seed at its best prompt."""
    untuned = [one for one in answers if one.model == UNTUNED]
    if not untuned:
        return None
    return untuned[metrics.best_mode({number: one.shares for number, one in enumerate(untuned)})]


def untuned_over_seeds(arms: Iterable[Sequence[Sequence[Answers]]]) -> list[Model]:
    """Pool the untuned model over the seeds, each at the prompt it chose; all arms share it."""
    of_seed: dict[int, list[Answers]] = {}
    for runs in arms:
        for seed, run in enumerate(runs):
            of_seed.setdefault(seed, []).extend(run)
    best = {seed: one for seed, these in sorted(of_seed.items()) if (one := best_untuned(these))}
    modes = dict.fromkeys(one.mode for one in best.values())
    return [Model(UNTUNED, " or ".join(modes), best)] if best else []


def tuned_over_seeds(arms: Sequence[Arm], answers: Mapping[str, Sequence[Sequence[Answers]]]) -> Iterator[Model]:
    """Yield what each arm's own model answered; of several models of a run the one trained last."""
    found: dict[str, Mapping[int, Answers]] = {}
    for arm in arms:
        if arm.routes:
            found[arm.name] = _routed({source: found[name] for source, name in arm.routes.items()})
        else:
            own = ([one for one in run if one.model in OF_A_RUN[1:]] for run in answers[arm.name])
            found[arm.name] = {seed: max(these, key=place) for seed, these in enumerate(own) if these}
        yield Model(arm.name, "", found[arm.name])


def _routed(answers: Mapping[str, Mapping[int, Answers]]) -> dict[int, Answers]:
    """Let each problem be answered by the arm of its source; a seed counts where all of them answered."""
    routed = {}
    for seed in sorted(set.intersection(*map(set, answers.values()))):
        of_seed = {source: by_seed[seed] for source, by_seed in answers.items()}
        scores = [
            score
            for source, one in of_seed.items()
            for score in one.scores
            if one.problems[score.problem_id].source == source
        ]
        routed[seed] = replace(next(iter(of_seed.values())), scores=scores)
    return routed
