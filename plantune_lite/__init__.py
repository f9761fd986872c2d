"""Teaches small language models to plan before they solve."""

__version__ = "0.1.0"
