"""Name what the lab provides: the core reaches the lab through this table and never imports it.

A recipe says `problems.source="world:blocksworld"` and `grpo.rewards=("world:valid_prefix",)`. Module paths in older
recipes are still read, and mean the same.
"""

FUNCTIONS = {
    "cpl": "plantune_lite.lab.cpl.stage:run_cpl",
    "take_first_round": "plantune_lite.lab.cpl.reuse:take",
    "grade_plan": "plantune_lite.lab.worlds.grade:grade",
    "judge_plan": "plantune_lite.lab.probes.saved_judge:judged",
    "probe": "plantune_lite.lab.probes.run:probe_run",
    "probe_once": "plantune_lite.lab.probes.run:probe_once",
    "resample": "plantune_lite.lab.probes.resample_run:resample_run",
    "resampled_text": "plantune_lite.lab.probes.resample_run:as_text",
}
_SOURCES, _REWARDS = "plantune_lite.lab.worlds.sources", "plantune_lite.lab.worlds.grade"
_OLDER = ("plantune_lite.lab.world_sources:", "plantune_lite.lab.planning:")
PREFIX = "world:"


def canonical(text: str) -> str:
    """Spell what a recipe takes from the lab as `world:NAME`; leave any other text as it is."""
    for old in _OLDER:
        text = text.replace(old, PREFIX)
    return text


def function_path(text: str) -> str:
    """Return the `module:function` behind `world:NAME`, in either spelling, or the text itself."""
    name = canonical(text)
    if not name.startswith(PREFIX):
        return text
    name = name.removeprefix(PREFIX)
    return f"{_REWARDS if name == 'valid_prefix' else _SOURCES}:{name}"


def means_the_same(value: object, recorded: object) -> bool:
    """Tell whether a field names the same parts of the lab as in an earlier run, whatever the spelling."""
    if isinstance(value, str) and isinstance(recorded, str):
        return canonical(value) == canonical(recorded)
    if isinstance(value, list | tuple) and isinstance(recorded, list | tuple) and len(value) == len(recorded):
        return all(map(means_the_same, value, recorded))
    return value == recorded
