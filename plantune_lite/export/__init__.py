"""Merge, convert and publish what was trained."""
