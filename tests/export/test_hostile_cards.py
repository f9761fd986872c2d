"""What questions, plans, answers and names hold is shown on the cards, never run, and nothing is loaded for it."""

import re
import shutil
from dataclasses import replace

import pytest
from browser import counting, hostile, looked_at
from finished_run import finished_run

from plantune_lite.distill import card as data_card
from plantune_lite.distill import corpus
from plantune_lite.export.model_card import card
from plantune_lite.export.run_facts import FORMS, of_run
from plantune_lite.files import read_jsonl
from plantune_lite.recipe.schema import Corpus
from plantune_lite.types import Problem, Trajectory

markdown_it = pytest.importorskip("markdown_it")
LOADS = ("script", "img", "iframe", "svg", "object", "link")


def cards(run, texts):
    """The cards of a run and of its corpus, whose problems, plans, working and teachers are these texts."""
    problems = [
        Problem(id=f"{n} {text}", question=f"{text} What is {n} + 1?", answer=str(n + 1), source=text)
        for n, text in enumerate(texts)
    ]
    kept = [
        Trajectory(
            problem_id=one.id,
            sample=0,
            question=one.question,
            plan=(text, "Add."),
            execution=f"{text} \\boxed{{{one.answer}}}",
            answer=one.answer,
            teacher=text,
        )
        for one, text in zip(problems, texts, strict=True)
    ]
    suites = {f"own {texts[0]}": problems[:0]}
    corpus.build_corpus(kept, problems, suites, corpus.Wanted(Corpus(filter="answer", validation=0.0)), run / "corpus")
    for form in FORMS:
        facts = of_run(run, form=form, repos={form: f"alice/mine{FORMS[form]}"})
        versions = {texts[1]: texts[2]}
        yield card(replace(facts, name=texts[0], versions=versions, recipe={**facts.recipe, "name": texts[3]}))
    (stats,) = [facts.stats]
    for row in read_jsonl(run / "corpus" / "train.jsonl"):
        yield data_card.of_corpus(
            stats, row, {"name": texts[0], "recipe": {"a": texts}, "origin": {texts[1]: texts[2]}}
        )


def test_a_card_is_text_to_a_browser_whatever_stands_in_the_data(tmp_path):
    with counting() as (url, paths):
        texts = hostile(url)
        render = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render
        pages = [render(text.split("\n---\n", 1)[1]) for text in cards(finished_run(tmp_path / "mine"), texts)]
        assert len(pages) == 3 + len(texts) and sum("owned" in page for page in pages) == len(pages)
        for page in pages:
            assert not re.findall(rf"<(?:{'|'.join(LOADS)})\b", page) and "\x1b" not in page
        if shutil.which("chromium"):
            file = tmp_path / "cards.html"
            file.write_text(f"<title>cards</title>{''.join(pages)}", encoding="utf-8")
            assert "<title>cards</title>" in looked_at(file, tmp_path / "profile") and paths == []
            file.write_text(f"<title>cards</title>{texts[0]}", encoding="utf-8")  # it would, were it markup
            assert "<title>owned</title>" in looked_at(file, tmp_path / "profile") and paths != []
