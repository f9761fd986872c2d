import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plantune_lite.grading import sympy_worker
from plantune_lite.grading.answers import can_check, final_answer, same_answer

# --- final_answer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"First \boxed{3}, so in all \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\left\{1, \frac{2}{3}\right\}} it is", r"\left\{1, \frac{2}{3}\right\}"),
        (r"\fbox{7} apples", "7"),
        (r"\boxed {7}", "7"),
        (r"It is \boxed{5}. Checking: \boxed{", "5"),
        (r"The answer is 4, so \boxed{9}", "9"),
        (r"\boxed{unclosed", None),
        (r"\boxed{}", None),
        ("She has 9 * 2 = 18.\n#### 18", "18"),
        ("#### 18\n\nQuestion: what next?", "18"),
        ("#### Final answer\nnothing", None),
        ("#### Step 1: add\nThe answer is 6.", "6"),
        ("The answer is 42. I hope it is correct.", "42"),
        ("the answer is $3.50.", "$3.50"),
        ("The answer is 5, no: the answer is 6", "6"),
        ("**Answer:** 3:30 pm", "3:30 pm"),
        ("Answer: **12 eggs**.", "12 eggs"),
        ("Final answer:\n\n7 apples", "7 apples"),
        ("The final answer is: $x=5$.", "$x=5$"),
        ("The correct option is (C).", "(C)"),
        ("Let me think.\n(B)", "(B)"),
        ("Let me think.\n**B.**", "B"),
        ("I do not know", None),
        ("42", None),
        ("", None),
    ],
)
def test_the_final_answer_is_the_last_one_marked_as_such(text, answer):
    assert final_answer(text) == answer


@given(st.text(max_size=200) | st.text(alphabet="\\boxed{}#answer is:\n*. B()", max_size=200))
def test_final_answer_of_any_text_is_a_part_of_it_or_none(text):
    answer = final_answer(text)
    assert answer is None or answer and answer in text


balanced = st.recursive(
    st.text(alphabet="ab1^_,.", min_size=1, max_size=5),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"\\frac{{{''.join(parts)}}}x"),
)


@given(balanced)
def test_a_box_gives_back_what_was_put_in_however_deep_its_braces(content):
    assert final_answer(f"First \\boxed{{0}}, then \\boxed{{{content}}} and so on.") == content


@pytest.mark.parametrize("text", ["{", "\\boxed{", "}", "#### ", "answer is ", "answer:\n", " ", "."])
def test_a_long_text_is_read_in_linear_time(text):
    began = time.perf_counter()
    final_answer(text * (100_000 // len(text)))
    assert time.perf_counter() - began < 1


# --- same_answer, rule by rule ----------------------------------------------------------------------------------------

SAME = {
    "numbers": [
        ("18", "18"), ("18.00", "18"), ("1,234", "1234"), ("1{,}234", "1234"), (r"1\,234", "1234"), ("-3", "−3"),
        ("+3", "3"),
        ("1e3", "1000"), (r"2.5 \times 10^3", "2500"), ("2.5 * 10^{3}", "2500"), ("5!", "120"), ("007", "7"),
        ("5 million", "5,000,000"), ("twenty", "20"), ("Three.", "3"), ("minus four", "-4"), (r"2^{10}", "1024"),
        ("2+3=5", "5"),
    ],
    "fractions": [
        ("1/2", r"\frac{1}{2}"), (r"\frac12", "0.5"), (r"\dfrac{2}{4}", "1/2"), ("1½", "3/2"), ("1 1/2", "1.5"),
        (r"-1\frac{1}{2}", "-1.5"),
        (r"\tfrac{1}{3}", "0.333333"), ("0.666667", "2/3"), ("½", ".5"), ("3:4", "3/4"),
        (r"\frac{-1}{1997}", r"-\frac{1}{1997}"),
    ],
    "wrapping": [
        ("$18$", "18"), (r"\( 18 \)", "18"), (r"\boxed{18}", "18"), ("**18**.", "18"), (r"\text{18}", "18"),
        ("`18`", "18"),
        (r"$\left( 1, 2 \right)$", "(1,2)"), (r"\mathrm{Paris}", "paris"), (r"\[ 18 \]", "18"), ("18\x00", "18"),
    ],
    "units on one side": [
        ("$18", "18"), (r"\$1,234.50", "1234.5"), ("18 dollars", "18"), ("€5", "5"), ("5 m", "5"),
        (r"5\text{ m}", "5"), ("5cm", "5"), ("2 cups", "2"), (r"3 \text{ cups}", "3"), ("3/4 cup", "0.75"),
        (r"90^{\circ}", "90"), ("90°", "90"), ("18", "18 eggs"), ("-$5", "-5"),
        (r"2\sqrt{3} \text{ cm}", r"2\sqrt{3}"), ("five apples", "5"),
    ],
    "units on both sides": [
        ("18 duck eggs", "18 eggs"), ("1 egg", "1 eggs"), ("5 km", "5 kilometers"), ("$5", "5 dollars"),
        ("5 m^2", "5 square meters"),
        ("60 mph", "60 miles per hour"), ("10 percent", "10%"), ("5 m²", "5 sq m"),
    ],
    "percent": [("10%", "10"), ("10 %", "0.1"), ("0.1", r"10\%"), ("62.5%", r"\frac{5}{8}")],
    "equations": [
        ("x=5", "5"), ("5", "x = 5"), ("5=x", "x=5"), ("y=2x+1", "2x+1"), ("f(x)=2 x", "f(x) = 2x"),
        ("f(x)=x+1", "f(n)=n+1"),
        (r"x \in \{1,2\}", "1,2"), ("(x,y)=(3,4)", "(3,4)"), ("x=3, y=4", "y=4, x=3"), ("Total cost = $5", "5"),
    ],
    "lists and sets": [
        ("1, 2", "2,1"), ("1 and 2", "2,1"), ("x=1 or x=2", "1,2"), (r"\{1,2\}", r"\{2,1\}"), (r"\{1,1,2\}", "{1,2}"),
        (r"\pm 2", "2,-2"),
        (r"1 \pm \sqrt{2}", r"1-\sqrt{2}, 1+\sqrt{2}"), ("100, 200", "100,200"), ("(1,2), (3,4)", "(3,4),(1,2)"),
        (r"\emptyset", "{}"),
        ("[5]", "5"), ("5 apples and 3 pears", "3, 5"),
    ],
    "tuples, intervals, matrices": [
        ("(1,2)", "1,2"), ("1, 2, 3", "(1,2,3)"), ("[1,2,3]", "(1,2,3)"),
        (r"(-\infty, 5]", r"\left(-\infty,5\right]"), ("[0, 1/2]", "[0, 0.5]"),
        (r"(0,1)\cup(2,3)", r"(2,3) \cup (0,1)"), ("(0,1) U (2,3)", r"(0,1)\cup(2,3)"), ("x > 2", r"(2,\infty)"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "[[1,2],[3,4]]"), (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"),
        (r"\begin{bmatrix} \frac12 & 0 \end{bmatrix}", r"\begin{pmatrix} 0.5 & 0 \end{pmatrix}"),
    ],
    "times": [
        ("3:30", "03:30"), ("3:30 pm", "15:30"), ("3:30 p.m.", "3:30"), ("12:00 am", "0:00"), ("3 pm", "3:00 PM"),
        ("12:30 pm", "12:30"),
    ],
    "yes and no": [("yes", "True"), ("No.", "false"), ("Yes, because it is.", "yes"), ("TRUE", "yes")],
    "letters": [
        ("(A)", "A"), ("b", "B"), ("B.", "(B)"), ("option C", "(C)"), ("(D) 42", "D"), ("(D) 42", "42"),
        ("A. dog", "(A)"),
    ],
    "text": [
        ("Paris", "paris."), ("the cat", "Cat"), ("“New  York”", "new york"), ("> ) ]", "> ) ]"),
        (">)]", "> ) ]"), ("**] ]**.", "] ]"), ("Ａ dog", "a dog"), ("apple, pear", "apple, pear"),
    ],
    "symbols": [
        (r"\frac{\sqrt{8}}{2}", r"\sqrt{2}"), ("sqrt(2)", r"\sqrt 2"), ("√2", r"\sqrt{2}"), ("1.414214", r"\sqrt{2}"),
        ("2*x+1", "1+2x"),
        ("x**2 + 2*x + 1", "(x+1)^2"), (r"2\pi", "6.283185"), ("2π", r"2 \pi"), ("6 m", "6m"),
        (r"\sin^2 x + \cos^2 x", "1"),
        ("4^{1/2}", "2"), ("n(n+1)/2", r"\frac{n^2+n}{2}"), (r"k \geqslant 2", "k>=2"), (r"-1+4\pi^2", r"4\pi^{2}-1"),
        ("n^2 - n", "n(n-1)"),
    ],
}  # fmt: skip
DIFFERENT = {
    "numbers": [("18", "19"), ("0.33", "1/3"), ("1.6e-19", "1.7e-19"), ("-3", "3"), ("1,234", "1.234"), ("1/2", "2")],
    "units": [("5 km", "5 m"), ("$5", "€5"), ("5 m^2", "5 m"), ("10 apples", "10%"), ("10%", "20%"), ("10%", "1")],
    "equations": [("y=5", "x=5"), ("f(x)=x", "g(x)=x"), ("x=5", "6")],
    "several": [
        ("1,2", "5"), ("5", "1,2"), ("1,2,3", "1,2"), ("(1,2)", "(2,1)"), ("2,1", "(1,2)"), ("[0,5)", "(0,5)"),
        ("[0,5]", "[0,5)"),
        ("{1,2}", "(1,2)"), ("pear, apple", "apple, pear"), ("[[1,2],[3,4]]", "[[1,3],[2,4]]"), ("2,2,1", "2,1,1"),
    ],
    "times": [("3:30 am", "3:30 pm"), ("3:30", "3:31"), ("15:30", "3:30 am")],
    "words": [("yes", "no"), ("A", "B"), ("Paris", "London"), ("> )", "> ) ]"), ("> ] ]", ") } >"), (">", "> ]")],
    "symbols": [("5x", "5"), ("x", "5"), (r"\sqrt{2}", r"\sqrt{3}"), ("x+1", "x-1"), ("N-n", "0"), ("2ab", "2")],
}  # fmt: skip
UNDECIDED = {
    "empty": [("", "5"), (None, "5"), ("5", " "), ("\x00", "5")],
    "no number": [("unknown", "5"), ("I do not know", "5"), ("A", "5"), ("yes", "5")],
    "ambiguous": [("5 or 6", "5"), ("3/20", "3:20"), ("0,5", "[0,5]")],
    "unreadable": [("x +* 2", "x+1"), (r"\frac{x}{", "x+1"), ("9^{9^{9^{9}}}", "5"), ("no list", "1,2")],
}


def cases(table):
    return [
        pytest.param(*pair, id=f"{rule}: {pair[0]!s:.40} | {pair[1]:.40}")
        for rule, pairs in table.items()
        for pair in pairs
    ]


@pytest.mark.parametrize(("answer", "gold"), cases(SAME))
def test_it_is_the_same_answer(answer, gold):
    verdict = same_answer(answer, gold)
    assert verdict.same is True, verdict.how


@pytest.mark.parametrize(("answer", "gold"), cases(DIFFERENT))
def test_it_is_another_answer(answer, gold):
    verdict = same_answer(answer, gold)
    assert verdict.same is False, verdict.how


@pytest.mark.parametrize(("answer", "gold"), cases(UNDECIDED))
def test_it_cannot_be_told_and_the_verdict_says_why(answer, gold):
    verdict = same_answer(answer, gold)
    assert verdict.same is None and len(verdict.how) > 5


CHOICES = ("10 km", "12 km", r"\frac{1}{2}", "none of these")


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("B", "B", True), ("(b)", "B", True), ("B.", "12 km", True), ("option B", "B", True), ("12 km", "B", True),
        ("12", "B", True),
        ("B: 12 km", "B", True), ("(B) 12 km", "12 km", True), ("0.5", "C", True), ("None of these.", "D", True),
        ("A", "B", False),
        ("10", "B", False), ("13", "B", False), ("B: 10 km", "B", None), ("E", "B", None), ("", "B", None),
        ("B", "F", None),
        ("who knows", "B", None),
    ],
)  # fmt: skip
def test_a_choice_is_its_letter_or_its_text(answer, gold, same):
    verdict = same_answer(answer, gold, choices=CHOICES)
    assert verdict.same is same, verdict.how


def test_a_choice_whose_letter_and_text_disagree_is_ambiguous_and_its_exact_text_goes_first():
    assert same_answer("A", "B", choices=("B", "A")).same is None
    assert same_answer("-1", "B", choices=("1", "-1", "-i", "i")).same is True
    assert same_answer("Bb", "C", choices=("BB", "bb", "Bb")).same is True
    assert same_answer("C", "C", choices=("L", "R", "1/C", "C")).same is None
    assert same_answer("E. coli", "E. coli", choices=("yeast", "E. coli", "algae", "moss", "fern")).same is True


# --- properties -------------------------------------------------------------------------------------------------------

integers = st.integers(-(10**12), 10**12)
fractions = st.fractions(max_denominator=999)
numbers = integers.map(str) | fractions.map(str) | st.decimals(-(10**6), 10**6, places=3).map(str)


@given(
    st.recursive(
        numbers,
        lambda inner: st.lists(inner, min_size=2, max_size=4).map(lambda items: f"({', '.join(items)})"),
        max_leaves=8,
    )
)
def test_an_answer_equals_itself_however_it_is_spaced(text):
    assert same_answer(text.replace(" ", "   "), f"${text}$").same is True


@given(numbers, numbers)
def test_it_does_not_matter_which_of_two_numbers_is_the_gold_one(left, right):
    assert same_answer(left, right).same is same_answer(right, left).same


@given(integers, integers)
def test_two_numbers_are_the_same_exactly_if_they_are_equal(left, right):
    assert same_answer(str(left), str(right)).same is (left == right)


@given(fractions, fractions)
def test_two_fractions_are_the_same_exactly_if_they_are_equal(left, right):
    as_latex = rf"\frac{{{left.numerator}}}{{{left.denominator}}}"
    assert same_answer(as_latex, str(right)).same is (left == right)


@given(
    integers,
    st.sampled_from(
        ["{:,}", "${:,}", "{}.00", "{:,} dollars", "x = {}", r"\boxed{{{}}}", "**{}**", "{} / 1", r"$\frac{{{}}}{{1}}$"]
    ),
)
def test_a_rewritten_number_is_the_same_number_and_not_the_next(number, form):
    assert same_answer(form.format(number), str(number)).same is True
    assert same_answer(form.format(number), str(number + 1)).same is False


@given(st.lists(integers, min_size=2, max_size=6, unique=True), st.randoms(use_true_random=False))
def test_the_order_of_a_list_does_not_matter_and_of_a_tuple_does(items, rng):
    shuffled = rng.sample(items, len(items))
    given_list, gold = ", ".join(map(str, shuffled)), ", ".join(map(str, items))
    assert same_answer(given_list + ";", gold + ";").same is True
    assert same_answer(f"({given_list})", f"({gold})").same is (items == shuffled)


@settings(max_examples=300)
@given(st.text(max_size=60), st.text(alphabet="0123456789.,:$%{}()[]\\^_-+!/ =", max_size=40))
def test_any_two_texts_get_a_verdict_with_a_reason(left, right):
    verdict = same_answer(left, right)
    assert verdict.same in (True, False, None) and verdict.how


# --- hostile texts ----------------------------------------------------------------------------------------------------

HOSTILE = {
    "a tower of powers": "9^{9^{9^{9}}}",
    "a tower with a symbol": "x^{9^{9^{9}}}",
    "a tower with sqrt": r"\sqrt{2}^{9^{9^{9}}}",
    "a giant exponent": "x + 2^{1000000000}",
    "a giant factorial": "999999999!",
    "factorials of factorials": r"\sqrt{2} + 9!!!!",
    "100 kB of braces": "{" * 100_000,
    "100 kB of brackets": "(" * 50_000 + "1" + ")" * 50_000,
    "2 kB of brackets": "(" * 999 + "x" + ")" * 999,
    "2 kB of fractions": r"\frac{1}{" * 150 + "x" + "}" * 150,
    "NUL bytes": "\x00" * 1000 + "5x",
    "10^6 digits": "7" * 10**6,
    "10^6 digits in an expression": "x + " + "7" * 10**6,
    "a thousand commas": "x," * 999,
    "a thousand powers": "1^" * 900 + "1",
    "a thousand letters": "A)" * 900 + "1",
    "a thousand equations": "x=" * 900 + "1",
    "lone surrogates": "\ud800x^2",
    "a sum that takes for ever": r"\sum_{k=1}^{99999} \frac{k^{k}}{k!} x^k",
    "a product of many sums": "(x+y+z+1)^{200} (x-y)^{300}",
}


@pytest.fixture(scope="module")
def warm_worker():
    assert same_answer("2x", "x+x").same is True


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_text_is_answered_in_two_seconds_and_the_next_pair_works(text, warm_worker):
    for pair in ((text, "x+1"), ("x+1", text)):
        same_answer(
            "2x", "x+x"
        )  # a worker that the pair before had killed is back: its start has a deadline of its own
        began = time.perf_counter()
        verdict = same_answer(*pair)
        assert time.perf_counter() - began < 2
        assert verdict.same is not True
    assert same_answer("x+1", "1+x").same is True


def test_numbers_of_a_million_digits_are_compared_digit_by_digit():
    digits = "7" * 10**6
    assert same_answer(f" {digits} ", f"{digits}.0").same is True
    assert same_answer(digits, digits[:-1] + "8").same is False
    assert same_answer("0" * 10_000 + "5", "5").same is True


def test_two_long_lists_are_compared_quickly():
    numbers = [f"{n}.5" for n in range(300)]
    gold, given_list = ", ".join(numbers), ", ".join(reversed(numbers))
    began = time.perf_counter()
    assert same_answer(given_list, gold).same is True
    assert same_answer(given_list.replace(".5", ".25"), gold).same is None
    assert time.perf_counter() - began < 2


def test_a_pair_that_takes_too_long_is_undecided_and_the_next_is_not(monkeypatch):
    assert sympy_worker.same("x+x", "2x", seconds=5).verdict.same is True
    before = sympy_worker._worker._process.pid
    slow = sympy_worker.same(r"\sum_{k=1}^{99999} \frac{k^{k}}{k!} x^k", "x+1", seconds=0.2)
    assert slow.verdict.same is None and slow.verdict.how == "timed out after 0.2 s"
    assert sympy_worker._worker._process.pid != before
    assert sympy_worker.same("x+x", "2x", seconds=5).verdict.same is True


EVIL = [
    "__import__('os').system('touch {}')",
    "exec(open('{}','w'))",
    "open('{}','w')+1",
    "x.__class__.__base__.__subclasses__()",
    r"\text{{__import__('os').system('touch {}')}}",
    "lambda: open('{}','w')",
    "f(__import__('os').mkdir('{}'))",
]


@pytest.mark.parametrize("text", EVIL)
def test_no_text_is_ever_run(text, tmp_path):
    mark = tmp_path / "ran"
    text = text.format(mark)
    for answer in (text, f"x + {text}", f"${text}$", f"({text}, 1)"):
        same_answer(answer, "x+1")
        sympy_worker.same(answer, "x+1", seconds=1)
    assert not mark.exists()


def test_the_worker_reads_nothing_but_literals_where_sympy_would_eval():
    code = """
from plantune_lite.grading.sympy_worker import _Judge
judge = _Judge()
import sympy
assert sympy.sympify("12") == 12 and sympy.Number("1.5") == 1.5
for text in ("__import__('os').getpid()", "x+1", "[].append(1)"):
    try:
        sympy.sympify(text)
    except Exception as error:
        print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["refused"] * 3, done.stderr


# --- the worker -------------------------------------------------------------------------------------------------------


def test_a_worker_killed_from_outside_is_replaced(warm_worker):
    before = sympy_worker._worker._process.pid
    os.kill(before, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
    assert same_answer("3x", "x+2x").same is True
    assert sympy_worker._worker._process.pid != before


def test_threads_and_an_event_loop_may_ask_at_once():
    pairs = [(f"{n}x+{n}", f"{n}(x+1)") for n in range(2, 10)]
    found = []
    threads = [threading.Thread(target=lambda pair=pair: found.append(same_answer(*pair).same)) for pair in pairs]
    for thread in threads:
        thread.start()

    async def ask():
        return same_answer("x+x", "2x").same, await asyncio.to_thread(same_answer, "3x", "2x")

    mine, theirs = asyncio.run(ask())
    for thread in threads:
        thread.join()
    assert found == [True] * len(pairs) and mine is True and theirs.same is False


def test_an_interpreter_ends_with_its_worker_and_without_a_word():
    code = "from plantune_lite.grading import sympy_worker, answers; "
    code += "print(answers.same_answer('x+x', '2x').same, sympy_worker._worker._process.pid)"
    done = subprocess.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, timeout=60)
    same, pid = done.stdout.split()
    assert same == "True" and done.stderr == "" and done.returncode == 0
    with pytest.raises(OSError):
        os.kill(int(pid), 0)


def test_the_worker_ends_with_its_stdin_and_writes_nothing_but_json():
    worker = subprocess.run(
        [sys.executable, "-m", "plantune_lite.grading.sympy_worker"],
        input='{"given": "x+x", "gold": "2x"}\n{"given": "x", "gold": "2x"}\n',
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    replies = [json.loads(line) for line in worker.stdout.splitlines()]
    assert replies[0] == {"ready": True} and [reply["same"] for reply in replies[1:]] == [True, False]
    assert worker.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the address space is limited only where the platform can")
def test_the_worker_has_an_address_space_limit(warm_worker):
    with open(f"/proc/{sympy_worker._worker._process.pid}/limits", encoding="utf-8") as file:
        limit = next(line for line in file if line.startswith("Max address space")).split()[3]
    assert int(limit) == sympy_worker.MEMORY_BYTES


def test_numbers_and_words_never_start_the_worker():
    code = """
from plantune_lite.grading import sympy_worker, answers
for pair in [("18", "18.0"), ("(1,2)", "1,2"), ("Paris", "paris"), ("1/2", "0.5"), ("x=5", "5"), ("yes", "no")]:
    answers.same_answer(*pair)
assert sympy_worker._worker._process is None
import sys
assert "sympy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- answers that can be checked --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gold",
    [
        "18", "1,234", "1.5", "3/4", "10%", "$5",
        "3:30 pm", "(B)", "yes",
        "(1,2)", "{1,2}", "1, 2", "[0,5)", "[[1,2],[3,4]]",
        "x=5", "2x+1",
        "Paris",
    ],
)  # fmt: skip
def test_a_gold_answer_that_has_a_value_can_be_checked(gold):
    assert can_check(gold)


@pytest.mark.parametrize("gold", ["", "x +* ) 2", "It is what one would call a rather long explanation"])
def test_a_gold_answer_that_is_empty_or_no_formula_or_prose_cannot_be_checked(gold):
    assert not can_check(gold)


def test_a_gold_answer_with_choices_can_be_checked_if_it_names_one():
    assert can_check("B", ("10", "12")) and can_check("12", ("10", "12"))
    assert not can_check("F", ("10", "12"))


def test_random_gold_answers_equal_their_value_in_another_form():
    rng = random.Random(0)
    for _ in range(500):
        value = Fraction(rng.randint(-999, 999), rng.choice([1, 2, 4, 5, 8, 10, 16, 20, 25]))
        assert same_answer(str(float(value)), str(value)).same is True
