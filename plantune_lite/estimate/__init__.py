"""Estimate memory, disk and minutes before a run."""
