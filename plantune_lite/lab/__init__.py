"""Studies beside the core path: search over plan steps with what is learned from it, and what a planner knows of its
world. The core never imports these modules, and they use its public names only; lab/cpl/search.py is a start.
"""
