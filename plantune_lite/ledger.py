"""Every teacher call, asked once: what it said, what it cost, and how much may still be spent.

    key = call_key("gemini-3.8-flash", messages, sampling, None, sample=0)
    ledger.reply(key) or: await ledger.reserve(key, ...); send it; await ledger.settle(key, reply, usd=..., ...)

One SQLite file for all runs. A call's key has no recipe in it, so no variant of a run pays twice. A call's worst case
is on disk before the call is sent, so a budget holds even through a kill: what was in flight then counts as spent.
"""

import asyncio
import dataclasses
import hashlib
import json
import queue
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from plantune_lite.records import Messages, PlantuneError, Reply, RunError, Sampling, from_row

_TABLE = """
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY, run TEXT, model TEXT, outcome TEXT, reply TEXT,
    usd REAL DEFAULT 0, lost_usd REAL DEFAULT 0,
    tokens_in INTEGER DEFAULT 0, tokens_out INTEGER DEFAULT 0, tokens_thought INTEGER DEFAULT 0,
    seconds REAL DEFAULT 0, at TEXT DEFAULT CURRENT_TIMESTAMP
)"""
_RESERVE = """
INSERT INTO calls (key, run, model, outcome, usd) VALUES (:key, :run, :model, 'sent', :usd)
ON CONFLICT (key) DO UPDATE SET run = :run, outcome = 'sent', lost_usd = lost_usd + usd, usd = :usd
"""  # asked before without a reply that counts: what that cost stays spent
_SETTLE = """
UPDATE calls SET outcome = :outcome, reply = :reply, usd = :usd, tokens_in = :tokens_in, tokens_out = :tokens_out,
tokens_thought = :tokens_thought, seconds = :seconds, at = CURRENT_TIMESTAMP WHERE key = :key
"""


class BudgetError(PlantuneError, RuntimeError):
    """The next call could pass distill.max_usd."""


def call_key(
    model: str, messages: Messages, sampling: Sampling, schema: type | None, *, sample: int, **extra: Any
) -> str:
    """What makes a call this call: model, prompt, settings and the number of the sample."""
    settings = {name: value for name, value in dataclasses.asdict(sampling).items() if name != "n"}
    shape = None if schema is None else f"{schema.__name__} {json.dumps(_shape(schema), sort_keys=True)}"
    parts = [model, list(messages), settings, shape, sample, extra]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _shape(schema: type) -> Any:
    return schema.model_json_schema() if hasattr(schema, "model_json_schema") else repr(schema)


class Ledger:
    """The calls of all runs, opened for one of them. Writes go through one thread that commits what waits together."""

    def __init__(self, path: Path, *, run: str, max_usd: float | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.run, self.max_usd = path, run, max_usd
        self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            # One process, no shared-memory file, every commit on disk: safe on odd mounts, and fast enough.
            for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = TRUNCATE", "synchronous = FULL"):
                self._db.execute(f"PRAGMA {pragma}").fetchall()
            self._db.execute("BEGIN EXCLUSIVE")
            self._db.execute(_TABLE)
            self._db.execute("COMMIT")
            row = self._db.execute("SELECT sum(usd + lost_usd) FROM calls WHERE run = ?", (run,)).fetchone()
        except sqlite3.OperationalError as error:
            self._db.close()
            raise RunError(f"the ledger {path} is in use by another plantune, or not writable ({error})") from None
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise RunError(f"{path} is no ledger ({error}); move it away, or restore it from the mirror") from None
        self._spent = row[0] or 0.0  # with the reservations of calls that a kill left in flight
        self._open: dict[str, float] = {}  # key -> reserved, in this process
        self._lock = threading.Lock()
        self._writes: queue.SimpleQueue[tuple[str, Mapping[str, Any], asyncio.Future[None] | None] | None]
        self._writes = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._writer = threading.Thread(target=self._write_all, name="ledger", daemon=True)
        self._writer.start()

    @property
    def spent_usd(self) -> float:
        """What this run has spent, with what is reserved for the calls in flight."""
        return self._spent

    def reply(self, key: str) -> Reply | None:
        """The reply to a call that was asked before; None where it must still be asked."""
        with self._lock:
            row = self._db.execute("SELECT reply FROM calls WHERE key = ? AND reply IS NOT NULL", (key,)).fetchone()
        return None if row is None else from_row(Reply, json.loads(row[0]))

    async def reserve(self, key: str, *, model: str, worst_usd: float) -> None:
        """Put a call's worst case on disk before it is sent; refuses where that could pass the budget."""
        if self.max_usd is not None and self._spent + worst_usd > self.max_usd:
            raise BudgetError(
                f"the next call may cost ${worst_usd:.4f}, which with ${self._spent:.4f} spent or reserved could pass "
                f"distill.max_usd={self.max_usd}. What is done is kept; raise distill.max_usd to go on."
            )
        self._spent += worst_usd
        self._open[key] = self._open.get(key, 0.0) + worst_usd
        values = {"key": key, "run": self.run, "model": model, "usd": worst_usd}
        await self._written(_RESERVE, values)

    async def settle(self, key: str, reply: Reply | None, *, outcome: str, usd: float, seconds: float) -> None:
        """Put a call's reply, or why there is none, on disk before anybody uses it."""
        self._spent += usd - self._open.pop(key, 0.0)
        values = {
            "key": key,
            "outcome": outcome,
            "reply": None if reply is None else json.dumps(dataclasses.asdict(reply), ensure_ascii=False),
            "usd": usd,
            "seconds": seconds,
            "tokens_in": reply.tokens_in if reply else 0,
            "tokens_out": reply.tokens_out if reply else 0,
            "tokens_thought": reply.tokens_thought if reply else 0,
        }
        await self._written(_SETTLE, values)

    def totals(self) -> dict[str, float]:
        """Calls, tokens and money of this run."""
        names = ("calls", "tokens_in", "tokens_out", "tokens_thought", "usd")
        with self._lock:
            row = self._db.execute(
                "SELECT count(*), sum(tokens_in), sum(tokens_out), sum(tokens_thought), sum(usd + lost_usd) FROM calls "
                "WHERE run = ?",
                (self.run,),
            ).fetchone()
        return {name: value or 0 for name, value in zip(names, row, strict=True)}

    def backup(self, target: Path) -> None:
        """Copy the ledger whole and rename it into place, while calls go on."""
        temporary = target.with_name(f".{target.name}.part")
        try:
            copy = sqlite3.connect(temporary)
            try:
                with self._lock:
                    self._db.backup(copy)
            finally:
                copy.close()
            temporary.replace(target)
        except sqlite3.Error as error:
            raise OSError(str(error)) from None
        finally:
            temporary.unlink(missing_ok=True)

    def close(self) -> None:
        """Write what waits and let go of the file."""
        self._writes.put(None)
        self._writer.join()
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _written(self, statement: str, values: Mapping[str, Any]) -> None:
        if self._failure is not None:
            raise RunError(f"the ledger {self.path} cannot be written ({self._failure}); what is in it is kept")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writes.put((statement, values, done))
        await done

    def _write_all(self) -> None:
        ending = False
        while not ending:
            batch = [self._writes.get()]
            while not self._writes.empty():
                batch.append(self._writes.get())
            ending = None in batch
            writes = [write for write in batch if write is not None]
            failure = self._commit(writes) if writes else None
            for _, _, done in writes:
                _resolve(done, failure)

    def _commit(self, writes: list[tuple[str, Mapping[str, Any], Any]]) -> RunError | None:
        with self._lock:
            try:
                self._db.execute("BEGIN")
                for statement, values, _ in writes:
                    self._db.execute(statement, values)
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._failure = error
                return RunError(f"the ledger {self.path} cannot be written ({error}); what is in it is kept")
        return None


def _resolve(done: "asyncio.Future[None]", failure: Exception | None) -> None:
    def settle() -> None:
        if not done.done():
            done.set_result(None) if failure is None else done.set_exception(failure)

    try:
        done.get_loop().call_soon_threadsafe(settle)
    except RuntimeError:
        return  # the loop was closed under a cancelled call; the write itself is done
