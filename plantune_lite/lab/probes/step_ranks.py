"""Rank a step by its probability among all steps of its kind: what the model says, with no threshold to choose.

    ranked(student, cases, worlds, seed=0)
        -> {"cases": 60, "auroc": {...}, "possible": {"value": 0.81, ...}, "impossible": {"value": 0.62, ...}}

For `stack a b`, the other steps of its kind are all of `stack ?x ?y` with the existing objects, most of which
cannot be done. A step's figure is the share of them that is less probable: 1 for the most probable one. The text before
the step is read once for all of them (with Unsloth, for each).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from random import Random
from statistics import fmean
from typing import Any

from plantune_lite.evaluate import stats
from plantune_lite.lab.probes import linear
from plantune_lite.lab.probes.cases import Case
from plantune_lite.lab.worlds.simulator import World
from plantune_lite.student.load import Loaded

_MOST = 64  # steps of a kind; of more, this many are drawn


def ranked(student: Loaded, cases: Sequence[Case], worlds: Mapping[str, World], *, seed: int) -> dict[str, Any]:
    """Rank each case, and measure whether its rank tells steps that can be done from those that cannot."""
    shares = [_share(student, case, worlds[case.problem_id], seed) for case in cases]
    valid = [case.valid for case in cases]
    ids = [case.problem_id for case in cases]
    return {
        "cases": len(cases),
        "auroc": asdict(linear.over_problems(linear.auroc, shares, valid, ids, seed=seed)),
        "possible": asdict(_mean(shares, ids, valid)),
        "impossible": asdict(_mean(shares, ids, [not is_valid for is_valid in valid])),
    }


def _mean(shares: Sequence[float], ids: Sequence[str], wanted: Sequence[bool]) -> stats.Estimate:
    of: dict[str, list[float]] = {}
    for share, id, is_wanted in zip(shares, ids, wanted, strict=True):
        if is_wanted:
            of.setdefault(id, []).append(share)
    return stats.mean([fmean(values) for values in of.values()])


def _share(student: Loaded, case: Case, world: World, seed: int) -> float:
    """Compute the share of the other steps of its kind that are less probable than a case's; ties count half."""
    kind = case.step.partition(" ")[0]
    others = [step for step in world.actions if step.partition(" ")[0] == kind and step != case.step]
    if len(others) >= _MOST:
        others = Random(f"{seed} {case.problem_id} {case.begun} {case.step}").sample(others, _MOST - 1)
    before = student.encode_chat(case.before)
    endings = [student.encode_chat(replace(case, step=step).messages)[len(before) :] for step in (case.step, *others)]
    own, *alternatives = map(sum, logprobs(student, before, endings))
    return fmean((own > score) + (own == score) / 2 for score in alternatives) if alternatives else 0.5


def logprobs(student: Loaded, before: Sequence[int], endings: Sequence[Sequence[int]]) -> list[list[float]]:
    """Compute the token log-probabilities of several continuations of one text."""
    import torch
    from transformers import DynamicCache

    model, pad = student.model, student.tokenizer.pad_token_id
    longest, read, memory = max(map(len, endings)), 0, None
    with student.answering(), torch.inference_mode():
        if student.source.backend == "plain":  # Unsloth does not take a KV cache from outside
            memory, read = DynamicCache(config=model.config), len(before) - 1
            model(torch.tensor([before[:read]], device=model.device), past_key_values=memory, logits_to_keep=1)
            memory.reorder_cache(torch.zeros(len(endings), dtype=torch.long, device=model.device))
        # Padded on the right, where no token attends to it.
        rows = [[*before[read:], *ending, *[pad] * (longest - len(ending))] for ending in endings]
        output = model(
            torch.tensor(rows, device=model.device),
            past_key_values=memory,
            use_cache=memory is not None,
            logits_to_keep=longest + 1,
        )
        logprobs_N_K_V = output.logits[:, :-1].log_softmax(-1, dtype=torch.float32)
    return [logprobs_N_K_V[row, range(len(ending)), list(ending)].tolist() for row, ending in enumerate(endings)]
