"""A world of your own, from PDDL files: a planner's plans to learn, a simulator as the judge. Needs the extra [lab].

    plantune distill smollm2_135m_worlds problems.source=examples/own_world/own_world.py:mine name=painter
    plantune run smollm2_135m_worlds problems.source=examples/own_world/own_world.py:mine name=painter

The folder `problems` holds sixteen houses for a painter, of three to five rooms; the largest are for tests only. It is
enough to see it run: to learn from takes hundreds. Where the planner refuses a domain because it has more than STRIPS
with types, `walks` asks it nothing: its plans are random walks, and where they end are the goals.
"""

from collections.abc import Iterator
from pathlib import Path

from plantune_lite.lab.worlds.sources import from_folder
from plantune_lite.types import Problem

HERE = Path(__file__).parent


def mine(seed: int, limit: int | None) -> Iterator[Problem]:
    """The planner's plans."""
    return from_folder(HERE / "domain.pddl", HERE / "problems", seed=seed, limit=limit)


def walks(seed: int, limit: int | None) -> Iterator[Problem]:
    """Random walks."""
    return from_folder(HERE / "domain.pddl", HERE / "problems", "walks", seed=seed, limit=limit)
