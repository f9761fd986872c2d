"""Implement the plantune command."""
