"""Run one stage of a run in a separate process: `python -m plantune_lite.pipeline.child RUN STAGE`.

Input: a run folder with recipe.json and the outputs of earlier stages. Output: the stage's files, its lines on stdout,
and .stage/STAGE.json with its summary or the error message.

_WORK names the functions that do the stages' work: packages that do not import each other meet only there.
"""

import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from plantune_lite.distill.stage import run_corpus, run_distill
from plantune_lite.evaluate.headroom import run_headroom
from plantune_lite.evaluate.stage import run_evaluate
from plantune_lite.export.stage import run_export
from plantune_lite.files import write_whole
from plantune_lite.problems.stage import run_problems, run_suites
from plantune_lite.recipe import user_code
from plantune_lite.recipe.load import load_recipe
from plantune_lite.report.stage import run_report
from plantune_lite.runs.folder import RunFolder, locked
from plantune_lite.runs.job import Job, is_first
from plantune_lite.runs.manifest import Summary, read_manifest
from plantune_lite.train.stage import run_baseline, run_grpo, run_sft
from plantune_lite.types import PlantuneError

INTERRUPTED = 130
_DISK_FULL = ("no space left", "os error 28", "disk is full", "unexpected pos")  # the last is torch.save's

_WORK: dict[str, Callable[[Job], Summary]] = {
    "problems": run_problems,
    "suites": run_suites,
    "headroom": run_headroom,
    "distill": run_distill,
    "corpus": run_corpus,
    "sft": run_sft,
    "baseline": run_baseline,
    "cpl": lambda job: user_code.load_from_lab("cpl")(job),
    "grpo": run_grpo,
    "evaluate": run_evaluate,
    "export": run_export,
    "report": run_report,
}


def main(arguments: list[str]) -> int:
    """Run one stage; return 0 if it is done."""
    run, stage, *rest = arguments
    folder = Path(run)
    result = RunFolder(folder).result(stage)
    _end_with_parent()
    # As when loading a student: a merge imports it too, and it warns of a CPU kernel that it would download.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        if not is_first():
            _work(folder, stage, rest)
            return 0
        # A killed run's child may still be ending; two processes must not write one stage.
        with locked(RunFolder(folder).at_work, wait_seconds=30.0):
            write_whole(result, json.dumps({"summary": _work(folder, stage, rest).to_row()}, ensure_ascii=False))
        return 0
    except PlantuneError as error:
        _say_why(result, str(error))
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if any(words in str(error).lower() for words in _DISK_FULL):  # not always an OSError
            _say_why(result, f"the disk is full ({error}). Free some of it, then rerun the command to resume.")
            return 1
        traceback.print_exc()
        _say_why(result, f"{stage} failed: {type(error).__name__}: {error}")
        return 1


def _say_why(result: Path, sentence: str) -> None:
    """Record why the stage failed, unless another process has: this one's error is then only a consequence."""
    if not result.is_file():
        write_whole(result, json.dumps({"error": sentence}, ensure_ascii=False))


def _work(folder: Path, stage: str, rest: list[str]) -> Summary:
    run = RunFolder(folder)
    plan = json.loads(run.job.read_text(encoding="utf-8"))
    out = folder / plan["home"]
    job = Job(
        run=run,
        stage=stage,
        out=out,
        recipe=load_recipe(folder),
        earlier=read_manifest(folder).summaries,
        hours_left=plan["hours_left"],
    )
    work = user_code.load(rest[0]) if rest else _WORK[stage]
    out.mkdir(parents=True, exist_ok=True)
    return work(job)


def _end_with_parent() -> None:
    """End when a killed parent closes our stdin, so that nothing else writes when the run resumes."""
    if os.environ.get("PLANTUNE_PARENT") != "1":
        return

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin: a thread blocked in it breaks the interpreter's shutdown
            pass
        os._exit(INTERRUPTED)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
