"""Show the trees of a search as one page to unfold and read: what was tried, how often, and with what result.

    write(trees, Path("runs/mine/cpl/round1/trees.html"), title="mine, round 1")

A step is a line with its value, its visits and how likely the student found it; the most visited path starts open,
everything else is folded. The page loads nothing and runs nothing, and model output is shown, never parsed as
markup (report/html.py).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from plantune_lite.files import write_whole
from plantune_lite.lab.cpl.tree import Node, Tree
from plantune_lite.report.html import page, paragraph, text

_STYLE = """<style>
details.step,div.leaf{border:0;border-left:2px solid var(--line);border-radius:0;margin:.15em 0;
padding:.1em 0 .1em .7em}
details.step>summary{list-style-position:outside;margin-left:1em}div.leaf{padding-left:1.7em}
.q{display:inline-block;min-width:3.4em;margin-right:.5em;padding:0 .35em;border-radius:4px;text-align:right;
font-size:.8rem;font-variant-numeric:tabular-nums;background:var(--box);border-left:4px solid var(--line)}
.up{border-left-color:var(--good)}.down{border-left-color:#c0392b}.about{color:var(--soft);font-size:.8rem}
</style>"""


def write(trees: Sequence[Tree], out: Path, *, title: str) -> None:
    """Write the page."""
    solved = sum(tree.solved for tree in trees)
    parts = [
        _STYLE,
        f"<h1>{text(title)}</h1>",
        paragraph(f"{solved} of {len(trees)} questions solved in the search", "first"),
        paragraph(
            "The number before a step is its q, the mean of all values backed up through it: +1 for a right answer, "
            "-1 for a wrong or malformed one. The most visited path is open.",
            "soft",
        ),
        *(_tree(tree) for tree in trees),
    ]
    write_whole(out, page(title, parts))


def _tree(tree: Tree) -> str:
    plans = len(tree.right_plans)
    outcome = f"solved by {plans} plan{'s' * (plans != 1)}" if plans else "not solved"
    about = f"{tree.problem_id}: {outcome} (answer {tree.answer}), {tree.iterations} iterations, {tree.tokens:,} tokens"
    nodes = "".join(_node(child, child is _favourite(tree.root)) for child in _by_visits(tree.root))
    return f"<h2>{text(tree.question, 400)}</h2>{paragraph(about, 'soft')}{nodes}"


def _node(node: Node, is_open: bool) -> str:
    if node.kind == "step":
        head = _head(node, f"{len(node.plan)}. {node.text}")
        if not node.children:
            return f'<div class="leaf">{head}</div>'
        below = "".join(_node(child, is_open and child is _favourite(node)) for child in _by_visits(node))
        return f'<details class="step"{" open" * is_open}><summary>{head}</summary>{below}</details>'
    words = {"solution": "solution", "malformed": "malformed", "too deep": "one step too many"}[node.kind]
    return (
        f'<details class="step"{" open" * is_open}><summary>{_head(node, words)}</summary>'
        f"<pre>{text(node.text)}</pre></details>"
    )


def _head(node: Node, words: str) -> str:
    sign = "up" if node.q > 0 else "down" if node.q < 0 else ""
    worth = f"{node.q:+.2f}" if node.visits else "not seen"
    about = [f"{node.visits} visit{'s' * (node.visits != 1)}"] if node.visits else []
    if node.prior < 1:
        about.append(f"likely {node.prior:.2f}")
    return f'<span class="q {sign}">{worth}</span>{text(words)} <span class="about">{text(", ".join(about))}</span>'


def _by_visits(node: Node) -> Iterator[Node]:
    return iter(sorted(node.children, key=lambda child: (-child.visits, -child.q)))


def _favourite(node: Node) -> Node | None:
    return next(_by_visits(node), None)
