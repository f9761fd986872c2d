"""Load problems from anywhere and hold some out."""
