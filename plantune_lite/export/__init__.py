"""Merge, convert and publish trained models."""
