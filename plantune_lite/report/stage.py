"""Run the stage that writes the report."""

from plantune_lite.report.page import write_report
from plantune_lite.runs.job import Job
from plantune_lite.runs.manifest import ReportSummary


def run_report(job: Job) -> ReportSummary:
    """Write the report page."""
    summary = write_report(job.run.path, seed=job.recipe.seed)
    job.say(f"open {job.run.report}")
    return summary
