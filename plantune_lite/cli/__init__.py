"""The plantune command."""
