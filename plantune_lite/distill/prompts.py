"""Define the prompts of distillation, and the schemas of structured replies."""

import functools

CONSTRAINTS = """\
Here is a problem. Somebody will write a plan for solving it, and somebody else will judge that plan.
List what a good plan must respect: what is given, what is asked, which conditions hold, which of them are only implied,
and which mistakes are easy to make. One constraint a line, at most eight lines. Do not solve the problem.

<problem>
{problem}
</problem>"""
PLAN = """\
Write a plan for solving the problem below.
A plan is a short numbered list. Each step says what to find next and how to find it, in words. It does not carry out
the calculation, contains no results and does not give the answer. Use as few steps as the problem needs.
{direction}Reply with the plan alone, one step a line.

<problem>
{problem}
</problem>"""
PLANS = """\
Write {count} plans for solving the problem below that differ in how they go about it.
A plan is a short list of steps. Each step says what to find next and how to find it, in words. It does not carry out
the calculation, contains no results and does not give the answer. Use as few steps as the problem needs.
{direction}
<problem>
{problem}
</problem>"""
PLAN_OF_SOLUTION = """\
Below are a problem and a solution of it. Write the plan that the solution follows, as somebody would have written it
before solving: a short numbered list, each step saying what to find next and how, in words, with no calculation, no
results and not the answer. Reply with the plan alone, one step a line.
{direction}
<problem>
{problem}
</problem>
<solution>
{solution}
</solution>"""
DIRECTION = {
    None: "",
    "forwards": "Begin with what is given and work towards what is asked.\n",
    "backwards": "Begin with what is asked and work backwards: each step says what the one before it needs and how to\n"
    "find that, until only what is given is needed.\n",
}
SCORE = """\
Judge a plan for solving a problem. Be strict: a reader who follows the plan to the letter, calculating correctly,
should reach the right answer, and the plan should respect every constraint.
Give your reasons first, then a whole number from -100 (leads astray) over 0 (of no use) to 95 (cannot be improved;
almost never). A plan that calculates or states the answer is at most 0.

<problem>
{problem}
</problem>
<constraints>
{constraints}
</constraints>
{plans}"""
EXECUTE = """\
Solve the problem by following the plan step by step. Show the working of each step briefly.
End with the final answer in \\boxed{{}}.

<problem>
{problem}
</problem>
{plan}"""
EXECUTE_CODE = """\
Solve the problem by following the plan step by step. Show the working of each step briefly.
The problem is the beginning of a program. End with the whole function, with the imports it needs, in one ```python
block; nothing is to be boxed.

<problem>
{problem}
</problem>
{plan}"""


@functools.cache
def reply_shapes() -> tuple[type, type, type]:
    """Return the structured replies' types: a score, scores, plans. pydantic is slow to import."""
    from pydantic import BaseModel

    class Judged(BaseModel):
        reasons: str
        score: int

    class JudgedPlans(BaseModel):
        judged: list[Judged]

    class Plan(BaseModel):
        steps: list[str]

    class Plans(BaseModel):
        plans: list[Plan]

    return Judged, JudgedPlans, Plans
