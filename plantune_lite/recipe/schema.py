"""Define a recipe: one frozen literal that says everything about a run, checked as a whole.

RECIPE = Recipe(name="mine", problems=Problems("practice"), ..., sft=SFT(target="plan+solution"), grpo=None)
"""

import math
import re
from collections.abc import Iterator
from dataclasses import KW_ONLY, Field, dataclass, field, fields
from typing import Any, Literal, get_origin
from urllib.parse import urlsplit

from plantune_lite.files import encodable, fits, type_hints
from plantune_lite.recipe import user_code
from plantune_lite.recipe.fields import describe, is_json, knob, nearest
from plantune_lite.types import RecipeError

Format = Literal["adapter", "merged", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "lora_gguf"]

Direction = Literal["forwards", "backwards"]  # of plans
Prompt = Literal["zero_shot_cot", "plan_then_solve", "few_shot"]  # an untuned model's


@dataclass(frozen=True)
class _WithFloats:
    """A recipe or a part of one that stores `epochs=1` as 1.0: the two spellings must not be two recipes."""

    def __post_init__(self) -> None:
        for name, hint in type_hints(type(self)).items():
            if hint in (float, float | None) and type(value := getattr(self, name)) is int and fits(value, float):
                object.__setattr__(self, name, float(value))


@dataclass(frozen=True)
class Problems(_WithFloats):
    """Source of the questions."""

    source: str  # a benchmark, "practice", "gym:NAME", "hf:OWNER/NAME", a data file, "module.py:function"; "a+b" mixes
    _: KW_ONLY
    path: str | None = None  # a data file of your own in place of the source
    split: str = "train"
    limit: int | None = knob(None, low=1)  # None = all there are
    levels: tuple[int, ...] = ()  # difficulty levels, where the source has them; empty = all
    question: str | None = None  # your column's name; None = guessed
    answer: str | None = None
    solution: str | None = None
    choices: str | None = None
    id: str | None = None
    held_out: float = knob(0.2, low=0, high=0.9)  # share kept for the suite "own", at most 300 problems
    bad_rows: Literal["stop", "skip"] = "stop"  # "skip" counts and names them

    def __post_init__(self) -> None:
        super().__post_init__()
        if callable(self.source):
            object.__setattr__(self, "source", user_code.reference(self.source))


@dataclass(frozen=True)
class Distill(_WithFloats):
    """Teacher that writes the plans, how many, and which are good enough."""

    teacher: str = "self"  # "gemini", "self", "worked", or the base URL of an OpenAI-compatible server
    _: KW_ONLY
    model: str | None = None  # the teacher's model; None = the dated default
    plan_from: Literal["question", "solution"] = "question"  # "solution": summarise the data set's own working
    # Plan from the given facts on, or back from the question; None = as the teacher or the source does.
    direction: Direction | None = None
    plans: int = knob(5, low=1, high=64)  # per problem, at most
    plans_per_call: int = knob(1, low=1, high=64)  # more than 1: one structured list, cheaper and less diverse
    temperature: float = knob(0.7, low=0, high=2)
    min_score: int | None = knob(80, low=-100, high=100)  # None = no scores: one call per plan from a solution
    keep: Literal["first", "best"] = "first"  # "first" makes plans until one passes; "best" is the paper's
    execute: Literal["kept", "all"] = "kept"
    thinking: int | None = knob(0, low=-1)  # tokens; 0 = as few as it can, -1 = the model decides, None = its default
    max_tokens: int = knob(2048, low=16)
    max_usd: float | None = knob(None, low=0, pace=True)  # None = no limit
    requests_per_minute: int | None = knob(None, low=1, pace=True)


@dataclass(frozen=True)
class Corpus(_WithFloats):
    """Selection of the trajectories that become training rows."""

    _: KW_ONLY
    filter: Literal["none", "plan", "answer", "both"] = "both"
    min_score: int | None = knob(None, low=-100, high=100)  # None = distill.min_score; raising it needs no calls
    per_problem: int = knob(1, low=1)  # the best k
    spoilers: Literal["drop", "keep"] = "drop"  # plans that contain the answer or compute
    dedup: Literal["none", "exact", "minhash"] = "minhash"  # "minhash" drops near copies too: it compares all pairs
    decontaminate: int = knob(13, low=0)  # words in a row shared with a suite; 0 = off
    validation: float = knob(0.05, low=0, high=0.5)  # share of problems
    weights: tuple[float, ...] = ()  # one per source; empty = as they come


@dataclass(frozen=True)
class Student(_WithFloats):
    """Small model and its adapter."""

    model: str  # a preset, a Hub id, or a local folder
    _: KW_ONLY
    revision: str | None = None  # None = resolved when training starts, and kept in the manifest
    bits: Literal[4, 16, 32] = 4
    max_length: int = knob(1024, low=64)  # tokens of prompt and completion
    lora_rank: int = knob(32, low=1)
    lora_alpha: int = knob(32, low=1)
    lora_dropout: float = knob(0.0, low=0, high=0.9)
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    rslora: bool = False
    checkpointing: bool = True  # recompute activations: less memory, about a third slower
    # What answers; auto: vLLM if it is installed and suits the GPU, else the training backend.
    engine: Literal["auto", "unsloth", "transformers", "vllm"] = knob("auto", pace=True)


@dataclass(frozen=True)
class SFT(_WithFloats):
    """Supervised training on the corpus."""

    _: KW_ONLY
    target: Literal["solution", "plan+solution", "plan"] = "plan+solution"  # baseline, M1, M2
    solutions: Literal["dataset", "teacher"] = "teacher"  # "solution" from "teacher" is the control
    start: str | None = None  # another run, whose adapter this one continues
    same_rows: bool = False  # only problems that baseline, control, M1 and M2 all have a row of within max_length
    order: Literal["mixed", "easy_first", "by_source"] = "mixed"  # easy by level, or short rows
    epochs: float = knob(1.0, low=0)
    max_steps: int | None = knob(None, low=1)  # None = all epochs
    learning_rate: float = knob(2e-4, low=0, high=1)
    batch_size: int = knob(2, low=1)  # rows on the GPU at once
    accumulate: int = knob(4, low=1)  # batches per step
    warmup: float = knob(0.1, low=0, high=1)  # share of the steps
    weight_decay: float = knob(0.0, low=0, high=1)
    save_steps: int = knob(50, low=1, pace=True)
    logger: Literal["none", "trackio", "tensorboard", "wandb"] = knob("none", pace=True)
    extra: dict[str, object] = field(default_factory=dict)  # passed to the TRL config as is


@dataclass(frozen=True)
class CPL(_WithFloats):
    """Search over plan steps, then Step-APO on the critical ones."""

    _: KW_ONLY
    rounds: int = knob(2, low=1)
    # Whose steps are searched: None = the student's, URL#NAME = a server's, which must be able to continue a started
    # reply; distill.max_usd limits its cost.
    policy: str | None = None
    questions: int | None = knob(None, low=1)  # None = all
    iterations: int = knob(100, low=1)  # of the search, per question
    root_width: int = knob(5, low=2)
    width: int = knob(3, low=2)
    depth: int = knob(6, low=2)
    step_tokens: int = knob(128, low=8)  # a longer step is malformed and worth -1
    exploration: float = knob(1.5, low=0)  # c_puct
    temperature: float = knob(0.7, low=0, high=2)
    leaf: Literal["rollout", "value"] = "rollout"
    rollouts: int = knob(1, low=1)
    pairs: Literal["steps", "answers", "none"] = "steps"  # "answers" with alpha=0 is plain DPO, "none" SFT alone
    alpha: float = knob(1.0, low=0)  # weight of the value gap; 0 = step-DPO
    beta: float = knob(0.3, low=0)
    learning_rate: float = knob(1e-6, low=0, high=1)
    max_tokens: int | None = knob(None, low=1, pace=True)  # generated in all; None = no limit


@dataclass(frozen=True)
class GRPO(_WithFloats):
    """Reinforcement on the answer, the plan, or both."""

    _: KW_ONLY
    reward: Literal["answer", "answer+plan", "guided"] = "answer+plan"
    judge: Literal["alignment", "teacher"] = "alignment"  # what compares a plan with the reference
    embedder: str | None = None  # alignment by an embedding model, a Hub id or a folder; None = by words
    rewards: tuple[str, ...] = ()  # your own, "module_or_path.py:function", added to the sum
    settings: Literal["stable", "paper", "pta"] = "stable"  # "paper" is PLAN-TUNING's, "pta" PTA-GRPO's
    start: str = "sft"  # "sft", "base", or another run
    steps: int = knob(200, low=1)
    group: int = knob(8, low=2)  # completions per prompt; guided: plans x continuations
    weights: dict[str, float] = field(default_factory=dict)  # of rewards by name, in place of the settings' own
    plans: int = knob(4, low=2)  # guided, as are the six after it
    continuations: int = knob(3, low=1)
    plan_weight: float = knob(0.5, low=0)  # beta of PTA-GRPO
    structure_weight: float = knob(0.2, low=0)  # for a plan in exact form and one boxed answer
    plan_softmax: float = knob(0.5, low=0.01)  # temperature over the plans' shares of right answers; not in the paper
    length_weight: float = knob(0.1, low=0)  # alpha, the maximum for a short answer; not in the paper
    longest: int | None = knob(None, low=1)  # T_max of the length term, in tokens; not in the paper; None = the group's
    length_for: Literal["right", "all"] = "right"  # whose length is rewarded; not in the paper
    prompts_per_step: int = knob(4, low=1)
    learning_rate: float = knob(1e-6, low=0, high=1)
    temperature: float = knob(1.0, low=0.01, high=2)
    max_completion: int | None = knob(None, low=16)  # tokens; None = calibrated from 16 samples
    save_steps: int = knob(25, low=1, pace=True)
    extra: dict[str, object] = field(default_factory=dict)  # passed to the TRL config as is

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.rewards, tuple):
            names = tuple(user_code.reference(reward) if callable(reward) else reward for reward in self.rewards)
            object.__setattr__(self, "rewards", names)


@dataclass(frozen=True)
class Evaluate(_WithFloats):
    """Test suites, and how to measure on them."""

    suites: tuple[str, ...] = ("own",)  # benchmarks, own, practice, or the groups paper, cpl, pta
    _: KW_ONLY
    limit: int | None = knob(300, low=1)  # problems per suite, seeded; None = all
    samples: int = knob(1, low=1)  # more than 1: pass@k and maj@k
    temperature: float = knob(0.0, low=0, high=2)
    top_p: float = knob(1.0, low=0.01, high=1)
    max_tokens: int = knob(1024, low=16)
    baseline: bool = False  # also train on the data set's own solutions, the same problems and steps, and evaluate it
    prompts: tuple[Prompt, ...] = ()  # the untuned model's, of which the best counts; empty = what suits its size
    before_grpo: bool = False  # also ask the adapter that GRPO began with: what did GRPO add?
    plan_use: bool = False  # ask again with another problem's plan: does the plan do the work?
    interventions: bool = False  # also with an empty plan, the reference's, and a step left out
    allow_code: bool = False  # run what the model wrote, in a sandbox


@dataclass(frozen=True)
class Export:
    """Forms of the model to hand out."""

    formats: tuple[Format, ...] = ("adapter",)


@dataclass(frozen=True, kw_only=True)
class Recipe(_WithFloats):
    """Everything about a run; its parts run in this order, None leaves one out."""

    name: str
    seed: int = knob(0, low=0, high=2**32 - 1)
    problems: Problems
    distill: Distill = Distill()
    corpus: Corpus = Corpus()
    student: Student
    sft: SFT | None = None
    cpl: CPL | None = None
    grpo: GRPO | None = None
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    headroom: int = knob(64, low=0)  # problems the untuned student is asked before anything is spent; 0 = none
    # Of the whole run: each stage stops within its share of what is left, and the next uses what there is.
    max_hours: float | None = knob(None, low=0.01, pace=True)  # None = no limit

    @property
    def has_baseline(self) -> bool:
        """Tell whether a baseline is trained too: like the SFT, which must exist and not be the baseline itself."""
        part = self.sft
        itself = part is not None and (part.target, part.solutions) == ("solution", "dataset")
        return self.evaluate.baseline and part is not None and not itself

    @property
    def plans_are_scored(self) -> bool:
        """Tell whether plans are scored: an untuned student cannot judge its own, worked solutions have no judge."""
        return self.distill.teacher not in ("self", "worked") and self.distill.min_score is not None

    @property
    def wants_checked_answers(self) -> bool:
        """Tell whether to learn only from plans that reach a checked answer; worked solutions end in the answer."""
        return self.corpus.filter in ("answer", "both") and self.distill.teacher != "worked"

    def __post_init__(self) -> None:
        super().__post_init__()
        errors = [error for name, value in leaves(self) if (error := _field_error(name, value)) is not None]
        if errors := errors or list(_cross_errors(self)):  # these assume valid types
            count = f"{len(errors)} errors in the recipe:\n  " if len(errors) > 1 else ""
            raise RecipeError(count + "\n  ".join(errors))


_PARTS = (Problems, Distill, Corpus, Student, SFT, CPL, GRPO, Evaluate, Export)
PARTS: dict[str, type] = {part.__name__.lower(): part for part in _PARTS}  # by the name of their field
TEACHERS = ("gemini", "self", "worked")  # or the base URL of a server
OPTIONAL = ("sft", "cpl", "grpo")
REWARDS = ("right_answer", "plan_similarity", "plan_shape", "spoiler_penalty", "soft_overlong", "guided")  # built in


def leaves(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Yield every field with its dotted name; a part that is left out is one leaf, None."""
    for outer in fields(recipe):
        value = getattr(recipe, outer.name)
        if outer.name in PARTS and value is not None:
            for inner in fields(value):
                yield f"{outer.name}.{inner.name}", getattr(value, inner.name)
        else:
            yield outer.name, value


def is_pace(name: str) -> bool:
    """Tell whether a field only says how fast or how long: `distill.max_usd`, `max_hours`."""
    return _field_of(name)[0].metadata.get("pace", False)


def _field_of(name: str) -> tuple[Field[Any], Any]:
    """Return a field by its dotted name, and its type."""
    part, _, inner = name.rpartition(".")
    owner = PARTS[part] if part else Recipe
    return next(f for f in fields(owner) if f.name == inner), type_hints(owner)[inner]


# --- checking ---------------------------------------------------------------------------------------------------------


def _field_error(name: str, value: Any) -> str | None:
    """Return what is wrong with a field's value; None if nothing is."""
    f, hint = _field_of(name)
    if not fits(value, hint):
        example = f"; write ({value!r},)" if get_origin(hint) is tuple and isinstance(value, str) else ""
        return f"{name} is {value!r}, but must be {describe(hint)}{example}"
    low, high = f.metadata.get("low"), f.metadata.get("high")
    values = value if isinstance(value, tuple) else (value,)
    if any(isinstance(text, str) and ("\0" in text or encodable(text) != text) for text in values):
        return f"{name} is {value!r:.80}, which holds a NUL or a lone surrogate"
    if any(isinstance(number, float) and not math.isfinite(number) for number in values):
        return f"{name} is {value}, but must be finite"
    if low is not None and value is not None and value < low:
        return f"{name} is {value}, but must be at least {low}"
    if high is not None and value is not None and value > high:
        return f"{name} is {value}, but must be at most {high}"
    if isinstance(value, dict) and not is_json(value):
        return f"{name} is {value!r}, but must hold only text, numbers, lists and the like: a recipe is stored as JSON"
    return None


def _cross_errors(recipe: Recipe) -> Iterator[str]:
    """Yield what is wrong between fields; each sentence ends with a setting that works."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", recipe.name):
        yield f"name is {recipe.name!r}, but it names a folder: letters, digits, '.', '_' and '-', say 'my_run'"
    yield from _data_errors(recipe)
    yield from _sft_errors(recipe)
    if recipe.grpo:
        yield from _grpo_errors(recipe, recipe.grpo)
    if recipe.cpl and (policy := recipe.cpl.policy) is not None:
        server = urlsplit(policy)
        if server.scheme not in ("http", "https") or not server.hostname or server.username or not server.fragment:
            yield "cpl.policy must be a server's address with the model after a # (a key is read from the environment)"
        if recipe.cpl.leaf == "value":
            yield "cpl.leaf='value' reads the student, but cpl.policy is a server: set cpl.leaf='rollout'"
        if recipe.cpl.rounds > 1:
            yield f"cpl.rounds is {recipe.cpl.rounds}, but rounds do not improve cpl.policy's server: set cpl.rounds=1"
    if recipe.evaluate.samples > 1 and recipe.evaluate.temperature == 0:
        samples = recipe.evaluate.samples
        yield f"evaluate.samples={samples} are all the same at evaluate.temperature=0: set evaluate.temperature=0.7"


def _data_errors(recipe: Recipe) -> Iterator[str]:
    distill, corpus = recipe.distill, recipe.corpus
    if distill.teacher not in TEACHERS and "://" not in distill.teacher:
        yield f"distill.teacher is {distill.teacher!r}{nearest(distill.teacher, (*TEACHERS, 'http://...'))}"
    if "@" in distill.teacher.partition("://")[2].partition("/")[0]:
        yield "distill.teacher holds a name or a password, which would be stored: set OPENAI_API_KEY instead"
    if corpus.filter in ("plan", "both"):
        if distill.teacher == "worked":
            yield f"corpus.filter={corpus.filter!r} needs scores, and 'worked' gives none: set corpus.filter='answer'"
        elif distill.min_score is None:
            yield f"corpus.filter={corpus.filter!r} needs scores: set corpus.filter='answer', or distill.min_score=80"
    if (together := distill.plans_per_call) > distill.plans:
        yield f"distill.plans_per_call={together} is more than distill.plans: set plans_per_call={distill.plans}"
    sources = recipe.problems.source.split("+")
    if corpus.weights and len(corpus.weights) != len(sources):
        yield f"corpus.weights has {len(corpus.weights)} numbers for {len(sources)} sources: give one per source, or ()"


def _sft_errors(recipe: Recipe) -> Iterator[str]:
    if (sft := recipe.sft) is None:
        return
    if sft.target != "solution" and sft.solutions == "dataset":
        yield f"sft.target={sft.target!r} needs plans, which the dataset lacks: set sft.solutions='teacher'"
    if recipe.grpo and sft.target == "plan":
        yield "grpo rewards answers, which sft.target='plan' lacks: set sft.target='plan+solution', or grpo=none"
    if recipe.cpl and sft.target != "plan+solution":
        yield f"cpl needs more than sft.target={sft.target!r}: set sft.target='plan+solution', or cpl=none"


def _grpo_errors(recipe: Recipe, grpo: GRPO) -> Iterator[str]:
    if grpo.start == "sft" and recipe.sft is None:
        yield "grpo.start is 'sft', but sft is none: set grpo.start='base'"
    size = grpo.plans * grpo.continuations
    if grpo.reward == "guided" and grpo.group != size:
        yield f"grpo.group is {grpo.group}, but grpo.plans x grpo.continuations = {size}: set grpo.group={size}"
    if grpo.reward == "guided" and grpo.extra.get("use_vllm"):
        yield "grpo.extra.use_vllm cannot continue plans, as grpo.reward='guided' does: leave one of them out"
    rewards = (*REWARDS, *(reward.rpartition(":")[2] for reward in grpo.rewards))
    for name in grpo.weights:
        if name not in rewards:
            yield f"grpo.weights: no reward {name!r}{nearest(name, rewards)}"
    if grpo.judge == "teacher" and recipe.distill.teacher in ("worked", "self"):
        teacher = recipe.distill.teacher
        yield f"{teacher!r} cannot judge plans: set grpo.judge='alignment', or another distill.teacher"


GRPO_ROWS = 2  # completions trained at once unless grpo.extra.per_device_train_batch_size is set
CHOSEN_ON = 40  # problems on which the best prompt of an untuned model is chosen
