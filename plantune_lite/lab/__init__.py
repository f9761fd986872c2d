"""Studies next to the core path: search over plan steps and learning from it, and what a planning model knows of its
world. The core never imports these modules, and they use only its public names; lab/cpl/search.py is a start.
"""
