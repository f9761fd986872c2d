"""Write a run up as one page."""
