"""What a reinforcement asks: how long an answer may become, and which prompts the student solves at times.

    rows, room = askable(student, rows, max_length=512)           what fits, and the tokens left for an answer
    most = calibrated(student, rows, room, Path("calibration.json"), ...)         176
    rows = solved_at_times(student, rows, right_answer, ...)      one line of pass_rates.jsonl a prompt looked at:

    {"problem_id": "practice/train/7", "passed": 3, "asked": 8}

What is solved always or never teaches nothing, since all answers of its group are worth the same. Both looks cost
answers of the start policy, so what they found is kept: a run that goes on does not look again.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from plantune_lite.files import JsonlWriter, read_jsonl, write_whole
from plantune_lite.types import LoadedStudent, PlantuneError, Reply, Reward, Sampling

Row = Mapping[str, Any]
Say = Callable[[str], object]

LEAST = 64  # tokens an answer is allowed at least
OUTLIER = 1.25  # times as long as 95 % of the prompts: left out
SAMPLES = 16  # answers whose lengths are looked at
SHARE = 0.25  # of the run's own answers may be spent on pass rates, at most
SHARE_OF_TIME = 0.15  # and of its time
_AT_ONCE = 8  # prompts between two lines of pass_rates.jsonl


class PromptError(PlantuneError, ValueError):
    """Prompts that nothing can be learned from."""


# --- what can be asked ------------------------------------------------------------------------------------------------


def askable(student: LoadedStudent, rows: Sequence[Row], max_length: int, say: Say) -> tuple[list[Row], int]:
    """The prompts that leave room for an answer, and that room; all of them in the ids that TRL will make of them."""
    tokenizer = student.tokenizer
    control = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    kept, longest, dropped = [], 0, Counter[str]()
    encoded = [student.encode_chat(tuple(row["prompt"]), for_reply=True) for row in rows]
    # What the longest prompt leaves is all that any answer may have: a few outliers must not shorten them all.
    usual = sorted(map(len, encoded))[95 * (len(rows) - 1) // 100] if rows else 0
    for row, ids in zip(rows, encoded, strict=True):
        messages = tuple(row["prompt"])
        if any(token in message["content"] for message in messages for token in control):
            dropped["control tokens in the text"] += 1  # we would leave them out, TRL would not
        elif len(ids) + LEAST > max_length:
            dropped[f"longer than {max_length - LEAST} tokens"] += 1
        elif len(ids) > OUTLIER * usual:
            dropped[f"longer than {OUTLIER * usual:.0f} tokens, far more than the others"] += 1
        elif (theirs := _as_trl_asks(tokenizer, messages)) != ids:
            raise PromptError(
                f"TRL would ask {row['problem_id']} in other tokens than training and evaluation do: it begins "
                f"{theirs[:8]}, ours {ids[:8]}. Install the versions that plantune doctor names."
            )
        else:
            kept.append(row)
            longest = max(longest, len(ids))
    reasons = ", ".join(f"{number} {reason}" for reason, number in dropped.items())
    if not kept:
        advice = "Raise student.max_length." if "longer" in reasons else "Look at what is in corpus/prompts.jsonl."
        raise PromptError(f"none of the {len(rows)} prompts can be asked: {reasons or 'there are none'}. {advice}")
    if dropped:
        say(f"{dropped.total()} of {len(rows)} prompts left out: {reasons}")
    return kept, max_length - longest


def _as_trl_asks(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """What TRL's trainer makes of a conversation."""
    asked = tokenizer.apply_chat_template(
        conversation=[list(messages)], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return list(asked["input_ids"][0])


# --- how long an answer may become ------------------------------------------------------------------------------------


def calibrated(
    student: LoadedStudent, rows: Sequence[Row], room: int, file: Path, *, temperature: float, seed: int, say: Say
) -> int:
    """How long nearly all answers are that end: what is allowed beyond that is paid for and rarely used."""
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))["max_completion"]
    order = Random(seed).sample(range(len(rows)), min(SAMPLES, len(rows)))
    asked = [tuple(rows[order[number % len(order)]]["prompt"]) for number in range(SAMPLES)]
    sampling = Sampling(temperature=temperature, max_tokens=room, seed=seed)
    replies = [reply for [reply] in student.generate(asked, sampling)]
    ended = sorted(reply.tokens_out for reply in replies if reply.finish == "stop")
    most = room
    if 2 * len(ended) > SAMPLES:
        longest = ended[-(-95 * len(ended) // 100) - 1]
        most = min(room, max(LEAST, -(-longest // 16) * 16))
    lengths = [reply.tokens_out for reply in replies]
    write_whole(
        file, json.dumps({"max_completion": most, "room": room, "ended": len(ended), "lengths": lengths}) + "\n"
    )
    said = f"95 % of them within {most} tokens" if ended else "none of them"
    say(f"{len(ended)} of {SAMPLES} sampled answers ended, {said}: an answer may have {most} (grpo.max_completion)")
    if 2 * len(ended) <= SAMPLES:
        say(
            f"warning: most answers do not end within {room} tokens, which is all that student.max_length leaves: an "
            "SFT before it teaches a student to end (grpo.start=sft)"
        )
    return most


# --- which prompts are solved at times --------------------------------------------------------------------------------


def solved_at_times(
    student: LoadedStudent,
    rows: Sequence[Row],
    passed: Reward,
    file: Path,
    *,
    answers: int,
    draws: int,
    max_completion: int,
    temperature: float,
    seed: int,
    hours: float | None,
    show: Callable[[str, bool], object],
    say: Say,
) -> list[Row]:
    """The prompts whose answers pass at times and at times not, of as many as a run of so many draws is worth."""
    order = Random(seed).sample(range(len(rows)), len(rows))
    looked = order[: max(2 * _AT_ONCE, round(SHARE * draws))]
    known = {row["problem_id"]: row for row in read_jsonl(file)} if file.is_file() else {}
    ends = None if hours is None else time.monotonic() + SHARE_OF_TIME * hours * 3600
    left = [place for place in looked if rows[place]["problem_id"] not in known]
    with JsonlWriter(file) as writer:
        for start in range(0, len(left), _AT_ONCE):
            if ends is not None and time.monotonic() > ends and known:
                break
            some = [rows[place] for place in left[start : start + _AT_ONCE]]
            sampling = Sampling(temperature=temperature, n=answers, max_tokens=max_completion, seed=seed)
            replies_P_n = student.generate([tuple(row["prompt"]) for row in some], sampling)
            for row, count in zip(some, _passes(passed, student, some, replies_P_n), strict=True):
                found = {"problem_id": row["problem_id"], "passed": count, "asked": answers}
                known[row["problem_id"]] = found
                writer.write(found)
            done = start + _AT_ONCE >= len(left)
            show(f"which prompts are solved at times: {len(known)} of {len(looked)} looked at", done)
    return _kept([rows[place] for place in looked], known, say)


def _passes(
    passed: Reward, student: LoadedStudent, rows: Sequence[Row], replies_P_n: Sequence[Sequence[Reply]]
) -> list[int]:
    """How many of each prompt's answers pass: a reward is asked as TRL would ask it."""
    asked = [(row, reply) for row, replies in zip(rows, replies_P_n, strict=True) for reply in replies]
    columns = {name: [row[name] for row, _ in asked] for name in rows[0] if name not in ("prompt", "completion")}
    end = student.tokenizer.convert_tokens_to_ids([student.preset.turn_end])
    worth = passed(
        prompts=[list(row["prompt"]) for row, _ in asked],
        completions=[[{"role": "assistant", "content": reply.text}] for _, reply in asked],
        completion_ids=[[*reply.token_ids, *(end if reply.finish == "stop" else [])] for _, reply in asked],
        **columns,
    )
    each = len(replies_P_n[0])
    right = [one is not None and one > 0 for one in worth]
    return [sum(right[start : start + each]) for start in range(0, len(right), each)]


def _kept(looked: Sequence[Row], known: Mapping[str, Row], say: Say) -> list[Row]:
    """What is solved at times, said in a sentence; an error where there is nothing of the kind."""
    rates = [(row, known[row["problem_id"]]) for row in looked if row["problem_id"] in known]
    never = sum(rate["passed"] == 0 for _, rate in rates)
    always = sum(rate["passed"] == rate["asked"] for _, rate in rates)
    kept = [row for row, rate in rates if 0 < rate["passed"] < rate["asked"]]
    asked = rates[0][1]["asked"]
    if not kept and always > never:
        raise PromptError(
            f"nothing to reinforce: of {len(rates)} prompts the student solves {always} in all of {asked} answers, "
            f"{never} in none. Take harder problems (problems.levels, problems.source), or leave it there (grpo=none)."
        )
    if not kept:
        raise PromptError(
            f"nothing to reinforce: of {len(rates)} prompts the student solves {never} in none of {asked} answers, "
            f"{always} in all. Let it learn more before (sft.max_steps or sft.epochs, grpo.start=sft), take easier "
            "problems, or let it try more (grpo.group, grpo.temperature)."
        )
    say(
        f"{len(kept)} of {len(rates)} prompts are solved at times ({asked} answers each) and are trained on; left out: "
        f"{never} never solved, {always} always"
    )
    return kept
