"""Answer test problems, grade, and compare with intervals."""
