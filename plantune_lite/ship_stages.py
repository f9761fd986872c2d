"""The stages at the end of a run, after which it can be handed on: its report.

A stage is a function of a Job whose return value is its summary: "line" is what a person reads.
"""

from collections.abc import Callable
from typing import Any

from plantune_lite.job import Job


def report(job: Job) -> dict[str, Any]:
    """One page that says what came of it all."""
    from plantune_lite import report

    found = report.report(job.run, seed=job.recipe.seed)
    job.say(f"open {job.run / 'report.html'}")
    return found


STAGES: dict[str, Callable[[Job], dict[str, Any]]] = {"report": report}
