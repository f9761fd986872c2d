import pytest
from hypothesis import given
from hypothesis import strategies as st

from plantune_lite.evaluate.answers import Asking
from plantune_lite.evaluate.modes import evaluate_problems
from plantune_lite.files import read_records
from plantune_lite.grading import sandbox
from plantune_lite.grading.code import grade_code, program_in
from plantune_lite.types import Graded, Problem, ProblemError, Reply, Sampling, Score, Verdict

isolated = pytest.mark.skipif(sandbox.why_not() is not None, reason=str(sandbox.why_not()))

HEAD = 'import math\n\n\ndef roof(x):\n    """The next whole number."""\n'
BODY = "    for step in (1,):\n        x = math.ceil(x)\n    return x\n"
PROGRAM = "def roof(x):\n    return math.ceil(x)\n"
ROOF = Problem(
    id="roof",
    question=HEAD,
    answer=BODY,
    kind="code",
    extra={
        "entry_point": "roof",
        "test": "def check(candidate):\n    assert candidate(1.5) == 2\n    assert roof(-0.5) == 0\n",
    },
)

REPLIES = {
    "in a block": f"Sure:\n\n```python\n{PROGRAM}```\nIt rounds up.",
    "in a block without a language": f"```\n{PROGRAM}```",
    "in a block that was cut off": f"```python\n{PROGRAM}",
    "in an indented block": "1. Here:\n   ```python\n   def roof(x):\n       return math.ceil(x)\n   ```",
    "in the last block that defines it": f"```python\ndef roof(x): return x\n```\nBetter:\n```python\n{PROGRAM}```",
    "before a block that calls it": f"```python\n{PROGRAM}```\nFor example:\n```python\nprint(roof(0.5))\n```",
    "after a plan": f"<plan>\n1. Write def roof(x): ...\n</plan>\n```python\n{PROGRAM}```",
    "with imports of its own": "```python\nfrom __future__ import annotations\nfrom math import ceil\nroof = ceil\n```",
    "with what it calls": "```python\ndef up(x):\n    return math.ceil(x)\ndef roof(x):\n    return up(x)\n```",
    "in prose": f"Here is the function:\n\n{PROGRAM}\nIt rounds up.",
    "in prose with what it needs": (
        "I would do it so.\nfrom math import ceil\n\ndef roof(x):\n    return up(x)\n\n"
        "def up(x):\n    return ceil(x)\nDone!"
    ),
    "as what goes on": BODY,
    "as what goes on without its first space": BODY.lstrip(),
    "as what goes on with more after it": BODY + "\nprint(roof(2))\n\nThat is all.",
    "as what goes on in a block": f"```python\n{BODY}```",
    "as what goes on with half a fence": BODY + "```",
    "with a main part that asks": f"```python\n{PROGRAM}if __name__ == '__main__':\n    print(roof(input()))\n```",
}


@isolated
@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
def test_a_right_program_is_found_wherever_it_stands(reply):
    assert grade_code(ROOF, reply).verdict == Verdict(same=True, how="passed the tests")


@isolated
@pytest.mark.parametrize(
    ("reply", "how"),
    [
        ("```python\ndef roof(x):\n    return x\n```", "failed: AssertionError"),
        ("```python\ndef roof(x:\n```", "failed: SyntaxError"),
        ("    pass\n", "failed: AssertionError"),
        (HEAD, "failed: AssertionError"),
    ],
)
def test_a_wrong_program_is_wrong_and_says_how(reply, how):
    verdict = grade_code(ROOF, reply).verdict
    assert verdict.same is False and verdict.how.startswith(how)


@pytest.mark.parametrize("reply", ["", "I do not know.", "The answer is \\boxed{4}.", "```python\n```"])
def test_a_reply_without_a_program_is_unreadable_and_nothing_is_run(reply):
    assert grade_code(ROOF, reply) == Graded(None, Verdict(same=None, how="no program in the reply"))


@given(st.text() | st.lists(st.sampled_from([*REPLIES.values(), "```", "\n", "    ", "def roof("])).map("".join))
def test_whatever_a_reply_says_a_program_or_nothing_comes_of_it(reply):
    program = program_in(ROOF, reply)
    assert program is None or "roof" in program


def test_a_problem_without_tests_is_a_sentence():
    with pytest.raises(ProblemError, match="'test': grading one needs the columns entry_point"):
        grade_code(Problem(id="x", question=HEAD, answer=BODY, kind="code", extra={"entry_point": "roof"}), "")


@isolated
def test_programs_are_evaluated_where_somebody_may_run_them(tmp_path):
    def generate(prompts, sampling):
        return [[Reply(text=f"```python\n{PROGRAM}```"), Reply(text="    return x\n")] for _ in prompts]

    out = tmp_path / "own.model.jsonl"
    how = Asking(sampling=Sampling(n=2, temperature=1.0), allow_code=True)
    found = evaluate_problems(generate, [ROOF], mode="plain", out=out, how=how)
    assert found["accuracy"]["value"] == 0.5 and found["passed"]["value"] == 1.0
    assert [one.how for one in read_records(Score, out)] == ["passed the tests", "failed: AssertionError"]
