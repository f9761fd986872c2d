"""Compare answer checks per second with plain math-verify (parse both sides, verify, its defaults) in one process.

    PLANTUNE_DATA=FOLDER python -m benchmarks.verify

The pairs are gold answers of gsm8k (numeric) and olympiadbench (symbolic: those that are not plain numbers), each with
one of its usual rewritings in turn and with its neighbour's gold. math-verify gets LaTeX in dollars, as it expects.
"""

import itertools
import random
import re
import statistics
from collections.abc import Callable, Sequence
from time import perf_counter

from benchmarks.grader_agreement import as_fraction, data_folder, expanded_by_sympy, golds_of, rewritings
from benchmarks.report import machine, markdown, write
from plantune_lite.grading import sympy_worker
from plantune_lite.grading.answers import final_answer, same_answer

ROUNDS = 7
NUMERIC_GOLDS = 300
Pair = tuple[str, str]  # given, gold
_PLAIN = re.compile(r"-?[0-9]{1,3}(?:,[0-9]{3})*(?:\.[0-9]+)?%?|-?[0-9]+(?:\.[0-9]+)?(?: ?%| [a-z]+)?|[a-z]+")


def pairs_of(golds: Sequence[str], *, symbolic: bool) -> list[Pair]:
    """Pair each gold with one rewriting and with its neighbour's gold."""
    pairs = []
    for number, (gold, neighbour) in enumerate(itertools.pairwise(golds)):
        usual = [
            text
            for name, text in rewritings(gold)
            if text and text != gold and "**" not in text and "final" not in name
        ]
        if symbolic and number % 2 and (expanded := expanded_by_sympy(gold)):
            usual = [expanded]
        pairs += [(usual[number % len(usual)], gold), (neighbour, gold)]
    return pairs


def plain_math_verify(pair: Pair) -> bool:
    """Check a pair as a user of math-verify would."""
    from math_verify import parse, verify

    given, gold = (text if "$" in text or r"\(" in text or _PLAIN.fullmatch(text) else f"${text}$" for text in pair)
    return verify(parse(gold), parse(given))


def ours(pair: Pair) -> bool:
    return same_answer(*pair).same is True


def rate(check: Callable[[Pair], bool], pairs: Sequence[Pair]) -> float:
    """Return checks per second."""
    began = perf_counter()
    for pair in pairs:
        check(pair)
    return len(pairs) / (perf_counter() - began)


def needs_the_worker(pair: Pair) -> bool:
    """Return whether the worker decides a pair."""
    real, calls = sympy_worker.same, []
    sympy_worker.same = lambda *texts, **options: calls.append(texts) or real(*texts, **options)
    try:
        same_answer(*pair)
    finally:
        sympy_worker.same = real
    return bool(calls)


def main() -> None:
    """Measure and write the table."""
    data = data_folder()
    numeric = random.Random(0).sample(golds_of(data, "gsm8k"), NUMERIC_GOLDS)
    symbolic = [gold for gold in golds_of(data, "olympiadbench") if as_fraction(gold) is None]
    suites = {
        "numeric (gsm8k)": pairs_of(numeric, symbolic=False),
        "symbolic (olympiadbench)": pairs_of(symbolic, symbolic=True),
    }
    hard = [pair for pair in suites["symbolic (olympiadbench)"] if needs_the_worker(pair)]
    suites["symbolic, of which the worker decides"] = hard
    results, rows = {}, []
    for name, pairs in suites.items():
        for check in (ours, plain_math_verify):  # warm-up: imports, caches, the worker's start
            rate(check, pairs)
        rates = [(rate(ours, pairs), rate(plain_math_verify, pairs)) for _ in range(ROUNDS)]
        ratios = [mine / plain for mine, plain in rates]
        medians = [statistics.median(side) for side in zip(*rates, strict=True)]
        differ = [pair for pair in pairs if ours(pair) != plain_math_verify(pair)]
        results[name] = {"pairs": len(pairs), "rates": rates, "ratios": ratios, "verdicts_differ": differ[:50]}
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        rows.append(
            (name, len(pairs), *(f"{x:,.0f}" for x in medians), f"{statistics.median(ratios):.2f}", spread, len(differ))
        )
    text = "So she pays the rest. " * 200 + r"The answer is $\boxed{\frac{1}{2}}$."
    extractions = rate(lambda pair: final_answer(pair[0]) is not None, [(text, "")] * 2_000)
    columns = (
        "pairs",
        "n",
        "ours, checks/s",
        "math-verify, checks/s",
        "ratio, median",
        "ratio, range",
        "verdicts differ",
    )
    write(
        "verify",
        command="PLANTUNE_DATA=FOLDER python -m benchmarks.verify",
        about=f"Answer checks per second compared with plain math-verify, {ROUNDS} rounds, alternating in one process.",
        found={
            "machine": machine("math-verify", "latex2sympy2_extended", "sympy"),
            "suites": results,
            "final_answer_per_second": extractions,
        },
        text=markdown(columns, rows)
        + f"\n\n`final_answer` on a text of {len(text):,} characters: {extractions:,.0f} per second.",
    )


if __name__ == "__main__":
    main()
