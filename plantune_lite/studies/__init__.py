"""Run variants of a recipe side by side."""
