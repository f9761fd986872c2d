r"""Compare two expressions with math-verify, in a separate process that is killed at a deadline.

same(r"\frac{\sqrt{8}}{2}", r"\sqrt{2}", seconds=1.0) -> Judged(Verdict(same=True, how="equal as expressions"), 0.01)

The worker reads one {"given": ..., "gold": ...} per line and writes {"same": ..., "how": ...}. Texts come from models:

- Nothing is evaluated as Python. math-verify's `parse` would: its ExprExtractionConfig, on by default, passes plain
  text to sympy's parse_expr, which calls eval. So only its comparison is used, on what the ANTLR grammar of
  latex2sympy2_extended parses. That reaches eval too: each literal goes through sympy.Number(text), that is sympify,
  parse_expr and eval. A literal has only digits, a point and an exponent; still the worker replaces parse_expr with a
  parser of such literals (which is faster, too) and disables the eval behind it, which covers any other sympify("...")
  in a library.
- math-verify's own timeouts (SIGALRM, main thread only) are off; the caller's kill is the deadline.
"""

import atexit
import contextlib
import json
import re
import subprocess
import sys
import threading
from multiprocessing import connection
from typing import Any, NamedTuple

from plantune_lite.grading.normalize import CLOSE_SET, OPEN_SET, closing
from plantune_lite.types import MissingError, Verdict, present

START_SECONDS = 60.0  # importing sympy takes one, more on a busy machine
MEMORY_BYTES = 2 << 30  # of the worker's address space, where the platform can limit it
_COMMAND = (sys.executable, "-m", "plantune_lite.grading.sympy_worker")
_LAST_RESORT_SECONDS = 20  # the worker ends itself if its caller is gone


class Judged(NamedTuple):
    """A verdict, and the seconds that the worker took for it."""

    verdict: Verdict
    seconds: float


# --- preparing expressions --------------------------------------------------------------------------------------------

_TOO_LARGE = re.compile(
    r"\^\s*\{?\s*-?\s*[0-9]{6,}|[0-9]{5,}\s*\}?\s*!|!\s*!|[0-9]{1000,}"  # 2^1000000, 100000!, 9!!
    r"|(?:\^\s*\{?\s*[0-9]+\s*){3,}"  # x^9^9^9
)
_BARE_NAME = re.compile(
    r"(?<![A-Za-z\\])(sqrt|sinh|cosh|tanh|sin|cos|tan|sec|csc|cot|arcsin|arccos|arctan|log|ln|exp|pi|alpha|beta|gamma|theta|"
    r"lambda|sigma|omega|max|min|gcd|lcm)(?![A-Za-z])"
)


def to_latex(text: str) -> str:
    r"""Convert an expression for the grammar: "2*sqrt(x+1)**2" -> "2\cdot \sqrt{x+1}^2"."""
    text = _BARE_NAME.sub(r"\\\1 ", text.replace("**", "^").replace("*", r"\cdot "))
    text = re.sub(r"(?<![A-Za-z\\])(?:infinity|inf)(?![A-Za-z])", r"\\infty ", text).replace("°", r"^{\circ}")
    text = text.replace(OPEN_SET, r"\{").replace(CLOSE_SET, r"\}")
    text = text.replace("<=", r"\le ").replace(">=", r"\ge ").replace("!=", r"\ne ")
    for opener in (r"\\sqrt\s*\(", r"\^\s*\("):
        while (match := re.search(opener, text)) and (end := closing(text, match.end() - 1)) > 0:
            text = f"{match[0][:-1].strip()}{{{text[match.end() : end]}}}".join(
                (text[: match.start()], text[end + 1 :])
            )
    return text


# --- the caller's side ------------------------------------------------------------------------------------------------


class _WorkerGone(Exception):
    pass


class _Worker:
    """One worker process, started on first use and kept; callers from several threads take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False

    def ask(self, given: str, gold: str, seconds: float) -> Judged:
        """Return the worker's verdict, or None with the reason; replace a worker that is gone, once."""
        from time import monotonic

        with self._lock:
            for _ in range(2):
                try:
                    self._wait_until_ready()
                    started = monotonic()
                    verdict = self._exchange({"given": given, "gold": gold}, seconds)
                    return Judged(verdict, monotonic() - started)
                except (_WorkerGone, OSError):
                    self._stop()
                except BaseException:
                    self._stop()  # a Ctrl-C before the reply: the next caller must not take it for its own
                    raise
            return Judged(
                Verdict(same=None, how="the mathematics worker ended twice; it may have run out of memory"), seconds
            )

    def close(self) -> None:
        """End the worker."""
        with self._lock:
            self._stop()

    def _wait_until_ready(self) -> None:
        if self._process is None:
            self._start()
        if not self._ready:
            with contextlib.suppress(_WorkerGone):
                self._ready = self._line(START_SECONDS) is not None
        if not self._ready:
            raise MissingError(f"checking mathematics needs math-verify, which does not start: {' '.join(_COMMAND)}")

    def _exchange(self, question: dict[str, str], seconds: float) -> Verdict:
        stdin = present(present(self._process).stdin)
        stdin.write(json.dumps(question).encode() + b"\n")
        stdin.flush()
        line = self._line(seconds)
        if line is None:
            self._stop()
            self._start()  # its imports overlap with the caller's next work
            return Verdict(same=None, how=f"timed out after {seconds:.2g} s")
        return Verdict(**json.loads(line))

    def _line(self, seconds: float) -> bytes | None:
        """Read the next line; None if none came in time."""
        stdout = present(present(self._process).stdout)
        if not connection.wait([stdout.fileno()], seconds):
            return None
        if not (line := stdout.readline()):
            raise _WorkerGone
        return line

    def _start(self) -> None:
        self._process = subprocess.Popen(
            _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def _stop(self) -> None:
        process, self._process, self._ready = self._process, None, False
        if process is not None:
            process.kill()
            with contextlib.suppress(OSError), process:  # closes its pipes and waits for it
                pass


_worker = _Worker()


def same(given: str, gold: str, *, seconds: float) -> Judged:
    """Return whether two expressions are equal; may wait for the worker to start, which is not counted."""
    given, gold = to_latex(given), to_latex(gold)
    if any(_TOO_LARGE.search(text) for text in (given, gold)):
        return Judged(Verdict(same=None, how="a number too large to compute"), 0.0)
    return _worker.ask(given, gold, seconds)


atexit.register(_worker.close)


# --- the worker's side ------------------------------------------------------------------------------------------------


def serve() -> None:
    """Answer questions until stdin ends."""
    import faulthandler
    import signal

    replies, sys.stdout = sys.stdout, sys.stderr  # a library's output must not be taken for an answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C at the terminal is for the caller
    _limit_memory()
    judge = _Judge()
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        faulthandler.dump_traceback_later(_LAST_RESORT_SECONDS, exit=True)
        verdict = judge(**json.loads(line))
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(vars(verdict)), file=replies, flush=True)


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # without it, only the deadline limits the worker
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


class _Judge:
    """math-verify, imported and warmed up."""

    def __init__(self) -> None:
        import logging

        import math_verify
        import sympy.parsing.sympy_parser
        import sympy.physics.units  # simplify imports it
        from latex2sympy2_extended import latex2sympy
        from latex2sympy2_extended.latex2sympy2 import ConversionConfig
        from math_verify.grader import should_treat_as_complex

        logging.disable(logging.CRITICAL)
        self._verify = math_verify.verify
        self._latex2sympy = latex2sympy
        self._config = ConversionConfig(lowercase_symbols=False)  # n in N is not N in N
        self._is_complex = should_treat_as_complex
        for given, gold in ((r"\frac{\sqrt{8}}{2}", r"\sqrt{2}"), (r"\sin x+x^{2}", "x"), ("x > 2", r"(2,\infty)")):
            self(given, gold)  # sympy imports half of itself on first use, and its modules sympify their own strings
        sympy.parsing.sympy_parser.parse_expr = _read_literal
        sympy.parsing.sympy_parser.eval_expr = _read_literal

    def __call__(self, given: str, gold: str) -> Verdict:
        try:
            readings = [self._read(gold), self._read(given)]
            same = self._verify(*readings, timeout_seconds=None, allow_set_relation_comp=True, raise_on_error=True)
            return Verdict(same=bool(same), how="equal as expressions" if same else "different expressions")
        except Exception as error:  # ANTLR and sympy raise anything: undecided, and the worker continues
            return Verdict(same=None, how=f"cannot be read or compared as mathematics ({type(error).__name__})")

    def _read(self, text: str) -> Any:
        reading = self._latex2sympy(
            text, is_real=not self._is_complex(text), normalization_config=None, conversion_config=self._config
        )
        if reading is None:
            raise ValueError("it has no reading")
        return reading


def _read_literal(text: str, *_: Any, **__: Any) -> Any:
    from sympy import Float, Integer

    if not re.fullmatch(r"[0-9]*\.?[0-9]*(?:[eE][-+]?[0-9]+)?", text):
        raise ValueError("texts are never evaluated")
    return Integer(int(text)) if text.isdigit() else Float(text)


if __name__ == "__main__":
    serve()
