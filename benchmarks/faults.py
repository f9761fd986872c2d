"""Break servers, processes and inputs at random from one seed; count what is lost, repeated or paid twice.

    python -m benchmarks.faults                    # all parts
    python -m benchmarks.faults servers inputs     # some of them

Servers: the fake Gemini and OpenAI-compatible servers of tests/support, through the real clients. Kills: SIGKILL of
`plantune run` and its stages at moments drawn from the seed, then the same command again. Inputs: those of the tests.
"""

import asyncio
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from benchmarks.report import HERE, machine, markdown, write
from plantune_lite.files import read_jsonl
from plantune_lite.plan import chat
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.recipe.schema import Distill
from plantune_lite.runs.manifest import read_manifest
from plantune_lite.student import presets
from plantune_lite.teacher.gemini import Gemini
from plantune_lite.teacher.ledger import Ledger
from plantune_lite.teacher.models import DEFAULT_MODEL, price_of
from plantune_lite.teacher.openai import OpenAICompatible
from plantune_lite.teacher.provider import Price
from plantune_lite.teacher.rate_limit import Pace
from plantune_lite.teacher.teacher import open_teacher
from plantune_lite.types import PlantuneError, Sampling

TESTS = HERE.parent / "tests"
sys.path.append(str(TESTS / "support"))

from fake_gemini import FakeGemini  # noqa: E402
from fake_openai import FakeOpenAI  # noqa: E402
from fake_teacher import GARBLED, Faults, Loopback, Mind  # noqa: E402

SEED, KEY, KILLS, INPUTS = 27, "marker-key-of-the-benchmark", 10, 700
WRONG = ("lost", "repeated", "paid twice", "tracebacks", "hangs")
HEAD = ("test", "number", *WRONG)
SECONDS = 60.0  # a call that takes longer hangs
BOTH = (*GARBLED, "reset", "torn", "html", "empty", "safety", "half", "no_usage", "slow", "unfit", "number", "worded")
KINDS = {
    FakeGemini: (*BOTH, "429", "503", "500", "400", "blocked", "recitation", "other", "thoughts", "max_tokens", "list")
    + ("nothing", "null", "negative", "daily", "too_long"),
    FakeOpenAI: (*BOTH, "429", "503", "500", "400", "length", "thinks", "nothing", "bare", "error", "late", "huge")
    + ("behind", "quota"),
}


def row(what: str, number: int, wrong: Counter[str]) -> tuple[Any, ...]:
    return (what, number, *(wrong[name] for name in WRONG))


def billed(server: Loopback, price: Price) -> float:
    """Price the tokens that the server counted."""
    return price.usd(server.billed["in"], server.billed["out"])


# --- servers ----------------------------------------------------------------------------------------------------------


NOTES = (
    "Lost: no answer after the server recovered and permanent failures were retried, as `--again distill` does (up to "
    "15 times: a daily quota ends a run at its first call); after kills, rows or an adapter that differ from an "
    "undisturbed run's. Repeated: requests sent although all calls were answered; after kills, duplicate rows. Paid "
    "twice: a call sent again although its reply was on disk; a reply later than the client's timeout does not count, "
    "because it must be requested again."
)
MONEY = (
    "A kill is not free: calls in flight are sent again, and the server bills those it had answered a second time "
    "(last column). The ledger's count is larger than the server's, which was taken at one moment and misses requests "
    "that had not arrived and replies that were not yet on disk. Unanswered calls are booked at their worst case. Runs "
    "that booked less than was billed, or exceeded it by more than the unanswered calls:"
)


class Judged(BaseModel):
    reasons: str
    score: int


class SkippingClock:
    """Skip waits: sleeping moves the clock forward and takes no time."""

    skipped = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.skipped

    async def sleep(self, seconds: float) -> None:
        self.skipped += seconds
        await asyncio.sleep(0.001)


async def ask_all(server: Loopback, folder: Path, asks: list[tuple], wrong: Counter[str], *, forget: bool) -> list[str]:
    """Return the text of each reply, "" where there is none."""
    part = {"teacher": "gemini"} if isinstance(server, FakeGemini) else {"teacher": server.url, "model": "tiny-1b"}
    env = {"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": server.url, "OPENAI_API_KEY": KEY}
    env |= {} if isinstance(server, FakeGemini) else {"PLANTUNE_PRICE": "1,2"}
    with Ledger(folder / "calls.sqlite", run="r") as ledger:
        if forget:
            ledger.forget_failures()
        clock = SkippingClock()
        options = {"environ": env, "pace": Pace(clock=clock, sleep=clock.sleep), "say": lambda line: None}
        async with open_teacher(Distill(**part), ledger, **options) as ask:
            calls = (asyncio.wait_for(ask(*arguments), SECONDS) for arguments in asks)
            replies = await asyncio.gather(*calls, return_exceptions=True)
    errors = [reply for reply in replies if isinstance(reply, BaseException)]
    wrong["hangs"] += sum(isinstance(error, TimeoutError) for error in errors)
    wrong["tracebacks"] += sum(not isinstance(error, PlantuneError | TimeoutError) for error in errors)
    return ["" if isinstance(reply, BaseException) else reply[0].text for reply in replies]


def run_mode(make: type[Loopback], kind: str, times: str, folder: Path, money: Counter[str]) -> Counter[str]:
    """Run calls through one fault until the server recovers, and count what went wrong."""
    wrong: Counter[str] = Counter()
    marker = "" if times == "until healed" else f" [[{kind}{times}]]"
    asks = [(chat(f"Write plan {n}.{marker}"), Sampling(max_tokens=400), None) for n in range(3)]
    asks.append((chat(f"Score this plan.{marker}"), Sampling(max_tokens=400), Judged))
    faults = Faults({kind: 1.0}) if times == "until healed" else Faults()
    Gemini.timeout_seconds = OpenAICompatible.timeout_seconds = 0.5 if kind == "slow" else 20.0
    with make(key=KEY, faults=faults, retry_seconds=0.01, slow_seconds=1.0) as server:
        asyncio.run(ask_all(server, folder, asks, wrong, forget=False))
        server.faults = Faults()
        for _ in range(15):  # a daily quota ends each run at its first call, here three times per call
            texts = asyncio.run(ask_all(server, folder, asks, wrong, forget=True))  # retries permanent failures
            if all(texts):
                break
        wrong["lost"] += sum(not text for text in texts)
        requests = server.stats()["requests"]
        asyncio.run(ask_all(server, folder, asks, wrong, forget=False))
        wrong["repeated"] += server.stats()["requests"] - requests
        if kind != "slow":  # a reply that came too late must be requested again
            wrong["paid twice"] += server.stats()["answered_again"]
        price = price_of(DEFAULT_MODEL) if make is FakeGemini else Price(1, 2)
        with Ledger(folder / "calls.sqlite", run="r") as ledger:
            totals = ledger.totals()
        money.update({"booked": totals["usd"], "unanswered": totals["usd_unanswered"], "billed": billed(server, price)})
        wrong["booked too little"] += totals["usd"] < billed(server, price) - 1e-9
    return wrong


def servers(folder: Path) -> tuple[dict[str, Any], list[tuple]]:
    """Try each fault once, three times and until the server recovers, through both clients."""
    rows, results = [], {}
    for make, kinds in KINDS.items():
        wrong, money = Counter(), Counter()
        modes = [(kind, times) for kind in kinds for times in ("", " x3", "until healed")]
        random.Random(SEED).shuffle(modes)
        for number, (kind, times) in enumerate(modes):
            counts = run_mode(make, kind, times, folder / f"{make.__name__}{number}", money)
            wrong += counts
            if counts.total():
                print(make.__name__, kind, times, dict(counts), flush=True)
        name = "Gemini through google-genai" if make is FakeGemini else "an OpenAI-compatible server"
        rows.append(row(f"faults of {name}", len(modes), wrong))
        results[name] = {"modes": len(modes), **wrong, "usd": money}
    return results, rows


# --- kills ------------------------------------------------------------------------------------------------------------


Due = Callable[[str], bool]  # the command's output so far -> whether to kill it now


def never(output: str) -> bool:
    return False


def attempt(folder: Path, server: Loopback, words: list[str], due: Due, wrong: Counter[str], whole: bool) -> int | None:
    """Run the command until it is due; return the calls in flight when it was killed, None where it ended."""
    folder.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "PLANTUNE_RUNS": str(folder), "GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": server.url}
    command = [sys.executable, "-m", "plantune_lite.cli.main", *words, "--mirror", str(folder / "mirror")]
    log = folder / "log.txt"
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)
        deadline = time.monotonic() + 600
        while process.poll() is None and time.monotonic() < deadline and not due(log.read_text("utf-8")):
            time.sleep(0.01)
        in_flight = server.in_flight
        if process.poll() is None:  # alone, or its stage with it
            (os.killpg if whole else os.kill)(process.pid, signal.SIGKILL)
        status = process.wait()
    text = log.read_text("utf-8")
    wrong["tracebacks"] += "Traceback" in text
    if status > 0:
        raise RuntimeError(text)
    return None if status == 0 else in_flight


def outputs(run: Path) -> dict[str, Any]:
    """Collect what a run leaves: its rows in any order and without their seconds, its adapter by hash."""
    names = ("trajectories", "corpus/train", "problems/pool", "suites/own", "eval/own.untuned", "eval/own.m1")
    rows = {
        name: sorted(json.dumps(each | {"seconds": 0}) for each in read_jsonl(run / f"{name}.jsonl"))
        for name in names
        if (run / f"{name}.jsonl").exists()
    }
    adapter = run / "sft" / "adapter_model.safetensors"
    return rows | ({"adapter": sha256(adapter.read_bytes()).hexdigest()} if adapter.exists() else {})


def settled(path: Path) -> dict[str, tuple[str, str]]:
    """Read the calls that have a reply on disk: its text, and when it came."""
    if not path.exists():
        return {}
    with closing(sqlite3.connect(path, timeout=60)) as db:
        rows = db.execute("SELECT key, reply, at FROM calls WHERE reply IS NOT NULL").fetchall()
    return {key: (reply, at) for key, reply, at in rows}


def after_requests(server: Loopback, count: int) -> Due:
    """Kill after the server has had so many more requests."""
    target = server.outcomes.total() + count
    return lambda output: server.outcomes.total() >= target


def within(stage: str, seconds: float) -> Due:
    """Kill so many seconds after a stage has begun."""
    began: list[float] = []

    def due(output: str) -> bool:
        if not began and re.search(rf"\] {stage} +(starts|resumes)", output):
            began.append(time.monotonic())
        return bool(began) and time.monotonic() > began[0] + seconds

    return due


def killed(folder: Path, words: list[str], *, by_stage: bool) -> dict[str, Any]:
    """Compare a command undisturbed with one killed ten times at random moments and rerun until it ends."""
    problems = [vars(problem) for problem in practice_problems("train", seed=0, limit=400, levels=(2,))]
    rng, wrong, left, in_flight = random.Random(SEED), Counter[str](), {}, []
    calls, settled_before = folder / "killed" / "calls.sqlite", {}
    for name in ("undisturbed", "killed"):
        with FakeGemini(key=KEY, mind=Mind(problems, 0.6), latency_seconds=(0.05, 0.15)) as server:
            while True:
                kill, due = name == "killed" and len(in_flight) < KILLS, never
                if kill and by_stage:  # each stage once, in its middle
                    stages = read_manifest(folder / "undisturbed" / "smollm2_135m").stages
                    stage, entry = list(stages.items())[len(in_flight)]
                    due = within(stage, rng.uniform(0.2, 0.8) * entry.seconds)
                elif kill:
                    due = after_requests(server, rng.randint(40, 110))
                at_kill = attempt(folder / name, server, words, due, wrong, whole=len(in_flight) % 2 == 1)
                if at_kill is None or not kill:
                    wrong["hangs"] += at_kill is not None
                    break
                in_flight.append(at_kill)
                settled_before = settled(calls) | settled_before  # each as it was when first settled
            left[name] = outputs(folder / name / "smollm2_135m")
            again, usd = server.stats()["answered_again"], billed(server, price_of(DEFAULT_MODEL))
    for name, expected in left["undisturbed"].items():
        actual = left["killed"].get(name)
        if isinstance(expected, str):
            wrong["lost"] += expected != actual
        else:
            lost, more = Counter(expected) - Counter(actual), Counter(actual) - Counter(expected)
            wrong["lost"] += lost.total()
            wrong["repeated"] += more.total()
            if lost or more:
                print(name, *lost, "", *more, sep="\n", flush=True)
    now = settled(calls)
    wrong["paid twice"] += sum(now.get(key) != reply for key, reply in settled_before.items())
    with Ledger(calls, run="smollm2_135m") as ledger:
        totals = ledger.totals()
        (unanswered,) = ledger._db.execute("SELECT count(*) FROM unanswered").fetchone()
    wrong["dollars not accounted for"] += not usd <= totals["usd"] + 1e-9 <= usd + totals["usd_unanswered"] + 2e-9
    with_key = [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    results = {"kills": len(in_flight), "wrong": wrong, "files_with_the_key": len(with_key), "answered_again": again}
    results |= {"in_flight": in_flight, "calls_unanswered": unanswered, "settled_at_the_kills": len(settled_before)}
    return results | {"booked": totals["usd"], "unanswered": totals["usd_unanswered"], "billed": usd}


def kills(folder: Path) -> tuple[dict[str, Any], list[tuple]]:
    """Kill a distillation ten times, and a whole run of a tiny student ten times."""
    import torch
    from tiny import tiny_student
    from transformers import AutoTokenizer

    tiny = tiny_student(folder / "tiny", "llama", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = presets.find("smollm2_135m").chat_template
    tokenizer.save_pretrained(tiny)
    teacher = ["smollm2_135m", "distill.teacher=gemini", "corpus.filter=both", "evaluate.limit=8"]
    small = ["problems.limit=12", "headroom=4", "evaluate.max_tokens=16", "sft.max_steps=12", "grpo=none"]
    small += ["sft.save_steps=3"]
    student = [f"student.model={tiny}", "student.bits=32", "student.max_length=500", "export.formats=merged"]
    distil = ["distill", *teacher, "problems.limit=400", "headroom=0"]
    results = {
        "a distillation of 400 problems": killed(folder / "a", distil, by_stage=False),
        "a whole run of a tiny student": killed(folder / "b", ["run", *teacher, *small, *student], by_stage=True),
    }
    rows = [row(f"kills in {name}", each["kills"], Counter(each["wrong"])) for name, each in results.items()]
    return results, rows


# --- inputs -----------------------------------------------------------------------------------------------------------


def inputs(folder: Path) -> tuple[dict[str, Any], list[tuple]]:
    """Run the bad inputs of the tests from other seeds."""
    env = {**os.environ, "BAD_INPUTS": str(INPUTS), "BAD_INPUTS_FROM": str(SEED * 10**6)}
    test = [sys.executable, "-m", "pytest", "-q", "-k", "no_bad_input", str(TESTS / "cli" / "test_bad_inputs.py")]
    output = subprocess.run(test, env=env, cwd=HERE.parent, capture_output=True, text=True, check=False).stdout
    kinds = re.search(rf"\d+ of {INPUTS}: (\{{.*?\}})", output)
    if not kinds and "1 passed" not in output:
        raise RuntimeError(output)
    wrong: Counter[str] = Counter(json.loads(kinds[1].replace("'", '"')) if kinds else {})
    wrong["tracebacks"] += wrong.pop("traceback", 0)
    return {"inputs": INPUTS, **wrong}, [row("bad inputs", INPUTS, wrong)]


PARTS = {"servers": servers, "kills": kills, "inputs": inputs}


def main(names: list[str]) -> None:
    """Run the parts and write the page; figures of the other parts stay."""
    saved = HERE / "faults.json"
    before = json.loads(saved.read_text(encoding="utf-8")) if saved.exists() else {}
    parts, rows = dict(before.get("parts", {})), dict(before.get("rows", {}))
    for name in names or PARTS:
        folder, began = Path(tempfile.mkdtemp()), time.monotonic()
        try:
            parts[name], rows[name] = PARTS[name](folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    tested = [each for name in PARTS for each in rows.get(name, ())]
    killed_runs, money = parts.get("kills", {}), []
    for name, figures in killed_runs.items():
        dollars = (f"{figures[key]:.4f}" for key in ("booked", "unanswered", "billed"))
        calls = (figures["calls_unanswered"], sum(figures["in_flight"]), figures["answered_again"])
        money.append((f"after {figures['kills']} kills in {name}", *dollars, *calls))
    with_key = sum(figures["files_with_the_key"] for figures in killed_runs.values())
    key = f"Files of the killed runs, their ledgers, logs and mirrors that contain the key: {with_key}."
    misbooked = sum(figures["wrong"].get("dollars not accounted for", 0) for figures in killed_runs.values())
    columns = ("dollars", "booked", "of which unanswered", "billed, by the server's count")
    columns += ("calls in flight at the kills, by the ledger", "by the server", "answered and billed twice")
    less = sum(figures.get("booked too little", 0) for figures in parts.get("servers", {}).values())
    key += f" Faults after which less was booked than billed: {less}."
    write(
        "faults",
        command="python -m benchmarks.faults",
        about=f"What faults, kills and bad inputs drawn from seed {SEED} break; the goal is 0 of each.",
        found={"machine": machine("google-genai", "httpx2", "aiohttp"), "parts": parts, "rows": rows},
        text="\n\n".join((markdown(HEAD, tested), NOTES, key, markdown(columns, money), MONEY + f" {misbooked}.")),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
