"""A toy stage of CPL for studies: the real rounds and search, with a policy and trainings that cost nothing."""

import hashlib
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace

import toy_variants

from plantune_lite.files import write_whole
from plantune_lite.plan import CLOSE
from plantune_lite.recipe.load import override
from plantune_lite.types import Reply, RunError

HERE = str(Path(__file__).resolve())
WAYS = ("Count them.", "Guess.", "Add them.")
RECIPE = override(
    toy_variants.RECIPE,
    ["cpl=default", "cpl.questions=6", "cpl.iterations=12", "cpl.root_width=8", "cpl.width=6", "cpl.alpha=2"],
)


def stages(cpl="cpl"):
    """The toys of a study's stages, with this file's function as CPL."""
    found = toy_variants.stages(distill=None, corpus=None)
    return tuple(replace(one, work=f"{HERE}:{cpl}") if one.name == "cpl" else one for one in found)


def knows_its_way(answers):
    """A policy that takes two steps and is right where both are the right ones; `answers` by question."""

    def generate(prompts, sampling):
        assert sampling.n * len(prompts) > 0
        return [[_reply(answers, messages, sampling, at) for at in range(sampling.n)] for messages in prompts]

    return generate


def _reply(answers, messages, sampling, at):
    dice = Random(repr((messages, sampling.seed, sampling.max_tokens, at)))
    before = messages[-1]["content"] if messages[-1]["role"] == "assistant" else "<plan>\n"
    taken = [line.partition(". ")[2] for line in before.splitlines()[1:] if line != CLOSE]
    if sampling.stop:
        text = CLOSE if len(taken) == 2 else f"{len(taken) + 1}. {dice.choice(WAYS)}"
        return Reply(text=text, mean_logprob=-dice.random(), tokens_out=5)
    closed = before.endswith(f"{CLOSE}\n")
    ways = taken if closed else [*taken, *dice.choices(WAYS, k=2 - len(taken))]
    asked = next(question for question in answers if question in messages[1]["content"])
    right = ways == ["Count them.", "Add them."] and dice.random() < 0.8
    text = f"\\boxed{{{answers[asked] if right else dice.randrange(1000, 9000)}}}"
    return Reply(text=text if closed else f"{len(taken) + 1}. x\n{CLOSE}\n{text}", tokens_out=9)


def cpl(job):
    """The rounds themselves; what is asked of the policy is noted."""
    from plantune_lite.lab.cpl import stage, step_apo
    from plantune_lite.train import sft

    answers = {one.question: one.answer for one in job.run.problems()}
    policy = knows_its_way(answers)

    def generate(prompts, sampling):
        toy_variants._note("searched")
        return policy(prompts, sampling)

    def loaded(self, adapter, training=True):
        write_whole(job.out / "base.json", '{"repo": "toy", "revision": null}')
        return SimpleNamespace(generate=generate)

    stage._Round._loaded = loaded
    sft.train = lambda student, rows, part, out, training: _trained("imitated", out, repr(rows), training)
    step_apo.train = lambda student, pairs, ask, part, out, training, **rest: _trained(
        "preferred", out, repr((pairs, part.alpha)), training
    )
    return stage.run_cpl(job)


def cpl_that_breaks_at_first(job):
    """The first variant has searched when it fails."""
    if job.recipe.cpl.pairs != "none":
        return cpl(job)
    cpl(job)
    for name in ("sft", "sft.json"):
        (job.out / "round1" / name).rename(job.out / f"lost-{name}")
    raise RunError("the toy fell over. Pick it up.")


def _trained(what, out, learned, training):
    write_whole(out / "adapter_model.safetensors", hashlib.sha256(learned.encode()).hexdigest())
    for step in (1, 2):
        training.reporter.metric(step, loss=1 / step)
    toy_variants._note(what)
    return {"line": what, "steps": 2, "planned_steps": 2, "preference_last": 0.5, "asked": 0.7}
