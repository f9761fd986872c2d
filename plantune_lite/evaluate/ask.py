"""A question to a run's model: its plan, its working and its answer, and beside it what the untuned model says.

    ask(Path("runs/mine"), "A pen costs 3 dollars. What do 4 pens cost?", beside_base=True)
    -> [Answered(model="sft of mine", mode="m1", plan=("Multiply the price of a pen by the number of pens.",),
                 working="4 pens cost 4 * 3 = 12 dollars. The answer is \\boxed{12}.", answer="12", ...),
        Answered(model="untuned", mode="few_shot", ...)]

Both are the same weights, the adapter on and off. The untuned model gets the prompt it was best at when the run was
evaluated, and step by step where that is not known. `resample=4` draws a plan that the run's judge calls weak again, up
to four in all; `plantune probe RUN` makes the judge.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from plantune_lite.evaluate import results
from plantune_lite.evaluate.answers import Asking
from plantune_lite.evaluate.modes import Mode, examples_of, mode_of, room_to_answer, way_to_answer
from plantune_lite.grading.answers import final_answer
from plantune_lite.plan import CLOSE, written_plan
from plantune_lite.recipe import user_code
from plantune_lite.recipe.load import load_recipe
from plantune_lite.recipe.schema import Recipe
from plantune_lite.runs.folder import RunFolder
from plantune_lite.runs.manifest import read_manifest
from plantune_lite.student.load import Loaded, load_student
from plantune_lite.terminal import printable
from plantune_lite.types import Generate, PlantuneError, Problem, Reply, RunError, Sampling


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One model's reply, taken apart."""

    model: str
    mode: Mode
    plan: tuple[str, ...]  # empty: it wrote none
    working: str
    answer: str | None  # None: nothing says which it is
    cut_off: bool
    tokens: int  # with those of plans that were thrown away
    drawn: tuple[float | None, ...] = ()  # the judge's scores of the plans, below 0 weak; None: it was no plan


def final_student(run: Path, say: Callable[[str], object]) -> tuple[Recipe, str, Loaded]:
    """A run's recipe, the stage that was the last to train, and the model that it left."""
    if not RunFolder(run).recipe.is_file():
        raise RunError(f"{run} is no run folder (it has no recipe.json): name one that plantune run has made")
    recipe, manifest = load_recipe(run), read_manifest(run)
    trained = manifest.final
    if trained is None or not (run / trained).is_dir():
        raise RunError(f"{run} has no trained model yet; plantune train {run} makes it")
    pinned = manifest.summaries.training(trained).revision
    room = room_to_answer(recipe)  # without vLLM, which starts too slowly for a question or two
    loaded = load_student(recipe.student, adapter=run / trained, pinned=pinned, room=room, seed=recipe.seed, say=say)
    return recipe, trained, loaded


def ask_student(
    run: Path,
    question: str,
    *,
    beside_base: bool = False,
    resample: int | None = None,
    say: Callable[[str], object] = print,
) -> list[Answered]:
    """Ask the run's final model and, with `beside_base`, the model it was made from; draw at most `resample` plans."""
    if not question.strip():
        raise PlantuneError('the question is empty; write plantune ask RUN "What do 4 pens cost at 3 dollars each?"')
    drawn: list[float | None] = []
    judged = (
        user_code.load_from_lab("judge_plan")(run, tries=resample, tell=drawn.extend) if resample is not None else None
    )
    recipe, trained, loaded = final_student(run, say)
    problem = Problem(id="asked", question=question.strip(), answer="")
    sampling = Sampling(max_tokens=recipe.evaluate.max_tokens, seed=recipe.seed)
    how = Asking(sampling=sampling, executor=loaded.generate_untuned, examples=examples_of(run))

    def answered(model: str, mode: Mode, generate: Generate) -> Answered:
        answer, _ = way_to_answer(mode, generate, [problem], how)
        [(_, [reply])] = answer([problem], sampling)
        return taken_apart(model, mode, reply)

    mode = mode_of(recipe, read_manifest(run).summaries)
    tuned = answered(f"{trained} of {recipe.name}", mode, judged(loaded) if judged else loaded.generate)
    found = [replace(tuned, drawn=tuple(drawn))]
    if beside_base:
        found.append(answered(results.UNTUNED, best_prompt(run), loaded.generate_untuned))
    return found


def best_prompt(run: Path) -> Mode:
    """Find what the untuned model was best at on the run's own problems, or else its first suite."""
    untuned = [one for one in results.answers([run]) if one.model == results.UNTUNED]
    suite = min((one.suite for one in untuned), key=lambda name: (name != "own", name), default=None)
    best = results.best_untuned(one for one in untuned if one.suite == suite)
    return cast(Mode, best.mode) if best else "zero_shot_cot"


def taken_apart(model: str, mode: Mode, reply: Reply) -> Answered:
    """Split a reply into plan, working and answer."""
    plan = written_plan(reply.text)  # near enough: the untuned model never learned our format
    working = reply.text.rpartition(CLOSE)[2] if plan else reply.text
    return Answered(
        model=model,
        mode=mode,
        plan=plan,
        working=working.strip(),
        answer=final_answer(working),
        cut_off=reply.finish == "length",
        tokens=reply.tokens_out,
    )


def lines(found: Answered) -> Iterator[str]:
    """For a terminal."""
    yield f"{found.model} ({found.mode}, {found.tokens} tokens)"
    if found.drawn:
        scores = ", ".join("no plan" if one is None else f"{one:+.2f}" for one in found.drawn)
        yield f"{len(found.drawn)} plan{'s' * (len(found.drawn) > 1)} drawn, judged {scores} (below 0 is weak)"
    if found.plan:
        yield "plan"
        yield from (f"  {number}. {printable(step)}" for number, step in enumerate(found.plan, 1))
    plan_is_all = found.plan and not found.working  # in a world there is nothing to be worked out
    if not plan_is_all:
        yield "working" if found.plan else "working, without a plan"
        yield from (f"  {printable(line)}" for line in found.working.splitlines())
    if found.cut_off:
        yield "  ... cut off here: evaluate.max_tokens of its recipe allows no more"
    if not plan_is_all:
        yield "answer"
        yield f"  {printable(found.answer)}" if found.answer else "  none that can be read"
