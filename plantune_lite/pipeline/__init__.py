"""Do the stages of a run in order, each in its own process."""
