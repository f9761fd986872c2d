"""Ask a run's model one question: its plan, its working and its answer, next to what the untuned model answers.

    ask_student(Path("runs/mine"), "A pen costs 3 dollars. What do 4 pens cost?", beside_base=True)
    -> [Answered(model="sft of mine", mode="m1", plan=("Multiply the price of a pen by the number of pens.",),
                 working="4 pens cost 4 * 3 = 12 dollars. The answer is \\boxed{12}.", answer="12", ...),
        Answered(model="untuned", mode="few_shot", ...)]

Both are the same weights, the adapter on and off. The untuned model gets the prompt it was best at when the run was
evaluated, or step by step if that is unknown. `resample=4` redraws a plan that the run's judge calls weak, up to four
in all; `plantune probe RUN` makes the judge.
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
from plantune_lite.runs.manifest import read_manifest
from plantune_lite.student.load import Loaded, load_student
from plantune_lite.terminal import printable
from plantune_lite.types import Generate, PlantuneError, Problem, Reply, RunError, Sampling


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One model's reply, parsed."""

    model: str
    mode: Mode
    plan: tuple[str, ...]  # empty: none in the reply
    working: str
    answer: str | None  # None: none could be read
    cut_off: bool
    tokens: int  # including those of rejected plans
    drawn: tuple[float | None, ...] = ()  # the judge's scores of the plans, below 0 weak; None: not a plan


def final_student(run: Path, say: Callable[[str], object]) -> tuple[Recipe, str, Loaded]:
    """Load a run's recipe and final model, and name the stage that trained it."""
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
    replies = [replace(tuned, drawn=tuple(drawn))]
    if beside_base:
        replies.append(answered(results.UNTUNED, best_prompt(run), loaded.generate_untuned))
    return replies


def best_prompt(run: Path) -> Mode:
    """Find the untuned model's best prompt on the run's own problems, or else on its first suite."""
    untuned = [result for result in results.answers([run]) if result.model == results.UNTUNED]
    suite = min((result.suite for result in untuned), key=lambda name: (name != "own", name), default=None)
    best = results.best_untuned(result for result in untuned if result.suite == suite)
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


def lines(reply: Answered) -> Iterator[str]:
    """Format for a terminal."""
    yield f"{reply.model} ({reply.mode}, {reply.tokens} tokens)"
    if reply.drawn:
        scores = ", ".join("no plan" if score is None else f"{score:+.2f}" for score in reply.drawn)
        yield f"{len(reply.drawn)} plan{'s' * (len(reply.drawn) > 1)} drawn, judged {scores} (below 0 is weak)"
    if reply.plan:
        yield "plan"
        yield from (f"  {number}. {printable(step)}" for number, step in enumerate(reply.plan, 1))
    plan_is_all = reply.plan and not reply.working  # in a world there is nothing to work out
    if not plan_is_all:
        yield "working" if reply.plan else "working, without a plan"
        yield from (f"  {printable(line)}" for line in reply.working.splitlines())
    if reply.cut_off:
        yield "  ... cut off here: evaluate.max_tokens of its recipe allows no more"
    if not plan_is_all:
        yield "answer"
        yield f"  {printable(reply.answer)}" if reply.answer else "  none that can be read"
