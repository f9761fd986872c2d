"""Everything in examples/ runs; what takes a model for a GPU runs on a tiny one, with one change of settings."""

import csv
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import metadata

import notebooks
import pytest
import torch
from fake_gemini import FakeGemini
from fake_teacher import Mind
from nbclient.exceptions import CellExecutionError
from notebooks import EXAMPLES
from packaging.requirements import Requirement
from sft_child import learner, make_base, rows
from tiny import tiny_student
from transformers import AutoTokenizer

from plantune_lite.files import read_jsonl, write_records
from plantune_lite.plan import render
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.recipe import user_code
from plantune_lite.recipe.schema import SFT
from plantune_lite.runs.job import Reporter, Training
from plantune_lite.runs.manifest import read_manifest
from plantune_lite.student import presets
from plantune_lite.teacher.models import DEFAULT_MODEL
from plantune_lite.train import sft

KEY = "a-key-that-nobody-is-shown"
MODELS = ("gemma3_1b", "qwen3_4b", "qwen2_5_7b")
SMALL = "problems.limit=12 evaluate.suites=own evaluate.limit=2 evaluate.max_tokens=16 headroom=0 sft.max_steps=2"


@pytest.fixture
def swapped(tmp_path):
    """Settings that put a tiny random student in the place of one for a card."""
    # Weights that are not too small, or all tokens are as likely whatever it learns.
    shape = {"max_position_embeddings": 2048, "initializer_range": 0.1}
    base = tiny_student(tmp_path / "tiny", "llama", dtype=torch.float32, **shape)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = presets.find("smollm2_135m").chat_template
    tokenizer.save_pretrained(base)
    return f"student.model={base} student.bits=32 export.formats=merged"


@pytest.fixture
def as_a_user(monkeypatch):
    """The plantune command is found, and runs lie where one stands."""
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
    monkeypatch.delenv("PLANTUNE_RUNS")


@pytest.fixture
def gemini(monkeypatch):
    """A teacher on this machine that knows these problems."""
    servers = []

    def knows(problems):
        server = FakeGemini(key=KEY, mind=Mind(problems))
        servers.append(server.__enter__())
        monkeypatch.setenv("GEMINI_API_KEY", KEY)
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        return server

    yield knows
    for server in servers:
        server.__exit__(None, None, None)


def of_practice(limit=12):
    made = practice_problems("train", seed=0, limit=limit)
    return [{"question": problem.question, "answer": problem.answer} for problem in made]


def command(*arguments, folder):
    """A command's words, from the folder that the examples' own texts are written for."""
    environ = {**os.environ, "PLANTUNE_RUNS": str(folder)}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=EXAMPLES.parent,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- the notebooks ----------------------------------------------------------------------------------------------------


WRITER = user_code.load_module(EXAMPLES / "make_notebooks.py")
ADDRESS = "https://github.com/somebody/plantune-lite"


def test_the_notebooks_are_what_the_script_writes():
    made = WRITER.notebooks(WRITER.repository())
    there = {path.name: path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.ipynb")}
    assert there == made, "run python examples/make_notebooks.py"
    assert set(made) == {f"{model}.ipynb" for model in (*MODELS, "smollm2_135m")}


def test_only_a_project_with_an_address_has_badges_and_they_open_its_notebooks():
    for name, content in WRITER.notebooks(ADDRESS).items():
        for site in ("colab.research.google.com/github", "kaggle.com/kernels/welcome?src=github.com"):
            assert f"https://{site}/somebody/plantune-lite/blob/main/examples/{name}" in content
    assert not [name for name, content in WRITER.notebooks("").items() if "[![" in content]


@pytest.mark.parametrize(
    ("address", "url"), [("", r"file://.+/plantune_lite-0\.1\.0.+whl"), (ADDRESS, rf"git\+{ADDRESS}")]
)
def test_pip_is_given_the_address_or_the_wheel_that_lies_here(address, url, tmp_path, monkeypatch):
    (tmp_path / "plantune_lite-0.1.0-py3-none-any.whl").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "plantune_lite", None)  # a fresh runtime, and pip's install fails
    for content in WRITER.notebooks(address).values():
        cells = [cell.source for cell in notebooks.nbformat.reads(content, as_version=4).cells]
        constants, set_up = (next(one for one in cells if part in one) for part in ("\nINSTALL = ", "%pip"))
        names = {"os": os}
        with pytest.raises(SystemExit, match=r"cannot be used here \(.+\): what pip says above"):
            exec(f"{constants}\n{set_up.replace('%pip install -q ', 'wanted = f')}", names)
        wanted = Requirement(names["wanted"])
        assert wanted.name == "plantune-lite" and re.fullmatch(url, wanted.url)
        assert wanted.extras <= set(metadata(wanted.name).get_all("Provides-Extra"))


def test_without_a_wheel_the_set_up_stops_the_notebook_in_one_sentence(tmp_path):
    fresh = notebooks.nbformat.v4.new_code_cell("import sys\nsys.modules['plantune_lite'] = None")
    set_up = notebooks.cells(notebooks.load("qwen3_4b"), "## Set-up")
    with pytest.raises(CellExecutionError) as caught:
        notebooks.run([fresh, *set_up], tmp_path)
    assert caught.value.evalue.startswith("There is no wheel here: `pip wheel . --no-deps` makes one")
    assert "Traceback" not in caught.value.traceback


_COLAB = """
class SecretNotFoundError(Exception): ...
class NotebookAccessError(Exception): ...
def get(name):
    if name != "GEMINI_API_KEY":
        raise SecretNotFoundError(name)
    return {key!r}
"""


def test_on_colab_the_drive_is_mounted_and_keys_reach_commands_without_being_shown(tmp_path, monkeypatch, as_a_user):
    colab = tmp_path / "python" / "google" / "colab"
    colab.mkdir(parents=True)
    (colab / "__init__.py").write_text("")
    (colab / "drive.py").write_text("def mount(place): print('mounted', place)\n")
    (colab / "userdata.py").write_text(_COLAB.replace("{key!r}", repr(KEY)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "python"))
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    set_up = notebooks.cells(notebooks.load("qwen3_4b"), "## Set-up")
    shown = "print(MIRROR, len(os.environ['GEMINI_API_KEY']))"
    asked = notebooks.nbformat.v4.new_code_cell(f"!plantune doctor smollm2_135m distill.teacher=gemini\n{shown}")
    said = notebooks.run([*set_up, asked], tmp_path / "here")
    assert "mounted /content/drive" in said and "HF_TOKEN is not among the secrets" in said
    assert re.search(r"ok +teacher +gemini", said) and f"/content/drive/MyDrive/plantune {len(KEY)}" in said
    assert KEY not in said


_KAGGLE = """
class BackendError(Exception): ...
class UserSecretsClient:
    def get_secret(self, label):
        if label != "GEMINI_API_KEY":
            raise BackendError(label)
        return {key!r}
"""


def test_on_kaggle_keys_come_from_its_secrets_without_being_shown(tmp_path, monkeypatch, as_a_user):
    (tmp_path / "kaggle_secrets.py").write_text(_KAGGLE.replace("{key!r}", repr(KEY)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    set_up = notebooks.cells(notebooks.load("qwen3_4b"), "## Set-up")
    asked = notebooks.nbformat.v4.new_code_cell("print(MIRROR, len(os.environ['GEMINI_API_KEY']))")
    said = notebooks.run([*set_up, asked], tmp_path / "here")
    assert "HF_TOKEN is not among the secrets" in said and f"mirror {len(KEY)}" in said and KEY not in said


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_notebook_distils_without_torch_and_trains_on_another_machine(
    model, tmp_path, monkeypatch, swapped, gemini, as_a_user
):
    notebook = notebooks.load(model)
    small = f"{SMALL} {swapped} problems.source=practice problems.levels="
    (tmp_path / "light").mkdir()
    (tmp_path / "light" / "torch.py").write_text("raise ImportError('this runtime has the light core')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "light"))
    server = gemini(of_practice())
    said = notebooks.run(notebooks.cells(notebook, "## Set-up", "## First"), tmp_path / "cpu", OVERRIDES=small)
    assert DEFAULT_MODEL in said and "rows to learn from" in said and "<plan>" in said, said
    asked = server.stats()["requests"]

    for name in ("PYTHONPATH", "GEMINI_API_KEY"):  # the second machine has torch, and needs no key
        monkeypatch.delenv(name)
    shutil.copytree(tmp_path / "cpu" / "mirror", tmp_path / "gpu" / "mirror")
    hub = f"you/{model}-plans --what merged"  # an adapter over a folder of one's own is refused
    chosen = notebooks.cells(notebook, "## Set-up", "## Second")
    more = notebooks.run(chosen, tmp_path / "gpu", OVERRIDES=small, HUB=hub)
    assert "restored" in more and f"{model}_sft can run here" in more and "2 steps on" in more, more
    assert "not better than untuned" in more and "answer" in more
    assert server.stats()["requests"] == asked > 0 and "error:" not in said + more and KEY not in said + more
    assert (tmp_path / "gpu" / "pushed" / f"{model}-plans-merged" / "model.safetensors").is_file()
    kept = tmp_path / "gpu" / "mirror" / f"{model}_sft"
    assert (kept / "report.html").is_file() and (kept / "sft" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_the_notebook_of_the_embedded_student_runs_here(tmp_path, as_a_user):
    notebook = notebooks.load("smollm2_135m")
    one_arm = ["evaluate.baseline=false", "evaluate.prompts=zero_shot_cot", "grpo=none"]
    small = [*SMALL.split(), *one_arm, "sft.batch_size=2", "export.formats=merged"]
    said = notebooks.run(notebook.cells, tmp_path, SETTINGS=small)
    assert "smollm2_135m can run here" in said and "2 steps on" in said and "error:" not in said, said
    assert "| untuned" in said and "working" in said
    assert (tmp_path / "pushed" / "smollm2-plans-merged" / "model.safetensors").is_file()


# --- your own problems ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_csv_with_its_own_column_names_goes_the_whole_way(tmp_path, swapped, gemini):
    with open(EXAMPLES / "my.csv", encoding="utf-8", newline="") as file:
        known = [{"question": row["Frage"], "answer": row["Antwort"]} for row in csv.DictReader(file, delimiter=";")]
    gemini(known)
    columns = ["problems.path=examples/my.csv", "problems.question=Frage", "problems.answer=Antwort"]
    asked = ["run", "qwen3_4b_sft", *columns, *SMALL.split(), *swapped.split()]
    said = command("-m", "plantune_lite.cli.main", *asked, folder=tmp_path)
    assert "12 problems to learn from, 3 held out" in said
    learned = {row["prompt"][-1]["content"] for row in read_jsonl(tmp_path / "qwen3_4b_sft/corpus/train.jsonl")}
    assert learned <= {one["question"] for one in known} and len(learned) > 8
    assert "own: m1 is" in said and (tmp_path / "qwen3_4b_sft" / "merged" / "model.safetensors").is_file()


@pytest.mark.slow
def test_problems_from_a_function_go_the_whole_way(tmp_path, swapped):
    said = command(EXAMPLES / "own_problems.py", *SMALL.split(), *swapped.split(), folder=tmp_path)
    assert "12 problems to learn from" in said and "2 steps on" in said
    assert read_manifest(tmp_path / "own_problems").final == "sft"


# --- a reward of one's own --------------------------------------------------------------------------------------------


def test_a_plan_is_short_beside_the_reference():
    (short_plan,) = (user_code.load(f"{EXAMPLES / 'custom_reward.py'}:short_plan"),)
    texts = [render(("Add.",), "4"), render(("Add.", "Check.", "Say."), "4"), "no plan: 4"]
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    given = short_plan(prompts=["?"] * 3, completions=chats, plan=[["Add.", "Say."]] * 3, answer=["4"] * 3)
    assert given == [0.5, 0.0, 0.0]


_COINS = """
import random

def coins(seed, limit):
    dice = random.Random(seed)
    for number in range(limit):
        side = dice.choice((1, 2))
        yield {"question": f"Coin {number}: heads is 1 and tails is 2. Which is it?", "answer": side,
               "steps": [f"It shows {side}."], "plan": ["Look at the coin."]}
"""


@pytest.mark.slow
def test_a_reward_of_ones_own_is_earned_and_written_down(tmp_path, swapped):
    (tmp_path / "coins.py").write_text(_COINS)  # what nobody can know is solved at times
    coins = f"problems.source={tmp_path / 'coins.py'}:coins problems.levels= problems.limit=96 student.max_length=900"
    alike = "corpus.dedup=none corpus.decontaminate=0 evaluate.baseline=false sft.max_steps=40 sft.learning_rate=1e-2"
    short = "grpo.steps=2 grpo.group=4 grpo.max_completion=96 grpo.temperature=0.4"
    reward = "grpo.rewards=examples/custom_reward.py:short_plan"
    settings = " ".join((SMALL, swapped, coins, alike, short, reward)).split()
    command("-m", "plantune_lite.cli.main", "distill", "smollm2_135m_grpo", *settings, folder=tmp_path)
    said = command("-m", "plantune_lite.cli.main", "train", "smollm2_135m_grpo", *settings, folder=tmp_path)
    assert "short_plan" in said
    samples = list(read_jsonl(tmp_path / "smollm2_135m_grpo" / "grpo" / "samples.jsonl"))
    assert {row["rewards"]["short_plan"] for row in samples} <= {0.0, 0.5}
    assert any(row["rewards"]["short_plan"] for row in samples)


# --- the plain loop ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen3"])
def test_the_plain_loop_has_our_losses(family, tmp_path, monkeypatch, capsys):
    base, found, out = make_base(tmp_path / "base", family), rows(4), tmp_path / "plain"
    (tmp_path / "run" / "corpus").mkdir(parents=True)
    write_records(tmp_path / "run" / "corpus" / "train.jsonl", found)
    loop = user_code.load_module(EXAMPLES / "sft_loop.py")
    asked = [tmp_path / "run", base, out, "--steps", 6, "--batch", 4, "--rank", 4, "--learning-rate", 1e-2]
    monkeypatch.setattr(sys, "argv", ["sft_loop.py", *map(str, asked)])
    loop.main()
    theirs = [float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines() if "loss" in line]

    ours = {}
    part = SFT(max_steps=6, batch_size=4, accumulate=1, learning_rate=1e-2, warmup=0.1)
    learns = learner(base, lora_alpha=4)
    reporter = Reporter(metric=lambda step, **named: ours.setdefault(step, named))
    sft.train(learns, found, part, tmp_path / "ours", Training(reporter=reporter))
    assert theirs[0] == pytest.approx(ours[1]["loss"], abs=1e-4)
    assert theirs == pytest.approx([named["loss"] for _, named in sorted(ours.items())], abs=1e-4)
    assert theirs[-1] < theirs[0] - 0.1 and (out / "adapter_model.safetensors").is_file()
