"""Hold the student in memory: its weights, how it is spoken to, what it answers."""
