import pytest

from plantune_lite.recipe.load import load_recipe, override, shipped
from plantune_lite.types import RecipeError

DEMO = load_recipe("smollm2_135m")  # it counts steps


def test_epochs_that_would_change_nothing_are_refused_with_what_decides():
    with pytest.raises(RecipeError, match=r"sft.epochs=2 has no effect while sft.max_steps=64 is set: .*none too"):
        override(DEMO, ["sft.epochs=2"])
    assert override(DEMO, ["sft.epochs=2", "sft.max_steps=none"]).sft.max_steps is None
    assert override(load_recipe("gemma3_1b_sft"), ["sft.epochs=1"]).sft.epochs == 1


def test_pta_grpo_has_the_papers_settings_and_its_full_size_is_a_recipe_too():
    name = "qwen3_4b_pta_grpo"
    recipe = load_recipe(name)
    grpo, tested, asked = recipe.grpo, recipe.evaluate, recipe.distill
    assert (grpo.plans, grpo.continuations, grpo.plan_weight, grpo.structure_weight) == (4, 3, 0.5, 0.2)
    assert (grpo.settings, grpo.temperature, tested.temperature, tested.top_p) == ("pta", 1.0, 0.6, 0.95)
    assert (asked.plan_from, asked.plans, asked.min_score, recipe.sft.epochs) == ("solution", 1, None, 3)
    said = shipped()[name].read_text().partition("The paper's size: ")[2].partition(" (")[0]
    assert override(recipe, said.split()).problems.limit is None


@pytest.mark.parametrize("name", ["gemma3_1b_sft", "qwen3_4b_sft", "qwen3_5_2b_sft", "qwen2_5_7b_sft"])
def test_the_papers_size_of_an_sft_keeps_the_rate_of_an_adapter(name):
    said = shipped()[name].read_text().partition("The paper's size: ")[2].partition(" (")[0]
    assert override(load_recipe(name), said.split()).sft.learning_rate == 2e-4


def test_what_a_recipe_says_itself_can_be_said_again():
    assert override(DEMO, ["sft.epochs=1", "sft.max_steps=64"]) == DEMO
