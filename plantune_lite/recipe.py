"""A recipe: one frozen literal that says everything about a run. Load it, override it, write it as JSON.

    RECIPE = Recipe(name="mine", problems=Problems("practice"), ..., sft=SFT(target="plan+solution"), grpo=None)
    override(RECIPE, ["sft.epochs=2", "grpo=none"])
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_type_hints

from plantune_lite import functions
from plantune_lite.records import RecipeError
from plantune_lite.typed import describe, fits, knob, nearest, parse

Format = Literal["adapter", "merged", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "lora_gguf"]


@dataclass(frozen=True)
class Problems:
    """Where the questions come from."""

    source: str  # a benchmark, "practice", "gym:NAME", a data file, or "module_or_path.py:function"; "a+b" mixes
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
        if callable(self.source):
            object.__setattr__(self, "source", functions.reference(self.source))


@dataclass(frozen=True)
class Distill:
    """Who writes the plans, how many, and which are good enough."""

    teacher: str = "self"  # "gemini", "self", "worked", or the base URL of an OpenAI-compatible server
    _: KW_ONLY
    model: str | None = None  # the teacher's model; None = the dated default
    plans: int = knob(5, low=1, high=64)
    plans_per_call: int = knob(1, low=1, high=64)
    temperature: float = knob(0.7, low=0, high=2)
    min_score: int = knob(80, low=-100, high=100)
    keep: Literal["first", "best"] = "first"
    execute: Literal["kept", "all"] = "kept"
    thinking: int | None = knob(0, low=-1)  # tokens; 0 = off, -1 = the model decides, None = its default
    max_tokens: int = knob(2048, low=16)
    max_usd: float | None = knob(None, low=0, pace=True)  # None = no limit
    requests_per_minute: int | None = knob(None, low=1, pace=True)
    tokens_per_minute: int | None = knob(None, low=1, pace=True)
    batch: bool = knob(False, pace=True)  # the provider's overnight batch mode


@dataclass(frozen=True)
class Corpus:
    """Which trajectories become training rows."""

    _: KW_ONLY
    filter: Literal["none", "plan", "answer", "both"] = "both"
    per_problem: int = knob(1, low=1)  # the best k
    spoilers: Literal["drop", "keep"] = "drop"  # plans that contain the answer or compute
    dedup: Literal["none", "exact", "minhash"] = "minhash"
    decontaminate: int = knob(13, low=0)  # words in a row shared with a suite; 0 = off
    validation: float = knob(0.05, low=0, high=0.5)  # share of problems
    weights: tuple[float, ...] = ()  # one a source; empty = as they come


@dataclass(frozen=True)
class Student:
    """The small model and its adapter."""

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


@dataclass(frozen=True)
class SFT:
    """Supervised training on the corpus."""

    _: KW_ONLY
    target: Literal["solution", "plan+solution", "plan"] = "plan+solution"  # baseline, M1, M2
    solutions: Literal["dataset", "teacher"] = "teacher"  # "solution" from "teacher" is the control
    start: str | None = None  # another run whose adapter this one goes on from
    epochs: float = knob(1.0, low=0)
    max_steps: int | None = knob(None, low=1)  # None = all epochs
    learning_rate: float = knob(2e-4, low=0, high=1)
    batch_size: int = knob(2, low=1)  # rows on the card at once
    accumulate: int = knob(4, low=1)  # batches a step
    warmup: float = knob(0.1, low=0, high=1)  # share of the steps
    weight_decay: float = knob(0.0, low=0, high=1)
    save_steps: int = knob(50, low=1, pace=True)
    logger: Literal["none", "trackio", "tensorboard", "wandb"] = knob("none", pace=True)
    extra: dict[str, object] = field(default_factory=dict)  # passed to the TRL config as is


@dataclass(frozen=True)
class CPL:
    """Search over plan steps, then Step-APO on the critical ones."""

    _: KW_ONLY
    rounds: int = knob(2, low=1)
    questions: int | None = knob(None, low=1)  # None = all
    iterations: int = knob(100, low=1)  # of the search, a question
    root_width: int = knob(5, low=2)
    width: int = knob(3, low=2)
    depth: int = knob(6, low=2)
    exploration: float = knob(1.5, low=0)  # c_puct
    temperature: float = knob(0.7, low=0, high=2)
    leaf: Literal["rollout", "value"] = "rollout"
    rollouts: int = knob(1, low=1)
    alpha: float = knob(1.0, low=0)  # weight of the value gap; 0 = step-DPO
    beta: float = knob(0.3, low=0)
    learning_rate: float = knob(1e-6, low=0, high=1)
    max_tokens: int | None = knob(None, low=1, pace=True)  # generated in all; None = no limit


@dataclass(frozen=True)
class GRPO:
    """Reinforcement on the answer, the plan, or both."""

    _: KW_ONLY
    reward: Literal["answer", "answer+plan", "guided"] = "answer+plan"
    judge: Literal["alignment", "teacher"] = "alignment"  # who compares a plan with the reference
    rewards: tuple[str, ...] = ()  # your own, "module_or_path.py:function", added to the sum
    settings: Literal["stable", "paper"] = "stable"
    start: str = "sft"  # "sft", "base", or another run
    steps: int = knob(200, low=1)
    group: int = knob(8, low=2)  # completions a prompt; guided: plans x continuations
    plans: int = knob(4, low=2)  # guided
    continuations: int = knob(3, low=1)  # guided
    prompts_per_step: int = knob(4, low=1)
    learning_rate: float = knob(1e-6, low=0, high=1)
    temperature: float = knob(1.0, low=0.01, high=2)
    max_completion: int | None = knob(None, low=16)  # tokens; None = calibrated from 16 samples
    save_steps: int = knob(25, low=1, pace=True)
    extra: dict[str, object] = field(default_factory=dict)  # passed to the TRL config as is

    def __post_init__(self) -> None:
        names = tuple(functions.reference(reward) if callable(reward) else reward for reward in self.rewards)
        object.__setattr__(self, "rewards", names)


@dataclass(frozen=True)
class Evaluate:
    """What to measure on."""

    suites: tuple[str, ...] = ("own",)  # benchmarks, or the groups own, smoke, paper, cpl, pta
    _: KW_ONLY
    limit: int | None = knob(300, low=1)  # problems a suite, seeded; None = all
    samples: int = knob(1, low=1)  # more than 1: pass@k and maj@k
    temperature: float = knob(0.0, low=0, high=2)
    max_tokens: int = knob(1024, low=16)
    interventions: bool = False  # swap, drop and withhold plans: does the plan do the work?
    allow_code: bool = False  # run what the model wrote, in a sandbox


@dataclass(frozen=True)
class Export:
    """What to hand out."""

    formats: tuple[Format, ...] = ("adapter",)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything about a run; its parts run in this order, None leaves one out."""

    name: str
    seed: int = 0
    problems: Problems
    distill: Distill = Distill()
    corpus: Corpus = Corpus()
    student: Student
    sft: SFT | None = None
    cpl: CPL | None = None
    grpo: GRPO | None = None
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    max_hours: float | None = knob(None, low=0, pace=True)  # of the whole run; None = no limit

    def __post_init__(self) -> None:
        if errors := list(_errors(self)):
            count = f"{len(errors)} errors in the recipe:\n  " if len(errors) > 1 else ""
            raise RecipeError(count + "\n  ".join(errors))


PARTS: dict[str, type] = {
    "problems": Problems,
    "distill": Distill,
    "corpus": Corpus,
    "student": Student,
    "sft": SFT,
    "cpl": CPL,
    "grpo": GRPO,
    "evaluate": Evaluate,
    "export": Export,
}
OPTIONAL = ("sft", "cpl", "grpo")


def leaves(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Every field with its dotted name; a part that is left out is one leaf, None."""
    for outer in fields(recipe):
        value = getattr(recipe, outer.name)
        if outer.name in PARTS and value is not None:
            for inner in fields(value):
                yield f"{outer.name}.{inner.name}", getattr(value, inner.name)
        else:
            yield outer.name, value


def is_pace(name: str) -> bool:
    """Whether a field only says how fast or how long: `distill.max_usd`, `max_hours`."""
    part, _, inner = name.rpartition(".")
    owner = PARTS[part] if part else Recipe
    return any(f.metadata.get("pace", False) for f in fields(owner) if f.name == inner)


# --- checking ---------------------------------------------------------------------------------------------------------


def _errors(recipe: Recipe) -> Iterator[str]:
    found = False
    for name, owner, value in _owned(recipe):
        for sentence in _field_errors(name, owner, value):
            found = True
            yield sentence
    if not found:  # cross-field checks may take the types for granted
        yield from _cross_errors(recipe)


def _owned(recipe: Recipe) -> Iterator[tuple[str, tuple[type, str], Any]]:
    for name, value in leaves(recipe):
        part, _, inner = name.rpartition(".")
        yield name, (PARTS[part] if part else Recipe, inner), value


def _field_errors(name: str, owner: tuple[type, str], value: Any) -> Iterator[str]:
    kind, inner = owner
    hint = get_type_hints(kind)[inner]
    if not fits(value, hint):
        wrong_tuple = isinstance(value, str | list) and isinstance(get_type_hints(kind)[inner], type(tuple[int, ...]))
        example = f"; write ({value!r},)" if wrong_tuple and isinstance(value, str) else ""
        yield f"{name} is {value!r}, but must be {describe(hint)}{example}"
        return
    bounds = next(f.metadata for f in fields(kind) if f.name == inner)
    low, high = bounds.get("low"), bounds.get("high")
    if isinstance(value, float) and math.isnan(value):
        yield f"{name} is not a number"
    elif low is not None and value is not None and value < low:
        yield f"{name} is {value}, but must be at least {low}"
    elif high is not None and value is not None and value > high:
        yield f"{name} is {value}, but must be at most {high}"


def _cross_errors(recipe: Recipe) -> Iterator[str]:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", recipe.name):
        yield f"name is {recipe.name!r}, but it names a folder: letters, digits, '.', '_' and '-', say 'my_run'"
    if recipe.corpus.filter in ("plan", "both") and recipe.distill.teacher == "worked":
        yield (
            f"corpus.filter is {recipe.corpus.filter!r}, but distill.teacher='worked' gives plans that nobody scored: "
            "set corpus.filter='answer'"
        )
    if recipe.distill.plans_per_call > recipe.distill.plans:
        yield (
            f"distill.plans_per_call is {recipe.distill.plans_per_call}, more than distill.plans={recipe.distill.plans}: "
            f"set distill.plans_per_call={recipe.distill.plans}"
        )
    if recipe.sft and recipe.sft.target != "solution" and recipe.sft.solutions == "dataset":
        yield (
            f"sft.solutions is 'dataset', but sft.target={recipe.sft.target!r} needs the execution of a plan: "
            "set sft.solutions='teacher'"
        )
    if recipe.grpo and recipe.grpo.start == "sft" and recipe.sft is None:
        yield "grpo.start is 'sft', but sft is none: set grpo.start='base'"
    if recipe.grpo and recipe.grpo.reward == "guided" and recipe.grpo.group != recipe.grpo.plans * recipe.grpo.continuations:
        size = recipe.grpo.plans * recipe.grpo.continuations
        yield (
            f"grpo.group is {recipe.grpo.group}, but grpo.reward='guided' makes "
            f"grpo.plans x grpo.continuations = {size}: set grpo.group={size}"
        )
    if recipe.corpus.weights and len(recipe.corpus.weights) != len(recipe.problems.source.split("+")):
        yield (
            f"corpus.weights has {len(recipe.corpus.weights)} numbers, but problems.source names "
            f"{len(recipe.problems.source.split('+'))}: give one a source, or ()"
        )


# --- overriding -------------------------------------------------------------------------------------------------------


def override(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with `part.field=value` settings applied; every error in them at once."""
    errors: list[str] = []
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            errors.append(f"{setting!r} is no setting: write part.field=value, say sft.epochs=2")
            continue
        try:
            _set(recipe, changes, name.strip(), text)
        except RecipeError as error:
            errors.append(str(error))
    if errors:
        raise RecipeError("\n".join(errors))
    return replace(recipe, **changes)


def _set(recipe: Recipe, changes: dict[str, Any], name: str, text: str) -> None:
    outer, dot, inner = name.partition(".")
    hints = get_type_hints(Recipe)
    if outer not in hints:
        raise RecipeError(f"no part or field {outer!r} in a recipe{nearest(outer, hints)}")
    if outer not in PARTS:
        changes[outer] = _parsed(name, text, hints[outer])
    elif not dot:
        changes[outer] = _whole_part(outer, text)
    else:
        part = changes.get(outer, getattr(recipe, outer))
        if part is None:
            raise RecipeError(f"{name}: this recipe has no {outer}; '{outer}=default' adds it, before {name}={text}")
        inner, _, key = inner.partition(".")
        inner_hints = get_type_hints(PARTS[outer])
        inner_names = [f.name for f in fields(PARTS[outer])]
        if inner not in inner_names:
            raise RecipeError(f"no field {inner!r} in {outer}{nearest(inner, inner_names)}")
        if key and inner == "extra":  # sft.extra.max_grad_norm=0.5
            value: Any = {**part.extra, key: _literal(text)}
        else:
            value = _parsed(name, text, inner_hints[inner])
        changes[outer] = replace(part, **{inner: value})


def _whole_part(outer: str, text: str) -> Any:
    if outer in OPTIONAL and text.lower() == "none":
        return None
    if outer in OPTIONAL and text.lower() == "default":
        return PARTS[outer]()
    choices = "'none' and 'default' are" if outer in OPTIONAL else f"{outer}.FIELD=value is"
    raise RecipeError(f"{outer}={text}: {outer} is a part of a recipe; {choices} what can be said of it")


def _parsed(name: str, text: str, hint: Any) -> Any:
    try:
        return parse(text, hint)
    except ValueError:
        if Literal in (getattr(hint, "__origin__", None),):
            raise RecipeError(f"{name} is {text!r}{nearest(text, map(str, get_args(hint)))}") from None
        raise RecipeError(f"{name} is {text!r}, but must be {describe(hint)}") from None


def _literal(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


# --- loading and storing ----------------------------------------------------------------------------------------------


def shipped() -> dict[str, Path]:
    """The recipes that come with the package: name -> file."""
    package = Path(__file__).resolve().parent
    beside = package.parent / "recipes"  # a checkout; a wheel carries them inside the package
    folder = beside if (package.parent / "pyproject.toml").is_file() and beside.is_dir() else package / "_recipes"
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def load(name_or_path: str | os.PathLike[str]) -> Recipe:
    """A recipe by shipped name, .py file (which is run) or run folder (whose recipe.json is data)."""
    path = Path(name_or_path).expanduser()
    if (path / "recipe.json").is_file():
        return from_json((path / "recipe.json").read_text(encoding="utf-8"), str(path / "recipe.json"))
    if path.suffix == ".json" and path.is_file():
        return from_json(path.read_text(encoding="utf-8"), str(path))
    if path.suffix == ".py":
        if not path.is_file():
            raise RecipeError(f"no recipe file {path}; `plantune recipes` lists those that are shipped")
        return _from_python(path)
    names = shipped()
    if str(name_or_path) in names:
        return _from_python(names[str(name_or_path)])
    if path.is_dir():
        raise RecipeError(f"{path} is a folder without a recipe.json: no run was started there")
    raise RecipeError(f"no recipe {str(name_or_path)!r}{nearest(str(name_or_path), names)}")


def _from_python(path: Path) -> Recipe:
    try:
        recipe = functions.load_module(path).__dict__.get("RECIPE")
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None
    except SyntaxError as error:
        raise RecipeError(f"{path} line {error.lineno}: {error.msg}") from None
    except TypeError as error:
        if unknown := _unknown_keywords(path):
            raise RecipeError("\n".join(unknown)) from None
        raise RecipeError(f"{path}: {error}") from error
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"{path} has no RECIPE = Recipe(...); `plantune copy smollm2_135m` writes one to start from")
    return recipe


def _unknown_keywords(path: Path) -> list[str]:
    """Every keyword of a part that does not exist, by line: Python itself stops at the first."""
    import ast

    kinds = {kind.__name__: kind for kind in (*PARTS.values(), Recipe)}
    sentences = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
            names = [f.name for f in fields(kinds[node.func.id])]
            for keyword in node.keywords:
                if keyword.arg and keyword.arg not in names:
                    missing = f"{node.func.id} has no field {keyword.arg!r}{nearest(keyword.arg, names)}"
                    sentences.append(f"{path} line {keyword.value.lineno}: {missing}")
    return sentences


def to_json(recipe: Recipe) -> str:
    """The recipe as data."""
    return json.dumps({"format": 1, **asdict(recipe)}, indent=2, ensure_ascii=False) + "\n"


def from_json(text: str, where: str = "recipe.json") -> Recipe:
    """The recipe that `to_json` wrote; nothing in it is run."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecipeError(f"{where} line {error.lineno}: not JSON ({error.msg})") from None
    if not isinstance(data, dict) or data.pop("format", None) != 1:
        raise RecipeError(f"{where} is not a recipe of this version (format 1)")
    errors: list[str] = []
    values: dict[str, Any] = {}
    for name, value in data.items():
        if name not in (known := [f.name for f in fields(Recipe)]):
            errors.append(f"{where}: no part or field {name!r}{nearest(name, known)}")
        elif name in PARTS and isinstance(value, dict):
            inner_known = [f.name for f in fields(PARTS[name])]
            errors += [f"{where}: no field {key!r} in {name}{nearest(key, inner_known)}" for key in value.keys() - set(inner_known)]
            inner = {key: tuple(item) if isinstance(item, list) else item for key, item in value.items() if key in inner_known}
            try:
                values[name] = PARTS[name](**inner)
            except TypeError as error:
                errors.append(f"{where}: {name}: {error}")
        else:
            values[name] = value
    missing = [f.name for f in fields(Recipe) if f.name in ("name", "problems", "student") and f.name not in data]
    errors += [f"{where}: no {name}" for name in missing]
    if errors:
        raise RecipeError("\n".join(errors))
    return Recipe(**values)
