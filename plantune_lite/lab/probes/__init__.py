"""Read a student's hidden states: what it knows of a world and of its own plans."""
