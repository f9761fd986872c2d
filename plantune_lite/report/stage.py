"""Run the stage that writes the report."""

from plantune_lite.report.page import write_report
from plantune_lite.runs.job import Job
from plantune_lite.runs.manifest import Summary


def run_report(job: Job) -> Summary:
    """Write the report page."""
    summary = write_report(job.run.path, seed=job.recipe.seed)
    job.say(f"open {job.run.report}")
    return summary
