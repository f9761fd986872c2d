r"""Does the grader agree with real gold answers? Each must equal itself and its usual rewritings, and differ from its neighbour's.

    PLANTUNE_DATA=FOLDER python benchmarks/grader_agreement.py

FOLDER holds gsm8k_train.jsonl, gsm8k_test.jsonl and olympiadbench.jsonl, one {"id": ..., "answer": ...} a line. The truth does
not come from the grader: a rewriting is the same by how it is made, and two neighbours are the same where their texts or their
values as fractions are. Writes grader_agreement.json and grader_agreement.md beside this file.
"""

import importlib.metadata
import json
import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from time import perf_counter

from plantune_lite import symbols
from plantune_lite.verify import answer_kind, final_answer, same_answer

HERE = Path(__file__).parent
SOURCES = {"gsm8k": ("gsm8k_train.jsonl", "gsm8k_test.jsonl"), "olympiadbench": ("olympiadbench.jsonl",)}
MOST_LISTED = 50

_INTEGER = re.compile(r"-?[0-9]+")
_FRACTION = re.compile(r"(-?)\\frac\{(-?[0-9]+)\}\{([0-9]+)\}")
_SMALL = "zero one two three four five six seven eight nine ten eleven twelve".split()

# --- rewritings -------------------------------------------------------------------------------------------------------


def rewritings(gold: str) -> Iterator[tuple[str, str | None]]:
    """The usual ways to write a gold answer; (name, text) pairs, as many as apply."""
    gold = gold.strip()
    yield "itself", gold
    yield r"\boxed{} found by final_answer", final_answer(f"Adding up, we get $\\boxed{{{gold}}}$.")
    yield '"The answer is X." found by final_answer', final_answer(f"So they agree.\nThe answer is {gold}.")
    yield '"#### X" found by final_answer', final_answer(f"So they agree.\n#### {gold}")
    yield "$X$", f"${gold}$"
    yield r"\( X \)", rf"\( {gold} \)"
    yield "**X**.", f"**{gold}**."
    yield "spaces doubled", gold.replace(" ", "  ").replace(",", " , ") if not _is_number(gold) else f" {gold} "
    if _INTEGER.fullmatch(gold.replace(",", "")):
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
        yield "sqrt() as plain text", re.sub(r"\\sqrt\{([^{}]*)\}", r"sqrt(\1)", gold)
    if "(" in gold:
        yield r"\left( \right)", gold.replace("(", r"\left(").replace(")", r"\right)")
    if "=" not in gold and not _parts(gold)[1:] and "cup" not in gold and not re.search(r"[<>]|\\geq|\\leq", gold):
        yield "x = X", f"x = {gold}"
    elif gold.count("=") == 1 and re.fullmatch(r"[A-Za-z](\([A-Za-z]\))?\s*=.*", gold) and not _parts(gold)[1:]:
        yield "without the name before =", gold.partition("=")[2]
    yield from _rewritten_lists(gold)


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
    if not (parts[0].count("=") == 1 and not any("=" in part for part in parts[1:])):  # "x=1, 2": a name for all of them
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
    """The value of a plain number or a plain \\frac, read without the grader."""
    text = text.strip().replace(" ", "")
    if match := _FRACTION.fullmatch(text):
        return Fraction(int(match[1] + match[2]), int(match[3]))
    try:
        return Fraction(text.replace(",", "") if _is_number(text) else text)
    except (ValueError, ZeroDivisionError):
        return None


def truly_same(left: str, right: str) -> bool:
    """Whether two gold answers are one answer, by text or by value."""
    if re.sub(r"\s", "", left) == re.sub(r"\s", "", right):
        return True
    return as_fraction(left) is not None and as_fraction(left) == as_fraction(right)


# --- counting ---------------------------------------------------------------------------------------------------------


@dataclass
class Count:
    """How often the grader agreed in one check."""

    pairs: int = 0
    agree: int = 0
    disagree: int = 0
    none: int = 0
    by_worker: int = 0
    misses: list[dict[str, str]] = field(default_factory=list)


def counted_worker() -> Callable[[], int]:
    """Count the pairs that go to the worker; the function returned says how many since it was last asked."""
    asked, real = Counter(), symbols._worker.ask

    def ask(*args: object) -> symbols.Judged:
        asked["worker"] += 1
        return real(*args)

    symbols._worker.ask = ask
    return lambda: asked.pop("worker", 0)


def main() -> None:
    """Check everything and write the table."""
    data = Path(os.environ.get("PLANTUNE_DATA", ""))
    if not os.environ.get("PLANTUNE_DATA") or not data.is_dir():
        sys.exit(f"PLANTUNE_DATA is {os.environ.get('PLANTUNE_DATA')!r}: set it to the folder with the benchmarks' JSONL files")
    from_worker = counted_worker()
    started = perf_counter()
    counts: dict[tuple[str, str], Count] = {}
    kinds: dict[str, Counter[str]] = {}
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
            count.misses.append({"source": source, "check": name, "given": str(given), "gold": gold, "how": verdict.how})

    for source, files in SOURCES.items():
        rows = [json.loads(line) for file in files for line in open(data / file, encoding="utf-8")]
        golds = [str(row["answer"]) for row in rows]
        kinds[source] = Counter(answer_kind(gold) for gold in golds)
        from_worker()
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
    write(counts, kinds, skipped, data, perf_counter() - started)


def expanded_by_sympy(gold: str) -> str | None:
    """The gold answer as math-verify parses it, expanded and printed again; None where that is no expression with a root or symbol."""
    import math_verify
    import sympy

    if not re.search(r"\\sqrt|\\pi|[a-z]", gold.replace(r"\frac", "")):
        return None
    try:
        parsed = math_verify.parse(f"${gold}$", [math_verify.LatexExtractionConfig()], fallback_mode="no_fallback")
        if parsed and isinstance(parsed[0], sympy.Expr) and "N" not in gold and "R" not in gold:  # it lowers letters
            return sympy.latex(sympy.expand(parsed[0].doit()))
    except Exception:  # an expression that sympy cannot expand is no rewriting
        return None
    return None


def unparsable_by_math_verify(data: Path) -> list[str]:
    """Gold answers of olympiadbench that math-verify itself does not parse, given in dollars."""
    import math_verify

    golds = [json.loads(line)["answer"] for line in open(data / "olympiadbench.jsonl", encoding="utf-8")]
    return [gold for gold in golds if not math_verify.parse(f"${gold}$", fallback_mode="no_fallback")]


# --- the table --------------------------------------------------------------------------------------------------------


def write(
    counts: dict[tuple[str, str], Count],
    kinds: dict[str, Counter[str]],
    skipped: list[dict[str, str]],
    data: Path,
    seconds: float,
) -> None:
    """grader_agreement.json and grader_agreement.md."""
    misses = [miss for count in counts.values() for miss in count.misses]
    unparsable = unparsable_by_math_verify(data)
    machine = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("math-verify", "latex2sympy2_extended", "sympy")},
    }
    rows = [
        {"source": source, "check": name, **{k: v for k, v in vars(count).items() if k != "misses"}}
        for (source, name), count in counts.items()
    ]
    result = {
        "machine": machine,
        "seconds": round(seconds, 1),
        "rows": rows,
        "kinds": {source: dict(counter.most_common()) for source, counter in kinds.items()},
        "neighbours_skipped": {
            source: Counter(f"{row['gold']} = {row['neighbour']}" for row in skipped if row["source"] == source).most_common()
            for source in SOURCES
        },
        "misses": misses[:MOST_LISTED],
        "golds_math_verify_cannot_parse": unparsable,
    }
    text = json.dumps(result, ensure_ascii=False, indent=1)
    (HERE / "grader_agreement.json").write_text(text + "\n", encoding="utf-8", newline="\n")
    (HERE / "grader_agreement.md").write_text(markdown(result, len(misses)), encoding="utf-8", newline="\n")
    print(markdown(result, len(misses)))


def markdown(result: dict, all_misses: int) -> str:
    """The table for people."""
    lines = [
        "# The grader on real gold answers",
        "",
        "`PLANTUNE_DATA=FOLDER python benchmarks/grader_agreement.py`; "
        + ", ".join(f"{name} {value}" for name, value in result["machine"].items())
        + f"; {result['seconds']} s.",
        "A rewriting should be the same answer, a neighbour's gold another one. `None` counts apart: the grader could not tell.",
        "",
        "| source | check | pairs | agree | disagree | None | asked the worker |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for source in SOURCES:
        rows = [row for row in result["rows"] if row["source"] == source]
        total = {key: sum(row[key] for row in rows) for key in ("pairs", "agree", "disagree", "none", "by_worker")}
        for row in [*rows, {"source": source, "check": "**all**", **total}]:
            numbers = " | ".join(f"{row[key]:,}" for key in ("pairs", "agree", "disagree", "none"))
            check = row["check"].replace("|", r"\|")
            lines.append(f"| {source} | {check} | {numbers} | {100 * row['by_worker'] / row['pairs']:.1f} % |")
    lines.append("")
    for source, counted in result["kinds"].items():
        lines.append(f"- {source}, kinds of gold answer: " + ", ".join(f"{kind} {n}" for kind, n in counted.items()) + ".")
    for source, same in result["neighbours_skipped"].items():
        lines.append(
            f"- {source}, neighbours left out because they are the same answer: {sum(n for _, n in same)} "
            f"({len(same)} values, in the JSON)."
        )
    lines.append(
        f"- olympiadbench golds that math-verify alone does not parse: {len(result['golds_math_verify_cannot_parse'])}"
        + "".join(f"\n  - `{gold}`" for gold in result["golds_math_verify_cannot_parse"])
    )
    lines += ["", f"## All {all_misses} misses" if all_misses <= MOST_LISTED else f"## {MOST_LISTED} of {all_misses} misses", ""]
    lines += [f"- {m['source']}, {m['check']}: `{m['given']}` against `{m['gold']}`: {m['how']}" for m in result["misses"]]
    return "\n".join(lines if result["misses"] else [*lines, "None."]) + "\n"


if __name__ == "__main__":
    main()
