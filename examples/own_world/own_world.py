"""A planning world of your own, from PDDL files: a planner writes the plans, a simulator grades. Needs the extra [lab].

    plantune distill smollm2_135m_worlds problems.source=examples/own_world/own_world.py:mine name=painter
    plantune run smollm2_135m_worlds problems.source=examples/own_world/own_world.py:mine name=painter

The folder `problems` has sixteen houses for a painter, of three to five rooms; the largest are for tests only. They are
enough to see it run; to learn, use hundreds. If the planner refuses a domain because it has more than STRIPS with
types, use `walks`, which needs no planner: its plans are random walks, and its goals are where they end.
"""

from collections.abc import Iterator
from pathlib import Path

from plantune_lite.lab.worlds.sources import from_folder
from plantune_lite.types import Problem

HERE = Path(__file__).parent


def mine(seed: int, limit: int | None) -> Iterator[Problem]:
    """Yield problems with the planner's plans."""
    return from_folder(HERE / "domain.pddl", HERE / "problems", seed=seed, limit=limit)


def walks(seed: int, limit: int | None) -> Iterator[Problem]:
    """Yield problems with random walks as plans."""
    return from_folder(HERE / "domain.pddl", HERE / "problems", "walks", seed=seed, limit=limit)
