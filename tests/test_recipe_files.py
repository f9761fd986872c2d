import pytest

from plantune_lite.recipe_files import load, override
from plantune_lite.records import RecipeError

DEMO = load("smollm2_135m")  # it counts steps


def test_epochs_that_would_change_nothing_are_refused_with_what_decides():
    with pytest.raises(RecipeError, match=r"sft.epochs=2 changes nothing where sft.max_steps=40 decides: .*none too"):
        override(DEMO, ["sft.epochs=2"])
    assert override(DEMO, ["sft.epochs=2", "sft.max_steps=none"]).sft.max_steps is None
    assert override(load("gemma3_1b_sft"), ["sft.epochs=1"]).sft.epochs == 1


def test_what_a_recipe_says_itself_can_be_said_again():
    assert override(DEMO, ["sft.epochs=1", "sft.max_steps=40"]) == DEMO
