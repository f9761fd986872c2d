"""Problems that the reasoning-gym library makes, with worked solutions and templates where it has them.

drafts("gsm_symbolic", size=100, seed=0) -> 100 of (where, id, {"question": ..., "answer": 28080, "steps": [...],
                                                    "template": "variables currency days_per_week ..."})
"""

from collections.abc import Mapping
from typing import Any

from plantune_lite import practice
from plantune_lite.typed import nearest
from plantune_lite.types import MissingError, ProblemError


def gym_drafts(generator: str, *, size: int, seed: int) -> tuple[list[tuple[str, str, dict[str, Any]]], dict[str, Any]]:
    """The first problems of a generator and a seed, and where they came from."""
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise MissingError(
            f"gym:{generator} needs reasoning-gym ({error}): pip install 'plantune-lite[gym]'. "
            "One of its parts, pycosat, is built from source and needs a C compiler."
        ) from None
    from importlib.metadata import version

    if generator not in DATASETS:
        raise ProblemError(f"reasoning-gym has no generator {generator!r}{nearest(generator, sorted(DATASETS))}")
    made = reasoning_gym.create_dataset(generator, size=size, seed=seed)
    rows = [
        (f"gym:{generator} item {number}", f"{generator}/{seed}/{number}", _fields(entry))
        for number, entry in enumerate(made)
    ]
    return rows, {"generator": f"gym:{generator}", "version": version("reasoning-gym"), "seed": seed}


def _fields(entry: Mapping[str, Any]) -> dict[str, Any]:
    """gsm_symbolic works its problems out, and names their variables, which tell one template from another."""
    about = entry.get("metadata", {})
    lines = [line.strip() for line in str(about.get("answer_cot") or "").split("\n")]
    steps = [line for line in lines if line and not line.startswith("####")]
    variables = about.get("variables")
    named = "variables " + " ".join(sorted(variables)) if variables else practice.fingerprint(entry["question"])
    return {
        "question": entry["question"],
        "answer": about.get("answer_value", entry["answer"]),
        "solution": "\n".join(steps),
        "steps": steps,
        "template": named,
    }
