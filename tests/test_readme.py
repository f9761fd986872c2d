import json
import re
from functools import reduce
from operator import getitem
from pathlib import Path
from statistics import fmean

from benchmarks import demo
from plantune_lite.recipe.load import load_recipe
from plantune_lite.student.presets import DEQUANTISED

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")


def test_the_file_tree_names_every_package():
    tree = re.search(r"```text\n(pyproject.*?)```", README, re.DOTALL)[1]
    names = [path.name for path in (ROOT / "plantune_lite").iterdir() if path.suffix != ".typed"]
    there = {name.removesuffix(".py") for name in names if not name.startswith("_")}
    assert there - set(re.findall(r"^  (\w+)", tree, re.MULTILINE)) == set()


def test_the_recipe_shown_is_the_recipe_shipped(tmp_path):
    shown = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    (tmp_path / "shown.py").write_text(shown)
    assert load_recipe(tmp_path / "shown.py") == load_recipe("smollm2_135m")


def test_wherever_a_figure_of_smollm2_stands_its_weights_are_called_dequantised():
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "benchmarks").glob("*.md")]
    assert all(DEQUANTISED in page for page in [README, *pages] if "smollm2" in page.lower())


def figures(name):
    return json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def test_the_results_on_the_first_page_are_rows_of_all_results():
    rows = [line.replace("](benchmarks/", "](") for line in README.splitlines() if "| [" in line]
    assert len(rows) == 5 and all(row in RESULTS for row in rows)


def test_the_figures_are_those_of_the_benchmarks():
    page = (ROOT / "benchmarks" / "verify.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")] for line in page.splitlines() if line.startswith("| ")][2:]
    for _, _, _, _, _, median, spread, *_ in rows:
        assert f"{median} times" in RESULTS and f"({spread})" in RESULTS
    parts = figures("distill")["parts"]
    of_floor = sorted(one["of_floor"] for one in parts["speed"]["rounds"])
    assert f"{of_floor[1]:.3f} of its calls a second ({of_floor[0]:.3f} to {of_floor[2]:.3f})" in RESULTS
    assert "the same 196" in RESULTS and parts["storm"]["kept_storm"] == parts["storm"]["kept_undisturbed"] == 196
    peaks = [f"{one['peak_mb']:.0f}" for one in parts["memory"]["runs"]]
    assert " and ".join(peaks) + " MB" in RESULTS
    for gigabytes in figures("install")["gigabytes"].values():
        assert f"{gigabytes:.1f} GB" in README
    sft = figures("sft")
    least, middle, most = (f"{one:.2f}" for one in sft["ratio"]["plain"])
    memory = sft["peak_mb"]["ours"] / sft["peak_mb"]["plain"]
    assert f"{middle} times as many ({least} to {most}), {memory:.2f} of its memory" in RESULTS
    arms = figures("arms")
    untuned, baseline, m1 = (
        f"{100 * arms['arms'][arm]['value']:.1f} %" for arm in ("untuned, few_shot", "baseline", "m1")
    )
    assert f"{untuned}, {baseline}, {m1}: neither beats untuned" in RESULTS
    assert arms["compared"]["m1 minus untuned, few_shot"]["p_holm"] > 0.05
    known = (f"{100 * arms['known'][arm]['value']:.1f} %" for arm in ("baseline", "m1"))
    assert ", ".join(known) in RESULTS
    merge = figures("merge")
    ratios = sorted(one["ours"]["seconds"] / one["copy"]["seconds"] for one in merge["rounds"])
    assert f"{ratios[1]:.2f} times the copy's time ({ratios[0]:.2f} to {ratios[2]:.2f})" in RESULTS
    assert f"{merge['peak'] / 1e9:.2f} GB, {merge['peft']['peak'] / 1e9:.2f} GB" in RESULTS
    gsm8k = figures("gsm8k")
    untuned = gsm8k["figures"]["zero_shot_cot"]
    spread = f"{100 * untuned['value']:.1f} % ({100 * untuned['low']:.1f} to {100 * untuned['high']:.1f})"
    assert f"{spread}, in {untuned['seconds'] / 60:.0f} min on two CPU cores" in RESULTS
    flexible = [row for row in gsm8k["agreement"] if row[1] == "flexible-extract"]
    assert sum(both for _, _, right, wrong, *_ in flexible for both in (right, wrong)) == 900
    assert all(row[4:] == [0, 0] for row in flexible) and "the same verdict on all 900" in RESULTS
    unread = sum(row[4] for row in gsm8k["agreement"] if row[1] == "strict-match")
    assert f"reads `####` alone and leaves {unread} unread" in RESULTS
    for ends, words in (("full", "times as many"), ("natural", "times")):
        least, middle, most = (f"{one:.2f}" for one in figures("grpo")["ratio"][ends])
        assert f"{middle} {words} ({least} to {most})" in RESULTS
    seeds = figures("grpo_rewards")["runs"].values()
    means = [fmean(seed["right"][model]["value"] for seed in seeds) for model in ("untuned", "m1", "grpo")]
    gains = [seed["added"]["value"] for seed in seeds]
    added = f"{demo.over_seeds(gains).points().removeprefix('+')}, at least {100 * min(gains):.1f} in every seed"
    assert f"{', '.join(f'{100 * mean:.1f} %' for mean in means)}: GRPO adds {added}" in RESULTS
    assert len(seeds) == 3 and all(seed["added"]["low"] > 0 for seed in seeds)
    area = figures("alignment")["figures"]["gsm8k, words"]["auroc"]
    assert f"{area['value']:.3f} ({area['low']:.3f} to {area['high']:.3f}) by words alone" in RESULTS
    ratios = figures("generate")["ratios"]
    even, varied = (ratios[suite][ratios[suite]["best"]] for suite in ("steps", "varied"))
    vllm = " and ".join(f"{ratios[suite]['vllm']:.2f}" for suite in ("steps", "varied"))
    assert f"{even:.2f} and {varied:.2f} times as many; {vllm} times as many" in RESULTS
    cpl = figures("cpl")
    speed = cpl["speed"]
    assert f"in their first {speed['iterations']} iterations | {speed['ratio']:.2f} times as many" in RESULTS
    assert f"the {speed['same']} trees grown both ways" in RESULTS and speed["same"] == speed["alone"]["trees"]
    searched = [one for name, one in cpl["search"].items() if name != "budgets"]
    solved = {
        (at, way): sum(one[at][way] for one in searched) for at in ("250", "2000") for way in ("mcts", "sampling")
    }
    said = "{} and {} at 250 tokens, {} and {} at 2,000; sampling finds more right plans".format(*solved.values())
    assert said in RESULTS and len(searched) == 64
    arms = [sum(one["mean"]) / len(one["mean"]) for one in cpl["train"]["arms"].values()]
    assert f"{', '.join(f'{100 * one:.1f} %' for one in arms)}: neither preference is better" in RESULTS
    seconds = figures("startup")["seconds"]
    median = {name: sorted(times)[len(times) // 2] for name, times in seconds.items()}
    ratio = median["plantune --help"] / median["python -c 'import click'"]
    assert f"{ratio:.1f} times, {median['plantune --help']:.2f} s" in RESULTS


def test_the_figures_of_the_demonstration_are_those_of_its_seeds():
    found = figures("demo")["seeds"]
    seeds = [found[seed] for seed in demo.SEEDS]
    minutes = sum(seeds[0]["seconds"].values()) / 60
    assert f"{minutes:.1f} min on two idle CPU cores" in RESULTS
    means = [f"{100 * fmean(one['right'][arm]['value'] for one in seeds):.1f} %" for arm in demo.ARMS]
    least = 100 * min(one["right"]["m1"]["value"] for one in seeds)
    assert f"{', '.join(means)}; at least {least:.1f} % in every seed" in RESULTS
    gains = [
        demo.over_seeds([one["minus"][other]["value"] for one in seeds]).points().replace(" points", "")
        for other in ("baseline", "untuned", "swapped")
    ]
    assert "; ".join(gains) in RESULTS
    assert all(one["minus"][other]["low"] > 0 for one in seeds for other in one["minus"])
    stories = [found[seed] for seed in demo.ON_STORIES]
    shares = [f"{100 * fmean(one['right'][arm]['value'] for one in stories):.1f} %" for arm in demo.ARMS]
    assert ", ".join(shares) in RESULTS
    unwrapped = " ".join(README.split())
    for text in seeds[0]["example"].values():
        assert all(sentence in unwrapped for sentence in re.split(r"\n|(?<=\.) ", text))


def test_the_figures_of_the_estimate_are_those_of_the_benchmark():
    found = figures("estimate")
    assert f"within a factor of {found['worst']:.2f}, the median {found['median']:.2f}" in RESULTS


def test_the_figures_of_worlds_are_those_of_the_benchmark():
    worlds = figures("worlds")
    page = (ROOT / "benchmarks" / "worlds.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in page.splitlines() if line[:2] == "| "]
    students = {kind: [worlds[f"{kind}{seed}"] for seed in range(3)] for kind in ("planner", "walks", "mixed")}

    def mean_of(ones, *path):
        return fmean(reduce(getitem, path, one) for one in ones)

    said = []
    for what, figure in (("validity", ("auroc", "value")), ("output_probability", ("mean", "auroc", "value"))):
        tuned = [mean_of(three, what, "tuned", *figure) for three in students.values()]
        untuned = mean_of(students["planner"], what, "untuned", *figure)
        said.append(f"{min(tuned):.2f} to {max(tuned):.2f}, untuned {untuned:.2f}")
    assert "; ".join(said) in RESULTS
    reached = [
        f"{100 * mean_of(three, 'generative', 'tuned', 'success', 'value'):.0f} %" for three in students.values()
    ]
    assert "They reach {}, {} and {} of the goals".format(*reached) in RESULTS
    claimed = {row[0][:3]: row for row in rows if row[0][:1] == "("}
    assert f"planner's: {claimed['(a)'][1]}; {claimed['(b)'][1]}, of the walks'" in RESULTS
    assert f"{claimed['(c)'][2]}, not shown" in RESULTS
    maths = [worlds[f"maths{seed}"] for seed in range(3)]
    told = mean_of(maths, "auroc", "value"), mean_of(maths, "controls", "token_probability", "value")
    [more] = [row[1] for row in rows if row[0] == "probe minus token probability"]
    assert f"{told[0]:.2f}; {told[1]:.2f}: {more}" in RESULTS
    again = [f"{100 * mean_of(maths, 'resampled', way, 'value'):.1f} %" for way in ("probe", "majority", "plain")]
    assert "{}, {}; {}".format(*again) in RESULTS
    simulated = worlds["simulator"]
    assert f"our verdict on {simulated['plans']:,} plans" in RESULTS and simulated["agree"] == simulated["plans"]
    faster = sorted(one["ours"] / one["library"] for one in simulated["speed"].values())
    assert "800 to 1,230 times as many" in RESULTS and 795 < faster[0] < 805 and 1_225 < faster[-1] < 1_235


def test_every_link_leads_to_a_file():
    for page, folder in ((README, ROOT), (RESULTS, ROOT / "benchmarks")):
        for link in re.findall(r"\]\(([^)#]+)\)", page):
            assert link.startswith("http") or (folder / link).exists(), link


def test_every_file_and_folder_that_contributing_names_is_there():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(
        r"`((?:teacher|problems|train|student|estimate|export|studies|tests|examples|recipes)/[\w/.]*)`", page
    )
    assert len(named) > 15
    for path in named:
        assert (ROOT / path).exists() or (ROOT / "plantune_lite" / path).exists(), path


def test_every_verb_in_the_table_exists_and_every_verb_is_in_it():
    from plantune_lite.cli.main import cli

    page = (ROOT / "recipes" / "QUESTIONS.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `plantune (\w+)", page, re.MULTILINE)) == set(cli.commands)


def test_the_page_of_the_recipes_names_each_with_the_memory_that_its_file_says():
    page = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "recipes").glob("*.py"):
        line = next(line for line in page.splitlines() if line.startswith(f"| `{path.stem}` |"))
        said = re.search(r"Memory: ([\d.]+ GiB)", path.read_text(encoding="utf-8"))
        assert said is None or said[1] in line


def test_every_setting_on_the_page_of_the_recipes_is_one(tmp_path):
    from plantune_lite.recipe.load import override

    page = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    recipe = override(load_recipe("smollm2_135m"), ["grpo=none"])
    for said in re.findall(r"`([^`]+)`", page.replace("part.field=value", "")):
        settings = [word for word in said.split() if re.fullmatch(r"[a-z]+\.[a-z]+=\S+|max_hours=\d+", word)]
        assert override(recipe, settings)
