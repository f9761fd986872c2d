"""The lab by its names in a recipe: today's spelling, and the module paths that older recipes hold."""

import pytest

from plantune_lite.pipeline.stages import STAGES
from plantune_lite.pipeline.state import inputs_of
from plantune_lite.recipe.lab import function_path
from plantune_lite.recipe.load import load_recipe, override
from plantune_lite.recipe.user_code import is_reference, load, source_hash

OLD = "plantune_lite.lab.world_sources:blocksworld"


@pytest.mark.parametrize("old", [OLD, "plantune_lite.lab.planning:valid_prefix"])
def test_an_older_recipes_module_path_is_the_same_function(old):
    new = f"world:{old.rpartition(':')[2]}"
    assert is_reference(new) and load(new) is load(old) and source_hash(new) == source_hash(old)


def test_any_other_reference_is_left_alone():
    assert function_path("my_worlds.py:blocksworld") == "my_worlds.py:blocksworld"


def test_a_run_made_before_has_the_inputs_of_one_made_now():
    stage = next(stage for stage in STAGES if stage.name == "problems")
    now = load_recipe("smollm2_135m_worlds")
    before = override(now, [f"problems.source={OLD}"])
    recorded = inputs_of(before, stage)
    assert inputs_of(now, stage) != recorded == inputs_of(now, stage, recorded)
