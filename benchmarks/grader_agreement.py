r"""Check the grader on real gold answers: each must equal its usual rewritings and differ from its neighbour's.

    PLANTUNE_DATA=FOLDER python -m benchmarks.grader_agreement

FOLDER holds gsm8k_train.jsonl, gsm8k_test.jsonl and olympiadbench.jsonl, one {"id": ..., "answer": ...} per line.
The truth does not come from the grader: rewritings are equal by construction, and two neighbours are equal if their
texts are, or their values as fractions.
"""

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from time import perf_counter

from benchmarks.report import machine, markdown, write
from plantune_lite.grading import sympy_worker
from plantune_lite.grading.answers import final_answer, same_answer

SOURCES = {"gsm8k": ("gsm8k_train.jsonl", "gsm8k_test.jsonl"), "olympiadbench": ("olympiadbench.jsonl",)}
MAX_LISTED = 50

_FRACTION = re.compile(r"(-?)\\frac\{(-?[0-9]+)\}\{([0-9]+)\}")
_SMALL = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

# --- rewritings -------------------------------------------------------------------------------------------------------


def rewritings(gold: str) -> Iterator[tuple[str, str | None]]:
    """Yield the usual ways to write a gold answer that apply, as (name, text) pairs."""
    gold = gold.strip()
    yield "itself", gold
    yield r"\boxed{} found by final_answer", final_answer(f"Adding up, we get $\\boxed{{{gold}}}$.")
    yield '"The answer is X." found by final_answer', final_answer(f"So they agree.\nThe answer is {gold}.")
    yield '"#### X" found by final_answer', final_answer(f"So they agree.\n#### {gold}")
    yield "$X$", f"${gold}$"
    yield r"\( X \)", rf"\( {gold} \)"
    yield "**X**.", f"**{gold}**."
    yield "spaces doubled", gold.replace(" ", "  ").replace(",", " , ") if not _is_number(gold) else f" {gold} "
    if _is_number(gold):
        yield from _rewritten_integers(gold.replace(",", ""))
    if r"\frac" in gold:
        yield r"\dfrac", gold.replace(r"\frac", r"\dfrac")
        yield r"\tfrac", gold.replace(r"\frac", r"\tfrac")
    if match := _FRACTION.fullmatch(gold):
        yield "a/b", f"{match[1]}{match[2]}/{match[3]}"
        yield r"\frac{a}{b} as {a}/{b} in $", f"${match[1]}{match[2]} / {match[3]}$"
        yield "unicode minus", f"{match[1]}{match[2]}/{match[3]}".replace("-", "\u2212")
        value = Fraction(int(match[2]), int(match[3]))
        if 10**6 % value.denominator == 0:
            yield "the fraction as a decimal", f"{match[1]}{float(value)}"
        if abs(value) > 1:
            whole, rest = divmod(abs(value.numerator), value.denominator)
            if not match[1] and value > 0:
                yield "mixed number", rf"{whole} \frac{{{rest}}}{{{value.denominator}}}"
    if r"\sqrt{" in gold and "{" not in gold.replace(r"\sqrt{", "").replace(r"\frac{", ""):
        yield "sqrt() as plain text", re.sub(r"\\sqrt\{([^{}]*)\}", r" sqrt(\1)", gold)
    if "(" in gold:
        yield r"\left( \right)", gold.replace("(", r"\left(").replace(")", r"\right)")
    if "=" not in gold and not _parts(gold)[1:] and "cup" not in gold and not re.search(r"[<>]|\\geq|\\leq", gold):
        yield "x = X", f"x = {gold}"
    elif gold.count("=") == 1 and re.fullmatch(r"[A-Za-z](\([A-Za-z]\))?\s*=.*", gold) and not _parts(gold)[1:]:
        yield "without the name before =", gold.partition("=")[2]
    yield from _rewritten_lists(gold)
    if swapped := _terms_swapped(gold):
        yield "two terms swapped: n^2-n as -n+n^2", swapped


def _terms_swapped(gold: str) -> str | None:
    depth = 0
    if len(_parts(gold)) > 1 or re.search(r"[=<>]|floor|ceil|[<>]|\\[gl]eq|cup", gold):
        return None
    for at, char in enumerate(gold):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0 and at and char in "+-":
            first, rest = gold[:at].strip(), gold[at:].strip()
            return f"{rest} + {first}" if not first.startswith("-") else f"{rest} {first}"
    return None


def _rewritten_integers(gold: str) -> Iterator[tuple[str, str]]:
    number = int(gold)
    yield "X.0", f"{gold}.0"
    yield "X.00", f"{gold}.00"
    yield "$X", f"${gold}" if number >= 0 else f"-${-number}"
    yield r"\$X.00", rf"\${gold}.00" if number >= 0 else rf"-\${-number}.00"
    yield "X dollars", f"{gold} dollars"
    yield "X apples", f"{gold} apples"
    yield r"X \text{ km}", rf"{gold}\text{{ km}}"
    yield "X%", f"{gold}%"
    yield r"\frac{X}{1}", rf"\frac{{{gold}}}{{1}}"
    if abs(number) >= 1000:
        for name, comma in (("1,234", ","), ("1{,}234", "{,}"), (r"1\,234", r"\,")):
            yield name, f"{number:,}".replace(",", comma)
    if number < 0:
        yield "unicode minus", gold.replace("-", "\u2212")
    if 0 <= number < len(_SMALL):
        yield "as a word", _SMALL[number]


def _rewritten_lists(gold: str) -> Iterator[tuple[str, str]]:
    parts = _parts(gold)
    if len(parts) < 2 or _is_number(gold):
        return
    if not (
        parts[0].count("=") == 1 and not any("=" in part for part in parts[1:])
    ):  # "x=1, 2": a name for all of them
        yield "list in reverse", ", ".join(reversed(parts))
    yield "list with and", f"{', '.join(parts[:-1])} and {parts[-1]}"
    if not any("=" in part for part in parts) and len(set(parts)) == len(parts):
        yield r"list as a set \{\}", rf"\{{{', '.join(parts)}\}}"


def _parts(text: str) -> list[str]:
    parts, depth = [""], 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"-?[0-9]{1,3}(,[0-9]{3})+|-?[0-9]+", text))


def as_fraction(text: str) -> Fraction | None:
    """Parse a plain number or a plain \\frac without the grader."""
    text = text.strip().replace(" ", "")
    if match := _FRACTION.fullmatch(text):
        return Fraction(int(match[1] + match[2]), int(match[3]))
    try:
        return Fraction(text.replace(",", "") if _is_number(text) else text)
    except (ValueError, ZeroDivisionError):
        return None


def truly_same(left: str, right: str) -> bool:
    """Return whether two gold answers are equal, by text or by value."""
    if re.sub(r"\s", "", left) == re.sub(r"\s", "", right):
        return True
    return as_fraction(left) is not None and as_fraction(left) == as_fraction(right)


# --- counting ---------------------------------------------------------------------------------------------------------


@dataclass
class Count:
    """Count how often the grader agreed in a check."""

    pairs: int = 0
    agree: int = 0
    disagree: int = 0
    none: int = 0
    by_worker: int = 0
    misses: list[dict[str, str]] = field(default_factory=list)


def counted_worker() -> Callable[[], int]:
    """Count the calls of the worker; return a function that gives their number since its last call."""
    calls, real = Counter(), sympy_worker._worker.ask

    def ask(*args: object) -> sympy_worker.Judged:
        calls["worker"] += 1
        return real(*args)

    sympy_worker._worker.ask = ask
    return lambda: calls.pop("worker", 0)


def data_folder() -> Path:
    """Return the folder with the benchmarks' JSONL files."""
    folder = os.environ.get("PLANTUNE_DATA")
    if not folder or not Path(folder).is_dir():
        sys.exit(f"PLANTUNE_DATA is {folder!r}: set it to the folder with gsm8k_test.jsonl, olympiadbench.jsonl ...")
    return Path(folder)


def golds_of(data: Path, source: str) -> list[str]:
    """Read the gold answers of a source, in order."""
    return [str(json.loads(line)["answer"]) for file in SOURCES[source] for line in open(data / file, encoding="utf-8")]


def main() -> None:
    """Check all answers and write the page."""
    data = data_folder()
    from_worker = counted_worker()
    started = perf_counter()
    counts: dict[tuple[str, str], Count] = {}
    skipped: list[dict[str, str]] = []

    def check(source: str, name: str, given: str | None, gold: str, expected: bool) -> None:
        count = counts.setdefault((source, name), Count())
        verdict = same_answer(given, gold)
        count.pairs += 1
        count.by_worker += from_worker() > 0
        count.agree += verdict.same is expected
        count.none += verdict.same is None
        count.disagree += verdict.same is (not expected)
        if verdict.same is not expected:
            count.misses.append(
                {"source": source, "check": name, "given": str(given), "gold": gold, "how": verdict.how}
            )

    for source in SOURCES:
        golds = golds_of(data, source)
        for gold in golds:
            for name, given in rewritings(gold):
                check(source, name, given, gold, True)
            if source == "olympiadbench" and (expanded := expanded_by_sympy(gold)):
                check(source, "expanded and printed by sympy", expanded, gold, True)
        for gold, neighbour in zip(golds, golds[1:] + golds[:1], strict=True):
            if truly_same(gold, neighbour):
                skipped.append({"source": source, "gold": gold, "neighbour": neighbour})
            else:
                check(source, "differs from its neighbour", neighbour, gold, False)
    _write(counts, skipped, data, perf_counter() - started)


def expanded_by_sympy(gold: str) -> str | None:
    """Parse a gold answer with math-verify, expand and print it; None if it has no root or symbol."""
    import math_verify
    import sympy

    if not re.search(r"\\sqrt|\\pi|[a-z]", gold.replace(r"\frac", "")):
        return None
    try:
        parsed = math_verify.parse(f"${gold}$", [math_verify.LatexExtractionConfig()], fallback_mode="no_fallback")
        if (
            parsed and isinstance(parsed[0], sympy.Expr) and not re.search("[NRm]", gold)
        ):  # it lowercases letters and drops m
            return sympy.latex(sympy.expand(parsed[0].doit()))
    except Exception:  # an expression that sympy cannot expand is no rewriting
        return None
    return None


def unparsable_by_math_verify(data: Path) -> list[str]:
    """Return the gold answers of olympiadbench that plain math-verify cannot parse between dollars."""
    import math_verify

    golds = golds_of(data, "olympiadbench")
    return [gold for gold in golds if not math_verify.parse(f"${gold}$", fallback_mode="no_fallback")]


# --- the page ---------------------------------------------------------------------------------------------------------


def _write(
    counts: dict[tuple[str, str], Count],
    skipped: list[dict[str, str]],
    data: Path,
    seconds: float,
) -> None:
    misses = [miss for count in counts.values() for miss in count.misses]
    unparsable = unparsable_by_math_verify(data)
    rows = [
        {"source": source, "check": name, **{key: value for key, value in vars(count).items() if key != "misses"}}
        for (source, name), count in counts.items()
    ]
    table = []
    for source in SOURCES:
        mine = [row for row in rows if row["source"] == source]
        total = {key: sum(row[key] for row in mine) for key in ("pairs", "agree", "disagree", "none", "by_worker")}
        for row in [*mine, {"source": source, "check": "**all**", **total}]:
            numbers = [f"{row[key]:,}" for key in ("pairs", "agree", "disagree", "none")]
            table.append((source, row["check"], *numbers, f"{100 * row['by_worker'] / row['pairs']:.1f} %"))
    same = {
        source: Counter(f"{row['gold']} = {row['neighbour']}" for row in skipped if row["source"] == source)
        for source in SOURCES
    }
    lines = [markdown(("source", "check", "pairs", "agree", "disagree", "None", "sent to the worker"), table), ""]
    for source in SOURCES:
        lines.append(
            f"- {source}: {same[source].total()} neighbour pairs left out because their answers are equal "
            f"({len(same[source])} values, listed in the JSON)."
        )
    lines.append(
        f"- olympiadbench golds that plain math-verify cannot parse: {', '.join(f'`{gold}`' for gold in unparsable)}."
    )
    lines += [
        "",
        f"Misses: {len(misses)}" + (f", of which {MAX_LISTED} are listed." if len(misses) > MAX_LISTED else "."),
        "",
    ]
    lines += [
        f"- {miss['source']}, {miss['check']}: `{miss['given']}` against `{miss['gold']}`: {miss['how']}"
        for miss in misses[:MAX_LISTED]
    ]
    write(
        "grader_agreement",
        command="PLANTUNE_DATA=FOLDER python -m benchmarks.grader_agreement",
        about="The grader on real gold answers: each must equal its usual rewritings and differ from the next row's. "
        "None: the grader could not decide.",
        found={
            "machine": machine("math-verify", "latex2sympy2_extended", "sympy"),
            "seconds": round(seconds, 1),
            "rows": rows,
            "neighbours_left_out": {source: counter.most_common() for source, counter in same.items()},
            "golds_math_verify_cannot_parse": unparsable,
            "misses": misses[:MAX_LISTED],
        },
        text="\n".join(lines),
    )


if __name__ == "__main__":
    main()
