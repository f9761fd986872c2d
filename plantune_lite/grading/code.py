r'''Grade programs: extract the program from a reply, and run the problem's tests on it.

program_in(problem, "Sure:\n```python\ndef double(x):\n    return x + x\n```\nIt adds x to itself.")
    -> "def double(x):\n    return x + x\n"
program_in(problem, "    return x + x\n")   # a continuation of the question is a program too
    -> 'def double(x):\n    """Twice x."""\n    return x + x\n'

A code problem's question is the beginning of a program: imports, perhaps helpers, and a function's head with its
docstring. Its `extra` holds "entry_point", the function's name, and "test", which defines check(candidate), as in
HumanEval.
'''

import itertools
import re
import textwrap

from plantune_lite.grading import sandbox
from plantune_lite.plan import CLOSE
from plantune_lite.types import Graded, Problem, ProblemError, Verdict

_BLOCK = re.compile(r"^([ \t]*)(```+|~~~+)[^\n`]*\n(.*?)(?:^[ \t]*\2|\Z)", re.MULTILINE | re.DOTALL)
_TOP_LEVEL = re.compile(r"(?:async def|def|class|from|import|if|for|while|try|except|else|finally|with)\b|[@#)\]}]")
_IN_A_BODY = re.compile(r"(?:return|if|for|while|try|with|def|assert|raise|import|from)\b|#|[A-Za-z_][\w.]*\(")
_ASSIGNMENT = re.compile(r"[A-Za-z_][\w., \[\]]*(?::[^=]+)?=[^=]")


def grade_code(problem: Problem, text: str) -> Graded:
    """Extract the program from a reply and run the problem's tests on it, in the sandbox."""
    tests = f"{_field(problem, 'test')}\ncheck({_field(problem, 'entry_point')})\n"
    program = program_in(problem, text)
    if program is None:
        return Graded(None, Verdict(same=None, how="no program in the reply"))
    ran = sandbox.run(program, tests, before=problem.question)
    return Graded(program, Verdict(same=ran.ok, how=ran.how))


def program_in(problem: Problem, text: str) -> str | None:
    """Return the program in a reply: the last block that defines the function, the reply itself, or a continuation."""
    text = text.rpartition(CLOSE)[2]
    name = re.escape(_field(problem, "entry_point"))
    defined = re.compile(rf"^(?:(?:(?:async )?def|class) {name}\b|{name}\s*=)", re.MULTILINE)
    blocks = [textwrap.dedent(block) if indented else block for indented, _, block in _BLOCK.findall(text)]
    for block in reversed(blocks):
        if defined.search(block):
            return block
    if match := defined.search(text):
        return _out_of_prose(text, match.start())
    body = _body(next((block for block in reversed(blocks) if block.strip()), text))
    return f"{problem.question.rstrip()}\n{body}" if body else None


def _field(problem: Problem, name: str) -> str:
    if not isinstance(value := problem.extra.get(name), str):
        raise ProblemError(
            f"{problem.id} asks for a program but has no {name!r}: grading one needs the columns entry_point, the "
            "name of a function, and test, which defines check(candidate)"
        )
    return value


def _out_of_prose(text: str, at: int) -> str:
    """Return a program without a fence: its function, and the lines around it that look like code."""
    before, after = text[:at].splitlines(keepends=True), text[at:].splitlines(keepends=True)
    first, last = len(before), 1
    while first and _is_code(before[first - 1]):
        first -= 1
    while last < len(after) and _is_code(after[last]):
        last += 1
    return "".join([*before[first:], *after[:last]])


def _is_code(line: str) -> bool:
    return not line.strip() or line[0].isspace() or bool(_TOP_LEVEL.match(line) or _ASSIGNMENT.match(line))


def _body(text: str) -> str:
    """Extract the function's body, up to the first line outside it; empty where there is none."""
    lines = text.strip("\n").splitlines(keepends=True)
    if lines and (_IN_A_BODY.match(lines[0]) or _ASSIGNMENT.match(lines[0])):
        lines[0] = f"    {lines[0]}"  # a chat reply may have lost its leading space
    body = itertools.takewhile(lambda line: not line.strip() or line[0].isspace(), lines)
    return "".join(body).rstrip()
