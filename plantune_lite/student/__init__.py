"""Load the student: its weights, chat format and generation."""
