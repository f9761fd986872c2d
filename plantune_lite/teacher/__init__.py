"""Ask whoever teaches, once, within a budget."""
