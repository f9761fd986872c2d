"""Measure distillation against a local fake Gemini: speed, calls, memory, and what it keeps under faults and kills.

The server is tests/support/fake_gemini.py in its own process, the client the real google-genai, the problems practice.
`python -m benchmarks.distill` runs all parts; `python -m benchmarks.distill speed storm` some of them.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from benchmarks.report import HERE, machine, markdown, write
from plantune_lite import Distill, Problems
from plantune_lite.distill.prompts import CONSTRAINTS, EXECUTE, PLAN, SCORE, reply_shapes
from plantune_lite.distill.run import Teaching, distill_all
from plantune_lite.files import read_jsonl, write_records
from plantune_lite.plan import question_text, render
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.teacher.ledger import Ledger
from plantune_lite.teacher.models import DEFAULT_MODEL, MODELS
from plantune_lite.teacher.rate_limit import Pace
from plantune_lite.teacher.teacher import open_teacher
from plantune_lite.types import Problem

AT_ONCE = 32
SERVER = HERE.parent / "tests" / "support" / "fake_gemini.py"


# --- the server and a run against it ----------------------------------------------------------------------------------


@contextmanager
def server(folder: Path, problems: list[Problem], *more: str, **settings: Any) -> Iterator[str]:
    """Start a fake Gemini that knows the answers and yield its address."""
    known = folder / "known.jsonl"
    write_records(known, problems)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    command = [sys.executable, "-u", str(SERVER), "--problems", str(known), *options, *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.kill()
        process.wait()


def environ(url: str) -> dict[str, str]:
    return {"GOOGLE_GEMINI_BASE_URL": url, "GEMINI_API_KEY": "test-key"}


def stats(url: str) -> dict[str, Any]:
    with urlopen(f"{url}/_stats") as reply:
        return json.load(reply)


def run(out: Path, url: str, problems: list[Problem], record: list | None = None, **part: Any) -> dict[str, Any]:
    """Distil as the stage does and return wall seconds, summary and totals."""
    part = Distill("gemini", **part)

    async def go() -> dict[str, Any]:
        with Ledger(out.parent / "calls.sqlite", run=out.name) as ledger:
            pace = Pace(start=AT_ONCE, most=AT_ONCE)
            async with open_teacher(part, ledger, environ=environ(url), pace=pace) as teacher:

                async def ask(messages, sampling, schema):
                    if record is not None:
                        record.append((messages, sampling, schema))
                    return await teacher(messages, sampling, schema)

                began = time.monotonic()
                summary = await distill_all(problems, Teaching(ask, DEFAULT_MODEL), part, out)
                return {**summary, **ledger.totals(), "seconds": time.monotonic() - began}

    out.mkdir(parents=True, exist_ok=True)
    return asyncio.run(go())


# --- speed ------------------------------------------------------------------------------------------------------------


async def bare(url: str, calls: list[tuple[str, str, float, type | None]]) -> float:
    """Time the same calls through plain google-genai, AT_ONCE at a time, parsing and keeping nothing."""
    from google import genai
    from google.genai import types

    client = genai.Client(api_key="test-key", http_options=types.HttpOptions(base_url=url, api_version="v1beta"))
    slots = asyncio.Semaphore(AT_ONCE)

    async def call(system: str, text: str, temperature: float, schema: type | None) -> None:
        config = types.GenerateContentConfig(
            system_instruction=system,
            temperature=temperature,
            max_output_tokens=2048,
            thinking_config=types.ThinkingConfig(thinking_level=MODELS[DEFAULT_MODEL].least),
            **({"response_mime_type": "application/json", "response_schema": schema} if schema else {}),
        )
        async with slots:
            await client.aio.models.generate_content(model=DEFAULT_MODEL, contents=text, config=config)

    began = time.monotonic()
    await asyncio.gather(*(call(*arguments) for arguments in calls))
    seconds = time.monotonic() - began
    await client.aio.aclose()
    return seconds


def one_after_another(url: str, problems: list[Problem]) -> float:
    """Time the paper's released loop: constraints, five plans, five scores, five executions, each awaited."""
    from google import genai
    from google.genai import types

    client = genai.Client(api_key="test-key", http_options=types.HttpOptions(base_url=url, api_version="v1beta"))

    def ask(text: str, temperature: float = 0.0, schema: type | None = None) -> str:
        config = types.GenerateContentConfig(
            temperature=temperature,
            max_output_tokens=2048,
            **({"response_mime_type": "application/json", "response_schema": schema} if schema else {}),
        )
        return client.models.generate_content(model=DEFAULT_MODEL, contents=text, config=config).text

    began = time.monotonic()
    for problem in problems:
        text = question_text(problem)
        constraints = ask(CONSTRAINTS.format(problem=text))
        plans = [ask(PLAN.format(problem=text, direction=""), 0.7) for _ in range(5)]
        for plan in plans:
            ask(SCORE.format(problem=text, constraints=constraints, plans=render([plan])), schema=reply_shapes()[0])
        for plan in plans:
            ask(EXECUTE.format(problem=text, plan=render([plan])))
    return time.monotonic() - began


def speed(folder: Path) -> tuple[dict[str, Any], str]:
    """Compare wall time with the sequential loop and, alternating, with plain google-genai."""
    problems = list(practice_problems("train", seed=1, limit=300))
    few = problems[:8]
    rounds = []
    with server(folder, problems, latency_ms=200, jitter_ms=100, acceptance=0.6, requests_per_minute=12_000) as url:
        for number in range(3):
            record: list = []
            ours = run(folder / f"speed{number}" / "r", url, problems, record)
            calls = []
            sampled = Counter()
            for (system, user), sampling, schema in record:  # n grows by one per call: one new sample each
                new = sampling.n - sampled[user["content"]]
                calls += [(system["content"], user["content"], sampling.temperature, schema)] * new
                sampled[user["content"]] = max(sampled[user["content"]], sampling.n)
            floor = asyncio.run(bare(url, calls))
            rounds.append(
                {
                    "ours_seconds": ours["seconds"],
                    "ours_calls": ours["calls"],
                    "floor_seconds": floor,
                    "floor_calls": len(calls),
                    "of_floor": (ours["calls"] / ours["seconds"]) / (len(calls) / floor),
                    "kept": ours["problems_kept"],
                }
            )
        sequential = one_after_another(url, few) / len(few) * len(problems)
    of_floor = sorted(each["of_floor"] for each in rounds)
    seconds = sorted(each["ours_seconds"] for each in rounds)
    results = {"rounds": rounds, "sequential_seconds": sequential, "sequential_measured_on": len(few)}
    rows = [
        ("the paper's loop, one call after another (8 problems, scaled to 300)", f"{sequential:.0f} s", "1"),
        ("ours, with ledger, limits, parsing", f"{seconds[1]:.1f} s", f"{sequential / seconds[1]:.0f} times as fast"),
        (
            "ours compared with the same calls through plain google-genai, 32 at a time",
            f"{of_floor[1]:.3f} of its calls a second",
            f"{of_floor[0]:.3f} to {of_floor[2]:.3f}",
        ),
    ]
    return results, "## Speed\n\n" + markdown(("300 problems, 200 +- 100 ms per reply", "median of 3", ""), rows)


# --- calls ------------------------------------------------------------------------------------------------------------


def calls(folder: Path) -> tuple[dict[str, Any], str]:
    """Count calls and tokens per kept problem for each keep rule, compared with the paper's loop."""
    problems = list(practice_problems("train", seed=2, limit=150))
    rules = {
        "paper's loop, all executed": {"keep": "best", "execute": "all"},
        "best": {"keep": "best"},
        "first": {"keep": "first"},
        "first, plans and scores in one call": {"keep": "first", "plans_per_call": 5},
    }
    rows, results = [], []
    for acceptance in (0.3, 0.6, 0.9):
        with server(folder, problems, acceptance=acceptance) as url:
            base = None
            for name, rule in rules.items():
                out = folder / f"calls{acceptance}" / name.replace(" ", "_").replace(",", "").replace("'", "") / "r"
                figures = run(out, url, problems, **rule)
                tokens = figures["tokens_in"] + figures["tokens_out"] + figures["tokens_thought"]
                kept = max(1, figures["problems_kept"])
                each = (figures["calls"] / kept, tokens / kept)
                base = base or each
                results.append({"acceptance": acceptance, "rule": name, **figures})
                rows.append(
                    (
                        f"{acceptance:.0%}",
                        name,
                        f"{figures['problems_kept']} of {len(problems)}",
                        f"{each[0]:.1f}",
                        f"{each[0] / base[0]:.2f}",
                        f"{each[1]:.0f}",
                        f"{each[1] / base[1]:.2f}",
                    )
                )
    head = ("plans accepted", "rule", "problems kept", "calls per kept problem", "of the paper's")
    return {"runs": results}, "## Calls\n\n" + markdown((*head, "tokens", "of the paper's"), rows)


# --- memory -----------------------------------------------------------------------------------------------------------


def memory(folder: Path) -> tuple[dict[str, Any], str]:
    """Measure the peak memory at 1,000 and at 10,000 problems, and the ledger's share of the time."""
    rows, results = [], []
    for count in (1_000, 10_000):
        problems = list(practice_problems("train", seed=3, limit=count))
        with server(folder, problems, acceptance=0.9) as url:
            out = folder / f"memory{count}" / "r"
            command = [sys.executable, "-m", "benchmarks.distill", "--memory", str(out), url, str(count)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        figures = json.loads(output.splitlines()[-1])
        results.append({"problems": count, **figures})
        calls, peak = figures["calls"], f"{figures['peak_mb']:.0f} MB"
        rates = (f"{calls / figures['seconds']:.0f}", f"{figures['ledger_a_second']:.0f}")
        rows.append((f"{count:,}", peak, f"{calls:,}", *rates))
    head = ("problems", "peak memory", "calls", "calls per second", "by the ledger alone")
    return {"runs": results}, "## Memory\n\n" + markdown(head, rows)


def memory_run(out: str, url: str, count: str) -> None:
    """Distil in the process that `memory` starts."""
    figures = run(Path(out), url, list(practice_problems("train", seed=3, limit=int(count))))
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))

    async def ledger_alone() -> float:
        with Ledger(Path(out).parent / "alone.sqlite", run="r") as ledger:
            numbers = iter(range(5_000))

            async def work() -> None:
                for number in numbers:
                    await ledger.reserve(str(number), model="m", worst_usd=0)
                    await ledger.settle(str(number), None, outcome="x" * 500, usd=0)

            began = time.monotonic()
            await asyncio.gather(*(work() for _ in range(AT_ONCE)))
            return 5_000 / (time.monotonic() - began)

    print(json.dumps({**figures, "peak_mb": peak / 1024, "ledger_a_second": asyncio.run(ledger_alone())}))


# --- storm ------------------------------------------------------------------------------------------------------------


def storm(folder: Path) -> tuple[dict[str, Any], str]:
    """Fail three replies in ten, kill the process ten times, and compare what is kept with an undisturbed run."""
    problems = list(practice_problems("train", seed=4, limit=200))
    kept, requests = {}, {}
    rng = random.Random(0)
    kills = 0
    permanent = [f"--fault={kind}=0.01" for kind in ("blocked", "safety")]  # the same in both runs
    temporary = [f"--fault={kind}=0.04" for kind in ("429", "503", "reset", "torn", "html", "empty", "unfit")]
    for name, faults in (("undisturbed", permanent), ("storm", [*permanent, *temporary])):
        out = folder / name / "r"
        with server(folder, problems, *faults, acceptance=0.6, latency_ms=60, retry_seconds=0.02) as url:
            command = [sys.executable, "-m", "benchmarks.distill", "--storm", str(out), url]
            while True:
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                try:
                    limit = rng.uniform(1.2, 2.2) if name == "storm" and kills < 10 else 300
                    _, errors = process.communicate(timeout=limit)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.communicate()
                    kills += 1
                    continue
                if process.returncode:
                    raise RuntimeError(errors)
                break
            requests[name] = {key: value for key, value in stats(url).items() if isinstance(value, int)}
        rows = read_jsonl(out / "trajectories.jsonl")
        kept[name] = sorted((row["problem_id"], row["sample"], tuple(row["plan"]), row["answer"]) for row in rows)
    lost = [row for row in kept["undisturbed"] if row not in kept["storm"]]
    more = [row for row in kept["storm"] if row not in kept["undisturbed"]]
    results = {
        "kills": kills,
        "kept_undisturbed": len(kept["undisturbed"]),
        "kept_storm": len(kept["storm"]),
        "only_undisturbed": len(lost),
        "only_storm": len(more),
        "requests": requests,
    }
    lines = [
        f"- killed {kills} times; plans kept: undisturbed {len(kept['undisturbed'])}, storm {len(kept['storm'])}; "
        f"only undisturbed {len(lost)}, only storm {len(more)}",
        f"- requests: undisturbed {requests['undisturbed']['requests']}, storm {requests['storm']['requests']}; "
        f"samples answered twice because a kill hit them in flight (at most {AT_ONCE} per kill): "
        f"{requests['storm']['answered_again']}",
        "- 28 in 100 replies failed temporarily (429, 503, reset, torn, HTML, empty, unfit), 2 in 100 permanently",
    ]
    return results, "## Storm\n\n" + "\n".join(lines)


def storm_run(out: str, url: str) -> None:
    """Distil in the process that `storm` kills."""
    run(Path(out), url, list(practice_problems("train", seed=4, limit=200)))


# --- real problems ----------------------------------------------------------------------------------------------------


def worked(folder: Path) -> tuple[dict[str, Any], str]:
    """Turn the worked solutions of 500 gsm8k train problems into plans, and show ten."""
    if not os.environ.get("PLANTUNE_DATA"):
        return {"left_out": "PLANTUNE_DATA is not set"}, "## Worked solutions\n\nNot run: PLANTUNE_DATA is not set."
    from plantune_lite.problems.load import load_problems

    pool = load_problems(Problems("gsm8k", limit=500), seed=0).pool
    summary = asyncio.run(distill_all(pool, None, Distill("worked"), folder))
    rows = list(read_jsonl(folder / "trajectories.jsonl"))
    ten = random.Random(0).sample(rows, 10)
    texts = [f"{row['question']}\n\n{render(row['plan'], row['execution'])}" for row in ten]
    shown = "\n\n".join(f"```text\n{text}\n```" for text in texts)
    title = "## Worked solutions\n\n500 gsm8k train problems"
    return {"summary": summary}, f"{title}: {summary['line']}. Ten examples:\n\n{shown}"


PARTS = {"speed": speed, "calls": calls, "memory": memory, "storm": storm, "worked": worked}


def main(names: list[str]) -> None:
    saved = HERE / "distill.json"
    before = json.loads(saved.read_text(encoding="utf-8")) if saved.exists() else {}
    parts, texts = dict(before.get("parts", {})), dict(before.get("texts", {}))
    for name in names or PARTS:
        folder = Path(tempfile.mkdtemp())
        try:
            parts[name], texts[name] = PARTS[name](folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    write(
        "distill",
        command="PLANTUNE_DATA=FOLDER python -m benchmarks.distill",
        about="Distillation against tests/support/fake_gemini.py on this machine, through the real google-genai.",
        found={"machine": machine("google-genai"), "parts": parts, "texts": texts},
        text="\n\n".join(texts[name] for name in PARTS if name in texts),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        memory_run(*sys.argv[2:])
    elif sys.argv[1:2] == ["--storm"]:
        storm_run(*sys.argv[2:])
    else:
        main(sys.argv[1:])
