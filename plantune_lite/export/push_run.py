"""Push a run: adapter, merged model and GGUF files each to a repository, the corpus to a data set.

    push_model(Path("runs/mine"), "you/mine", public=True, say=print)
        -> [{"line": "you/mine: 9 files, 20.1 MB, public: ...", ...}, {"line": "you/mine-merged: ...

A merged model that was not verified against its adapter is never pushed, nor are its GGUF files.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from plantune_lite.distill import card
from plantune_lite.export import model_card, push, run_facts
from plantune_lite.export.run_facts import Form
from plantune_lite.files import read_jsonl, read_object
from plantune_lite.recipe import redact
from plantune_lite.runs.folder import RunFolder
from plantune_lite.runs.manifest import Entry, Manifest, read_manifest, refuse_changed
from plantune_lite.terminal import printable
from plantune_lite.types import PlantuneError, present


def push_model(
    run: Path,
    repo: str,
    *,
    what: Form | None = None,
    public: bool = False,
    dry_run: Path | None = None,
    say: push.Say = lambda line: None,
) -> list[dict[str, Any]]:
    """Push a run's model in every exported form (or `what`); return each push's summary.

    The adapter goes to USER/NAME, the merged model to USER/NAME-merged, GGUF files to USER/NAME-GGUF.
    """
    recipe, manifest = RunFolder(run).recipe_row(), read_manifest(run)
    there = {form: folder for form, folder in _forms_of(run, manifest).items() if what in (None, form)}
    if not there:
        raise PlantuneError(
            f"{run} has no {what or 'model'} to push yet: `plantune run {run}` trains and exports what its recipe's "
            "export.formats names"
        )
    names = {form: repo + run_facts.FORMS[form] for form in there}
    facts = run_facts.of_run(run, form=next(iter(there)), repos=names)
    if not facts.scores and any(RunFolder(run).eval.glob("*.jsonl")):
        say(f"the card has no scores: no evaluation of this model is finished; `plantune evaluate {run}` adds them")
    pushes = []
    for form, folder in there.items():
        _refuse_unchecked(run, manifest, form)
        of_form = replace(facts, form=form)
        also: dict[str, push.Content] = {"README.md": model_card.card(of_form).encode()}
        also |= model_card.hub_scores(of_form)
        if text := model_card.notice(facts):
            also["NOTICE"] = text.encode()
        if facts.plot:
            also[facts.plot.name] = facts.plot
        dry = dry_run / names[form].split("/")[1] if dry_run else None
        about = {"run": recipe["name"], "what": form}
        pushes.append(push.Push(folder, names[form], dry_run=dry, also=also, about=about, say=say))
    return push.bring(pushes, public)


def push_corpus(
    run: Path,
    repo: str,
    *,
    public: bool = False,
    dry_run: Path | None = None,
    say: push.Say = lambda line: None,
) -> list[dict[str, Any]]:
    """Push a run's corpus to a data set; return the push's summary."""
    recipe = RunFolder(run).recipe_row()
    also, about = _about_corpus(run, recipe), {"run": recipe["name"], "what": "corpus"}
    refuse_changed(run, "corpus", read_manifest(run).stages.get("corpus", Entry()), whole=True)
    corpus = push.Push(RunFolder(run).corpus, repo, kind="dataset", dry_run=dry_run, also=also, about=about, say=say)
    return push.bring([corpus], public)


def _about_corpus(run: Path, recipe: dict[str, Any]) -> dict[str, push.Content]:
    """Write a corpus's card and figures again for others, without this machine's paths."""
    folder = RunFolder(run)
    if not (folder.corpus / "README.md").is_file():
        raise PlantuneError(f"{run} has no corpus yet: `plantune distill {run}` makes it")
    stats = redact.without_paths(read_object(folder.stats))
    row = next(read_jsonl(folder.corpus / "train.jsonl"))
    origin = read_manifest(run).summaries.problems.origin
    text = card.of_corpus(stats, row, {"name": recipe["name"], "recipe": recipe, "origin": origin})
    return {"README.md": text.encode(), "stats.json": (json.dumps(stats, indent=1, ensure_ascii=False) + "\n").encode()}


def _forms_of(run: Path, manifest: Manifest) -> dict[Form, Path]:
    folders: dict[Form, Path] = {}
    if adapter := run_facts.adapter_folder(run, manifest):
        folders["adapter"] = adapter
    others: tuple[tuple[Form, str], ...] = (("merged", "safetensors"), ("gguf", "gguf"))
    for form, suffix in others:
        if any((run / form).glob(f"*.{suffix}")):
            folders[form] = run / form
    return folders


def _refuse_unchecked(run: Path, manifest: Manifest, form: Form) -> None:
    """Raise for a merged model, or its GGUF files, that was not verified against its adapter."""
    if form == "adapter":
        config = read_object(present(run_facts.adapter_folder(run, manifest)) / "adapter_config.json")
        base = config.get("base_model_name_or_path") or ""
        if not run_facts.is_public(base):
            raise PlantuneError(
                f"the adapter names {printable(Path(base).name or 'nothing')!r} as its base, a local folder or a "
                "quantised copy, which others cannot load: push the merged model alone, with --what merged"
            )
        stage = present(manifest.final)
        refuse_changed(run, stage, manifest.stages.get(stage, Entry()), whole=True)
        return
    verified = manifest.summaries.export.verified
    if not manifest.is_done("export") or verified is not True:
        why = "was found to differ from its adapter" if verified is False else "was not compared with its adapter"
        raise PlantuneError(
            f"{run / 'merged'} {why}, so neither it nor GGUF files of it are pushed: --what adapter pushes the adapter "
            f"alone, and `plantune run {run} --again export` merges again"
        )
    refuse_changed(run, "export", manifest.stages["export"], f"{form}/", whole=True)
