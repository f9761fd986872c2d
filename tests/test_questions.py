"""The page of questions says what is so: its commands are read as the command reads them, its messages are ours."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from plantune_lite.cli.frame import load_asked
from plantune_lite.cli.main import cli
from plantune_lite.estimate import devices, fit
from plantune_lite.recipe.load import load_recipe, override
from plantune_lite.recipe.schema import leaves

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "recipes" / "QUESTIONS.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
SPANS = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL))
SETTING = re.compile(r"(?:[a-z]+\.[a-z_]+|sft|grpo|max_hours|name)=\S*")


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_one_and_its_settings_fit_its_recipe(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    program, verb, *rest = shlex.split(line)
    assert program == "plantune"
    given = cli.commands[verb].make_context(verb, rest).params
    if "recipe" in given:
        load_asked(given["recipe"], given.get("settings", ()), None)
    elif verb == "show":
        assert (ROOT / given["what"]).is_file()
    else:  # a run that the recipe of this name makes
        assert [load_recipe(name) for name in given.get("runs") or [given["run"]]]


@pytest.mark.parametrize("span", [span for span in SPANS if SETTING.search(span)])
def test_every_setting_fits_a_recipe_with_sft_and_grpo(span):
    settings = [word for word in span.split() if SETTING.fullmatch(word)]
    assert override(load_recipe("gemma3_1b_grpo"), settings)


def test_every_verb_and_field_that_is_named_is_there():
    fields = dict(leaves(load_recipe("gemma3_1b_grpo")))
    for span in SPANS:
        if span.startswith("plantune "):
            assert span.split()[1] in cli.commands, span
        elif re.fullmatch(r"[a-z]+\.[a-z_]+", span) and not span.endswith(".html"):
            assert span in fields, span


def test_every_message_is_one_of_ours():
    said = re.findall(r'^\| "([^"]+)" \|', PAGE, re.MULTILINE)
    ours = {
        node.value
        for path in (ROOT / "plantune_lite").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert len(said) > 10
    assert [words for words in said if not any(words in text for text in ours)] == []


TABLE = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
CARDS = [(name, int(size)) for name, size in re.findall(r"^\| `(\w+)` \| (\d+) GB \|", TABLE, re.MULTILINE)]
CLOSER = [("qwen3_4b_sft", 8), ("qwen3_4b_grpo grpo.prompts_per_step=2", 8), ("qwen2_5_7b_sft", 12)]
CLOSER += [("qwen2_5_7b_grpo", 12), ("qwen2_5_7b_cpl", 12)]


@pytest.mark.parametrize(("asked", "gigabytes"), CARDS + CLOSER)
def test_what_is_said_to_fit_a_card_fits_it_by_our_count(asked, gigabytes):
    name, *settings = asked.split()
    card = devices.gpu_sold_as(gigabytes)
    assert fit.fit_to_gpu(override(load_recipe(name), settings), card.free, bf16=card.bf16).fits


def test_every_link_leads_somewhere():
    headings = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert link[1:] in anchors if link.startswith("#") else (ROOT / "recipes" / link).is_file(), link


def test_the_page_of_the_examples_names_each_of_them():
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    there = {path.name for path in (ROOT / "examples").iterdir() if path.is_file()} - {"README.md", "make_notebooks.py"}
    assert set(re.findall(r"\]\(([^)/]+)\)", page)) == there
