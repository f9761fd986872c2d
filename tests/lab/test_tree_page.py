import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from plantune_lite.lab.cpl import tree_page
from plantune_lite.lab.cpl.tree import Node, Tree, expand

EVIL = '<img src="http://x/y.png"><script>document.title="owned"</script>\x1b[31m'


def step(text, visits, q, prior=0.6):
    return Node("step", text, visits=visits, total=visits * q, prior=prior)


@pytest.fixture
def trees():
    root = Node(visits=9, total=2)
    count, guess, never = step("Count the legs of each animal.", 6, 0.5), step(EVIL, 2, -1), step("Never seen.", 0, 0)
    expand(root, [count, guess, never])
    expand(count, [step("Add them.", 3, 0.9), step("Multiply them.", 2, -0.5)])
    expand(count.children[0], [Node("solution", f"3 * 2 = 6\n{EVIL}\n\\boxed{{14}}", reward=1.0)])
    expand(guess, [Node("malformed", "no idea", reward=-1.0)])
    return [Tree("legs", "How many legs have 3 hens and 2 cows? <b>", "14", root=root, iterations=9, tokens=12_345)]


class Seen(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.inside, self.opened = [], "", [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "details":
            self.inside.append("open" in dict(attributes))

    def handle_endtag(self, tag):
        if tag == "details":
            self.inside.pop()

    def handle_data(self, data):
        self.words += data
        if all(self.inside):
            self.opened.append(data)


def seen(trees, tmp_path):
    tree_page.write(trees, tmp_path / "trees.html", title="mine, round 1")
    return Seen((tmp_path / "trees.html").read_text(encoding="utf-8"))


def test_every_step_is_there_and_the_way_most_visited_is_open(trees, tmp_path):
    page = seen(trees, tmp_path)
    for words in (
        "1. Count the legs of each animal.",
        "2. Add them.",
        "2. Multiply them.",
        "not seen",
        "12,345 tokens",
    ):
        assert words in page.words
    opened = " ".join(page.opened)
    assert "\\boxed{14}" in opened and "2. Add them." in opened and "1 of 1 questions solved" in opened
    assert "no idea" in page.words and "no idea" not in opened


def test_nothing_is_loaded_or_run_whatever_a_model_wrote(trees, tmp_path):
    page = seen(trees, tmp_path)
    assert not [tag for tag, _ in page.tags if tag in ("script", "img", "link", "iframe", "b")]
    assert not [value for _, at in page.tags for name, value in at.items() if name in ("src", "href")]
    policy = next(at["content"] for _, at in page.tags if at.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "document.title" in page.words and "\x1b" not in page.words


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_shows_it_and_has_nothing_to_complain_of(trees, tmp_path):
    tree_page.write(trees, tmp_path / "trees.html", title="mine, round 1")
    shot = tmp_path / "shot.png"
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=390,844"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0"]
    command += [f"--screenshot={shot}", (tmp_path / "trees.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert not re.findall(r"CONSOLE.*|Refused to.*", done.stderr)
    assert shot.stat().st_size > 10_000
