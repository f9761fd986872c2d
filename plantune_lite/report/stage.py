"""The stage that writes the report."""

from typing import Any

from plantune_lite.report.page import write_report
from plantune_lite.runs.job import Job


def run_report(job: Job) -> dict[str, Any]:
    """One page that says what came of it all."""
    found = write_report(job.run, seed=job.recipe.seed)
    job.say(f"open {job.run / 'report.html'}")
    return found
