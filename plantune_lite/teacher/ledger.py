"""Record every teacher call, so that none is made twice: its reply, its cost, and the remaining budget.

    key = call_key(DEFAULT_MODEL, messages, sampling, None, sample=0)
    ledger.reply(key) or: await ledger.reserve(key, ...); send it; await ledger.settle(key, reply, usd=..., ...)

One SQLite file for all runs. A call's key does not include the recipe, so no variant of a run pays twice. A call's
worst case is on disk before the call is sent, so a budget holds even through a kill: calls in flight then count as
spent, and are listed as unanswered: whether they were billed is unknown.

    outcome of an attempt                its cost                      the call is repeated
    ok                                   tokens reported, or worst     never
    blocked                              the same                      by --again distill: final at once
    length, empty, recitation, unfit     the same                      once; then it is final, like blocked
    declined                             nothing                       by the next run
    down, busy, reworded, refused, over  nothing                       now, or by the next run
    sent (a kill), lost, crashed         its worst case, unanswered    now, or by the next run
"""

import asyncio
import dataclasses
import hashlib
import json
import queue
import sqlite3
import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Self

from plantune_lite.files import from_row, write_whole
from plantune_lite.runs.folder import locked
from plantune_lite.teacher.provider import shape_of
from plantune_lite.types import Messages, PlantuneError, Reply, RunError, Sampling

_TABLES = """
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY, run TEXT, model TEXT, outcome TEXT, reply TEXT,
    usd REAL DEFAULT 0,
    tokens_in INTEGER DEFAULT 0, tokens_out INTEGER DEFAULT 0, tokens_thought INTEGER DEFAULT 0,
    seconds REAL DEFAULT 0, at TEXT DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE IF NOT EXISTS lost (id TEXT PRIMARY KEY, run TEXT, usd REAL);
CREATE TABLE IF NOT EXISTS unanswered (id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS troubles (key TEXT, what TEXT, PRIMARY KEY (key, what))
"""  # troubles: outcomes of a call that allow another attempt, each kind once, even across kills
# calls.seconds: written by earlier versions only
# lost: costs of calls that brought no reply and were repeated; they stay spent, by the run that spent them
# unanswered: which of these got no answer
_NOBODY = "outcome IN ('sent', 'lost', 'crashed')"
_LOSE = "INSERT INTO lost SELECT :id, run, usd FROM calls WHERE key = :key AND usd > 0"
_LOSE_UNANSWERED = f"INSERT INTO unanswered SELECT :id FROM calls WHERE key = :key AND usd > 0 AND {_NOBODY}"
_RESERVE = """
INSERT INTO calls (key, run, model, outcome, usd) VALUES (:key, :run, :model, 'sent', :usd)
ON CONFLICT (key) DO UPDATE SET run = :run, outcome = 'sent', usd = :usd
"""
_SETTLE = """
UPDATE calls SET outcome = :outcome, reply = :reply, usd = :usd, tokens_in = :tokens_in, tokens_out = :tokens_out,
tokens_thought = :tokens_thought, at = CURRENT_TIMESTAMP WHERE key = :key
"""
_TROUBLE = "INSERT OR IGNORE INTO troubles VALUES (:key, :trouble)"
_UNANSWERED = (
    f"(SELECT total(usd) FROM calls WHERE run = :run AND {_NOBODY})"
    " + (SELECT total(usd) FROM lost WHERE run = :run AND id IN (SELECT id FROM unanswered))"
)
_SPENT = "(SELECT total(usd) FROM calls WHERE run = :run) + (SELECT total(usd) FROM lost WHERE run = :run)"
_BUSY_SECONDS = 60.0  # copying to the mirror locks the file for a moment


class BudgetError(PlantuneError, RuntimeError):
    """Raised when the next call could exceed distill.max_usd."""


def spent_in_words(usd: float, unanswered: float) -> str:
    """Report what was spent, separately from what is only reserved."""
    if unanswered < 0.00005:
        return f"${usd:.4f} spent"
    return f"${usd - unanswered:.4f} spent and ${unanswered:.4f} reserved for calls without a reply"


def call_key(
    model: str, messages: Messages, sampling: Sampling, schema: type | None, *, sample: int, **extra: Any
) -> str:
    """Hash what identifies a call: model, prompt, settings and the number of the sample."""
    settings = {name: value for name, value in dataclasses.asdict(sampling).items() if name != "n"}
    shape = None if schema is None else f"{schema.__name__} {json.dumps(shape_of(schema), sort_keys=True)}"
    parts = [model, list(messages), settings, shape, sample, extra]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Ledger:
    """Ledger of all runs' calls, opened for one run; one thread writes, and commits queued writes together."""

    def __init__(self, path: Path, *, run: str, max_usd: float | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.run, self.max_usd = path, run, max_usd
        self._file_lock = ExitStack()
        try:  # by one process: two could pay for the same call
            self._file_lock.enter_context(locked(path.with_name(".calls.lock")))
        except RunError:
            raise RunError(f"the ledger {path} is in use by another plantune, or cannot be written") from None
        self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            # No shared-memory file, every commit on disk: safe on odd mounts, and fast enough.
            pragmas = ("PRAGMA journal_mode = TRUNCATE", "PRAGMA synchronous = FULL")
            for statement in (*pragmas, "BEGIN", *_TABLES.split(";"), "COMMIT"):
                self._db.execute(statement).fetchall()
            # Includes what is reserved for calls in flight, now or at a kill.
            (self.spent_usd,) = self._db.execute(f"SELECT {_SPENT}", {"run": run}).fetchone()
        except sqlite3.DatabaseError as error:
            self._db.close()
            self._file_lock.close()
            why = f"{path} is not a ledger, or in use elsewhere ({error})"
            raise RunError(f"{why}; if it is damaged, move it away, or restore it from the mirror") from None
        self._open: dict[str, float] = {}  # key -> reserved, in this process
        self._lock = threading.Lock()
        self._writes: queue.SimpleQueue[tuple[tuple[str, ...], Mapping[str, Any]]] = queue.SimpleQueue()
        self._queued = self._committed = 0  # writes, since this was opened
        self._failure: Exception | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ledger")

    @property
    def booked_usd(self) -> float:
        """Return what was or may have been spent, without what is reserved for calls in flight."""
        return max(0.0, self.spent_usd - sum(self._open.values()))

    def reply(self, key: str) -> Reply | None:
        """Return the recorded reply to a call; None where it must still be made."""
        with self._lock:
            row = self._db.execute("SELECT reply FROM calls WHERE key = ? AND reply IS NOT NULL", (key,)).fetchone()
        return None if row is None else from_row(Reply, json.loads(row[0]))

    async def reserve(self, key: str, *, model: str, worst_usd: float) -> None:
        """Put a call's worst case on disk before it is sent; raise where that could exceed the budget."""
        if self.max_usd is not None and self.spent_usd + worst_usd > self.max_usd:
            spent = spent_in_words(self.spent_usd, self.totals()["usd_unanswered"])
            raise BudgetError(
                f"the next call may cost ${worst_usd:.4f}, which with {spent} could exceed "
                f"distill.max_usd={self.max_usd}. What is done is kept; raise distill.max_usd to resume."
            )
        self.spent_usd += worst_usd
        self._open[key] = self._open.get(key, 0.0) + worst_usd
        values = {"key": key, "run": self.run, "model": model, "usd": worst_usd, "id": uuid.uuid4().hex}
        await self._written((_LOSE, _LOSE_UNANSWERED, _RESERVE), values)

    def troubles(self, key: str) -> list[str]:
        """Return the outcomes of earlier attempts at a call that has no reply yet."""
        with self._lock:
            return [what for (what,) in self._db.execute("SELECT what FROM troubles WHERE key = ?", (key,))]

    async def settle(
        self, key: str, reply: Reply | None, *, outcome: str, usd: float, trouble: str | None = None
    ) -> None:
        """Put a call's reply, or why there is none, on disk before it is used; a `trouble` allows another attempt."""
        # Rounding can leave a sum slightly below zero, which would print as "$-0.00".
        self.spent_usd = max(0.0, self.spent_usd + usd - self._open.pop(key, 0.0))
        values = {
            "key": key,
            "outcome": outcome,
            "reply": None if reply is None else json.dumps(dataclasses.asdict(reply)),
            "usd": usd,
            "tokens_in": reply.tokens_in if reply else 0,
            "tokens_out": reply.tokens_out if reply else 0,
            "tokens_thought": reply.tokens_thought if reply else 0,
        }
        await self._written((_SETTLE,) if trouble is None else (_SETTLE, _TROUBLE), {**values, "trouble": trouble})

    def totals(self) -> dict[str, float]:
        """Return calls, tokens and money of this run, and the part of the money reserved for unanswered calls."""
        names = ("calls", "tokens_in", "tokens_out", "tokens_thought", "usd", "usd_unanswered")
        sums = "count(*), total(tokens_in), total(tokens_out), total(tokens_thought)"
        with self._lock:
            row = self._db.execute(
                f"SELECT {sums}, {_SPENT}, {_UNANSWERED} FROM calls WHERE run = :run", {"run": self.run}
            ).fetchone()
        return {name: value if name.startswith("usd") else int(value) for name, value in zip(names, row, strict=True)}

    def forget_failures(self) -> None:
        """Allow this run's finally failed calls to be repeated; what they cost stays spent."""
        failed = "run = ? AND outcome != 'ok' AND reply IS NOT NULL"
        with self._lock:
            self._db.execute(f"DELETE FROM troubles WHERE key IN (SELECT key FROM calls WHERE {failed})", (self.run,))
            self._db.execute(f"UPDATE calls SET reply = NULL WHERE {failed}", (self.run,))

    def take_from(self, image: bytes) -> None:
        """Add the calls of a ledger's copy that we do not have; one machine works on a run at a time."""
        with self._lock:
            self._db.execute("ATTACH ':memory:' AS other")
            self._db.deserialize(image, name="other")
            self._db.execute("BEGIN")
            for statement in _TABLES.split(";"):  # an earlier version's lacks some
                self._db.execute(statement.replace("NOT EXISTS ", "NOT EXISTS other."))
            for table in ("lost", "unanswered", "troubles"):
                self._db.execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM other.{table}")
            # The copy has the reply that ours lacks: what ours may have cost stays spent.
            gone = "reply IS NULL AND key IN (SELECT key FROM other.calls WHERE reply IS NOT NULL)"
            lost = f"SELECT 'merged ' || key, run, usd FROM calls WHERE usd > 0 AND {gone}"
            unanswered = f"SELECT 'merged ' || key FROM calls WHERE usd > 0 AND {gone} AND {_NOBODY}"
            self._db.execute(f"INSERT OR IGNORE INTO lost {lost}")
            self._db.execute(f"INSERT OR IGNORE INTO unanswered {unanswered}")
            self._db.execute(f"DELETE FROM calls WHERE {gone}")
            self._db.execute("INSERT OR IGNORE INTO calls SELECT * FROM other.calls")
            self._db.execute("COMMIT")

    def close(self) -> None:
        """Write what is queued and close the file."""
        self._writer.submit(self._commit, self._queued)
        self._writer.shutdown(wait=True)
        self._db.close()
        self._file_lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _written(self, statements: tuple[str, ...], values: Mapping[str, Any]) -> None:
        self._writes.put((statements, values))
        self._queued += 1
        await asyncio.get_running_loop().run_in_executor(self._writer, self._commit, self._queued)

    def _commit(self, number: int) -> None:
        """Commit the write of this number and all that is queued so far; after a failure, nothing more."""
        with self._lock:
            try:
                if self._failure is None and self._committed < number:
                    self._db.execute("BEGIN")
                    while not self._writes.empty():
                        statements, values = self._writes.get()
                        for statement in statements:
                            self._db.execute(statement, values)
                        self._committed += 1
                    self._db.execute("COMMIT")
            except Exception as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._failure = error
        if self._failure is not None:
            raise RunError(f"the ledger {self.path} cannot be written ({self._failure}); what is in it is kept")


# --- the copy in the mirror -------------------------------------------------------------------------------------------


def copy_ledger(ledger: Path, target: Path) -> None:
    """Copy a ledger to a folder that may be slow; a stage that uses it waits only while it is read."""
    with closing(sqlite3.connect(ledger, timeout=_BUSY_SECONDS, isolation_level=None)) as db:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM sqlite_master")  # takes the read lock, or fails
        image = db.serialize()
    write_whole(target, image)


def merge_ledger(copy: Path, ledger: Path) -> None:
    """Merge the mirror's copy: a machine that is new to a mirror must not pay for its calls again.

    All runs share one ledger, so there may already be one here, from other runs.
    """
    try:
        image = copy.read_bytes()
        _check(image)
        if not ledger.exists():
            write_whole(ledger, image)
            return
        with Ledger(ledger, run="") as calls:
            calls.take_from(image)
    except (sqlite3.DatabaseError, OSError) as error:
        raise RunError(f"{copy} cannot be read back ({error}); fix the mirror, or leave --mirror out") from None


def _check(image: bytes) -> None:
    """Raise for a copy that is damaged or not a ledger."""
    if not image:
        raise sqlite3.DatabaseError("it is empty")
    with closing(sqlite3.connect(":memory:")) as db:
        db.deserialize(image)
        (result,) = db.execute("PRAGMA quick_check").fetchone()
        if result != "ok":
            raise sqlite3.DatabaseError(result)
        db.execute("SELECT key, reply FROM calls LIMIT 1")
