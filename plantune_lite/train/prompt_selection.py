"""Select GRPO prompts that the student solves sometimes; calibrate the maximum answer length.

    rows, room = askable(student, rows, 512, print)                         what fits, and the tokens left for an answer
    most = calibrated(student, rows, room, Path("calibration.json"), part, training)         176
    rows = solved_at_times(student, rows, right_answer, Path("pass_rates.jsonl"), part, training)   one line a prompt:

    {"problem_id": "practice/train/7", "passed": 3, "asked": 8}

A prompt that is solved always or never teaches nothing, since all answers of its group earn the same. Only a share of
the run's answers is spent on sampling, so unsampled prompts make up the rest: a few prompts repeated many times would
be memorised. Both measurements sample from the start policy, so the results are saved: a resumed run does not sample
again.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from plantune_lite.files import JsonlWriter, read_jsonl, write_whole
from plantune_lite.recipe.schema import GRPO
from plantune_lite.runs.job import Training
from plantune_lite.student import chat
from plantune_lite.student.load import Loaded
from plantune_lite.train.data import LessonError, check_left
from plantune_lite.types import Reply, Reward, Sampling, present

Row = Mapping[str, Any]

LEAST = 64  # minimum tokens for an answer
OUTLIER = 1.25  # times the length of the 95th percentile: left out
SAMPLES = 16  # answers whose lengths are measured
SHARE = 0.25  # maximum share of the run's answers spent on pass rates
SHARE_OF_TIME = 0.15  # and of its time
_AT_ONCE = 8  # prompts sampled at once


# --- prompts that fit -------------------------------------------------------------------------------------------------


def askable(
    student: Loaded, rows: Sequence[Row], max_length: int, say: Callable[[str], object]
) -> tuple[list[Row], int]:
    """Return the prompts that leave room for an answer, and that room; TRL must encode them to the same token ids."""
    tokenizer = student.tokenizer
    control = chat.control_tokens(tokenizer)
    kept, longest, dropped = [], 0, Counter[str]()
    encoded = [student.encode_chat(tuple(row["prompt"]), for_reply=True) for row in rows]
    # The longest prompt limits every answer: a few outliers must not shorten them all.
    usual = sorted(map(len, encoded))[95 * (len(rows) - 1) // 100] if rows else 0
    for row, ids in zip(rows, encoded, strict=True):
        if any(token in message["content"] for message in row["prompt"] for token in control):
            dropped["control tokens in the text"] += 1  # we would leave them out, TRL would not
        elif len(ids) + LEAST > max_length:
            dropped[f"longer than {max_length - LEAST} tokens"] += 1
        elif len(ids) > OUTLIER * usual:
            dropped[f"longer than {OUTLIER * usual:.0f} tokens, far more than the others"] += 1
        elif _as_trl_asks(tokenizer, row["prompt"]) != ids:
            raise LessonError(
                f"TRL encodes {row['problem_id']} to other tokens than training and evaluation do. Install the "
                "versions that plantune doctor names."
            )
        else:
            kept.append(row)
            longest = max(longest, len(ids))
    check_left("asked", kept, dropped, "corpus/prompts.jsonl", say)
    return kept, max_length - longest


def _as_trl_asks(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Encode a conversation as TRL's trainer does."""
    encoded = tokenizer.apply_chat_template(
        conversation=[list(messages)], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return list(encoded["input_ids"][0])


# --- the maximum answer length ----------------------------------------------------------------------------------------


def calibrated(student: Loaded, rows: Sequence[Row], room: int, file: Path, part: GRPO, training: Training) -> int:
    """Return the 95th percentile of the lengths of answers that end: more would cost time and rarely be used."""
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))["max_completion"]
    order = Random(training.seed).sample(range(len(rows)), min(SAMPLES, len(rows)))
    asked = [tuple(rows[order[number % len(order)]]["prompt"]) for number in range(SAMPLES)]
    sampling = Sampling(temperature=part.temperature, max_tokens=room, seed=training.seed)
    replies = [reply for [reply] in student.generate(asked, sampling)]
    ended = sorted(reply.tokens_out for reply in replies if reply.finish == "stop")
    most, say = room, training.reporter.say
    if 2 * len(ended) > SAMPLES:
        longest = ended[-(-95 * len(ended) // 100) - 1]
        most = min(room, max(LEAST, -(-longest // 16) * 16))
    else:
        say(
            f"warning: most answers do not end within the {room} tokens that student.max_length leaves: run an SFT "
            "first, which teaches the student to end (grpo.start=sft)"
        )
    write_whole(file, json.dumps({"max_completion": most, "room": room, "ended": len(ended)}) + "\n")
    say(f"{len(ended)} of {SAMPLES} sampled answers ended: an answer may have {most} tokens (grpo.max_completion)")
    return most


# --- prompts that are solved sometimes --------------------------------------------------------------------------------


def solved_at_times(
    student: Loaded, rows: Sequence[Row], passed: Reward, file: Path, part: GRPO, training: Training
) -> list[Row]:
    """Return the prompts that are solved sometimes, and others where these alone would repeat too often."""
    draws = part.steps * part.prompts_per_step
    shuffled = Random(training.seed).sample(rows, len(rows))
    looked = shuffled[: max(2 * _AT_ONCE, round(SHARE * draws))]
    known = {row["problem_id"]: row["passed"] for row in read_jsonl(file)} if file.is_file() else {}
    ends = None if training.hours is None else time.monotonic() + SHARE_OF_TIME * training.hours * 3600
    left = [row for row in looked if row["problem_id"] not in known]
    sampling = Sampling(
        temperature=part.temperature, n=part.group, max_tokens=present(part.max_completion), seed=training.seed
    )
    with JsonlWriter(file) as writer:
        for start in range(0, len(left), _AT_ONCE):
            if ends is not None and time.monotonic() > ends and known:
                break
            some = left[start : start + _AT_ONCE]
            replies_P_n = student.generate([tuple(row["prompt"]) for row in some], sampling)
            for row, count in zip(some, _passes(passed, student, some, replies_P_n), strict=True):
                known[row["problem_id"]] = count
                writer.write({"problem_id": row["problem_id"], "passed": count, "asked": part.group})
            line = f"which prompts are solved sometimes: {len(known)} of {len(looked)} sampled"
            training.reporter.show(line, start + _AT_ONCE >= len(left))
    passes = [(row, known[row["problem_id"]]) for row in looked if row["problem_id"] in known]
    kept = _kept(passes, part.group, training)
    others = [row for row in shuffled if row["problem_id"] not in known][: max(0, draws - len(kept))]
    if others:
        training.reporter.say(f"{len(others)} unsampled prompts are added, so that none repeats more than necessary")
    return kept + others


def _passes(passed: Reward, student: Loaded, rows: Sequence[Row], replies_P_n: Sequence[Sequence[Reply]]) -> list[int]:
    """Count each prompt's passing answers, calling the reward as TRL would."""
    samples = [(row, reply) for row, replies in zip(rows, replies_P_n, strict=True) for reply in replies]
    columns = {name: [row[name] for row, _ in samples] for name in rows[0] if name not in ("prompt", "completion")}
    end = student.tokenizer.convert_tokens_to_ids([student.preset.turn_end])
    worth = passed(
        prompts=[list(row["prompt"]) for row, _ in samples],
        completions=[[{"role": "assistant", "content": reply.text}] for _, reply in samples],
        completion_ids=[[*reply.token_ids, *(end if reply.finish == "stop" else [])] for _, reply in samples],
        **columns,
    )
    each = len(replies_P_n[0])
    right = [reward is not None and reward > 0 for reward in worth]
    return [sum(right[start : start + each]) for start in range(0, len(right), each)]


def _kept(passed: Sequence[tuple[Row, int]], group: int, training: Training) -> list[Row]:
    """Keep the prompts that are solved sometimes; raise where there is none."""
    kept = [row for row, count in passed if 0 < count < group]
    never = sum(count == 0 for _, count in passed)
    counts = f"{len(passed)} prompts the student solves {never} never and {len(passed) - len(kept) - never} always"
    if not kept:
        raise LessonError(
            f"nothing to reinforce: of {counts}. Where it solves none, train it longer first (sft.max_steps or "
            "sft.epochs, grpo.start=sft) or sample more (grpo.group, grpo.temperature); where all, use harder problems "
            "(problems.levels, problems.source) or skip GRPO (grpo=none)."
        )
    training.reporter.say(f"{len(kept)} prompts are solved sometimes and trained on: of {counts}")
    return kept
