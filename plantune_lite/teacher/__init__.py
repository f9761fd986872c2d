"""Call teachers, each call once, within a budget."""
