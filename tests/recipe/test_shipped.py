import pytest

from plantune_lite.recipe.load import load_recipe, override
from plantune_lite.types import RecipeError

DEMO = load_recipe("smollm2_135m")  # it counts steps


def test_epochs_that_would_change_nothing_are_refused_with_what_decides():
    with pytest.raises(RecipeError, match=r"sft.epochs=2 changes nothing where sft.max_steps=40 decides: .*none too"):
        override(DEMO, ["sft.epochs=2"])
    assert override(DEMO, ["sft.epochs=2", "sft.max_steps=none"]).sft.max_steps is None
    assert override(load_recipe("gemma3_1b_sft"), ["sft.epochs=1"]).sft.epochs == 1


def test_what_a_recipe_says_itself_can_be_said_again():
    assert override(DEMO, ["sft.epochs=1", "sft.max_steps=40"]) == DEMO
