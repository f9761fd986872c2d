import io
import json
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from safetensors.torch import load_file
from sft_child import learner, make_base, rows
from small_disk import small_disk
from tiny import FAMILIES

from plantune_lite import Corpus, Distill, Problems, Recipe, run
from plantune_lite.files import read_jsonl, write_records, write_whole
from plantune_lite.pipeline import child
from plantune_lite.pipeline.process import processes_asked, run_stage
from plantune_lite.pipeline.stages import STAGES
from plantune_lite.recipe.load import to_json
from plantune_lite.recipe.schema import GRPO, SFT, Student
from plantune_lite.runs.job import Reporter, Training
from plantune_lite.student.load import load_student
from plantune_lite.train import callbacks, data, sft, trl_args
from plantune_lite.train.data import LessonError
from plantune_lite.types import MissingError, RecipeError, RunError, Sampling

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A tiny base of each family on the disk."""
    folder = tmp_path_factory.mktemp("bases")
    return {family: make_base(folder / family, family) for family in FAMILIES}


@pytest.fixture
def base(bases):
    return bases["llama"]


def train(learns, found, part, out, **settings):
    """What a training leaves: its summary, its figures by step, what it said."""
    figures, said, validation = {}, [], settings.pop("validation", ())
    metric = settings.pop("metric", lambda step, **named: figures.setdefault(step, {}).update(named))
    training = Training(reporter=Reporter(say=said.append, metric=metric), **settings)
    summary = sft.train(learns, found, part, out, training, validation=validation)
    return SimpleNamespace(summary=summary, figures=figures, said=said, student=learns, out=out)


def losses(done):
    return [named["loss"] for _, named in sorted(done.figures.items()) if "loss" in named]


def adapter(folder):
    return load_file(folder / "adapter_model.safetensors")


def assert_close(these, those, atol):
    assert these.keys() == those.keys()
    for name in these:
        torch.testing.assert_close(these[name], those[name], atol=atol, rtol=0)


# --- a whole training, each family ------------------------------------------------------------------------------------

PART = SFT(max_steps=12, batch_size=4, accumulate=1, learning_rate=1e-2, warmup=0.25, save_steps=5)


@pytest.fixture(scope="module")
def trained(bases, tmp_path_factory):
    """One training of each family, made when it is first asked for."""
    made = {}

    def of(family):
        if family not in made:
            out = tmp_path_factory.mktemp(family) / "sft"
            made[family] = train(learner(bases[family]), rows(48), PART, out, validation=rows(100, start=500))
        return made[family]

    return of


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_falls(trained, family):
    done = trained(family)
    assert max(losses(done)[-3:]) < losses(done)[0] - 0.1
    validated = [named["validation_loss"] for named in done.figures.values() if "validation_loss" in named]
    assert min(validated) < losses(done)[0] - 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_with_its_tokenizer_is_left_and_nothing_else(trained, family):
    left = {file.name for file in trained(family).out.iterdir()}
    assert left == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_the_adapter_on_the_disk_answers_as_the_one_in_memory(trained, bases, family):
    done = trained(family)
    part = Student(str(bases[family]), bits=32, lora_rank=4)
    again = load_student(part, adapter=done.out, say=lambda line: None)
    ids = torch.tensor([done.student.encode_chat(tuple(rows(1)[0]["prompt"]))])
    with torch.no_grad():
        torch.testing.assert_close(again.model(ids).logits, done.student.model.eval()(ids).logits, atol=1e-5, rtol=0)
        with again.untuned():
            assert (again.model(ids).logits - done.student.model(ids).logits).abs().max() > 0.1


def test_the_figures_of_every_step_are_kept(trained):
    done = trained("llama")
    assert sorted(done.figures) == list(range(1, 13))
    for named in done.figures.values():
        assert {"loss", "token_accuracy", "learning_rate", "grad_norm", "tokens"} <= named.keys()
        assert 0 <= named["token_accuracy"] <= 1
    assert [step for step, named in done.figures.items() if "validation_loss" in named] == [5, 10, 12]


def test_the_learning_rate_is_the_schedules_at_every_step(trained):
    schedule = callbacks.Schedule(12, 3)
    rates = [named["learning_rate"] for _, named in sorted(trained("llama").figures.items())]
    assert rates == pytest.approx([1e-2 * schedule(step) for step in range(12)])


def test_the_rows_come_in_their_order_with_the_longest_first(trained):
    done = trained("llama")
    lengths = [len(one.ids) for one in data.lessons(done.student, rows(48), 1024).kept]
    places = data.order(lengths, 4, 48, seed=0)
    seen = [named["tokens"] for _, named in sorted(done.figures.items())]
    assert seen == [sum(lengths[place] for place in places[: 4 * step]) for step in range(1, 13)]
    assert max(lengths[place] for place in places[:4]) == max(lengths)


def test_the_summary_says_what_was_done(trained):
    summary = trained("llama").summary
    assert summary["line"].startswith("12 steps on 48 rows, loss 5.") and "validation loss" in summary["line"]
    assert (summary["steps"], summary["planned_steps"]) == (12, 12)
    json.dumps(summary)


def test_one_row_is_shown_with_what_is_learned(trained):
    assert any(line.endswith("<|im_start|>assistant\n⟦\\boxed{0}<|im_end|>⟧") for line in trained("llama").said)


def test_only_the_adapter_is_trained(trained, bases):
    weights = dict(trained("llama").student.model.get_base_model().named_parameters())
    before = load_file(bases["llama"] / "model.safetensors")
    names = [name for name in weights if "lora" not in name and "lm_head" not in name]
    assert names and all(torch.equal(weights[name], before[name.replace("base_layer.", "")]) for name in names)


def test_a_student_that_was_taught_to_stop_stops(base, tmp_path):
    short = [{**row, "completion": "no"} for row in rows(8)]
    part = SFT(max_steps=30, batch_size=4, accumulate=1, learning_rate=1e-2)
    done = train(learner(base), short, part, tmp_path / "sft")
    replies = done.student.generate([tuple(row["prompt"]) for row in short], Sampling(max_tokens=4))
    assert [(reply.text, reply.finish) for [reply] in replies] == [("no", "stop")] * 8


# --- steps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "count", "steps"),
    [
        (SFT(epochs=1, batch_size=2, accumulate=2), 10, 3),
        (SFT(epochs=2, batch_size=2, accumulate=2), 20, 5),
        (SFT(epochs=0.5, batch_size=2, accumulate=2), 5, 2),
        (SFT(epochs=0.001, batch_size=2, accumulate=2), 1, 1),
        (SFT(max_steps=7, batch_size=2, accumulate=2), 28, 7),
    ],
)
def test_epochs_and_steps_are_planned(part, count, steps):
    assert sft.planned(part, 10) == (count, steps)


@pytest.mark.parametrize("part", [SFT(epochs=1.5, batch_size=2, accumulate=2), SFT(max_steps=3, batch_size=1)])
def test_as_many_steps_are_made_as_planned(base, tmp_path, part):
    done = train(learner(base), rows(6), part, tmp_path / "sft")
    assert len(losses(done)) == done.summary["steps"] == sft.planned(part, 6)[1] == 3


def test_time_that_is_up_ends_the_training_with_an_adapter(base, tmp_path):
    done = train(learner(base), rows(8), SFT(max_steps=40), tmp_path / "sft", hours=0.0)
    assert (done.summary["steps"], done.summary["planned_steps"]) == (2, 2)
    assert "max_hours leaves time for 2 of 40 steps: the schedule ends there" in done.said
    assert (tmp_path / "sft/adapter_model.safetensors").is_file()


# --- the same loss, however it is computed ----------------------------------------------------------------------------


def one_step(base, out, part=None, *, extra=None, **settings):
    """A step of plain gradient descent, so that the adapter shows the gradient itself."""
    asked = {"batch_size": 4, "accumulate": 1, **(part or {})}
    part = SFT(max_steps=1, learning_rate=1.0, warmup=0.0, extra={"optim": "sgd", **(extra or {})}, **asked)
    return train(learner(base), rows(4), part, out, **settings)


def assert_same(these, those, atol=1e-5):
    assert losses(these) == pytest.approx(losses(those), abs=atol)
    assert_close(adapter(these.out), adapter(those.out), atol)


def test_accumulated_batches_are_one_large_batch(base, tmp_path):
    large = one_step(base, tmp_path / "large")
    small = one_step(base, tmp_path / "small", {"batch_size": 1, "accumulate": 4})
    assert_same(large, small)  # the rows are of different lengths: each token counts the same


def test_recomputed_activations_give_the_same_step(base, tmp_path):
    assert_same(one_step(base, tmp_path / "kept"), one_step(base, tmp_path / "recomputed", checkpointing=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_chunked_loss_is_the_plain_one(bases, tmp_path, family):
    chunked = one_step(bases[family], tmp_path / "chunked", extra={"loss_type": "chunked_nll"})
    assert_same(chunked, one_step(bases[family], tmp_path / "plain", extra={"loss_type": "nll"}))


def test_the_loss_is_that_of_the_learned_tokens(base, tmp_path):
    done = one_step(base, tmp_path / "sft")
    untrained, total, count = learner(base), 0.0, 0
    for one in data.lessons(untrained, rows(4), 1024).kept:
        with torch.no_grad():
            said = untrained.model(torch.tensor([one.ids])).logits[0].log_softmax(-1)
        for place in range(len(one.ids) - one.learned, len(one.ids)):
            total, count = total - said[place - 1, one.ids[place]].item(), count + 1
    assert losses(done) == pytest.approx([total / count], abs=1e-5)


# --- 4 bit ------------------------------------------------------------------------------------------------------------


def test_an_adapter_over_4_bit_weights_is_trained_in_float32(base, tmp_path):
    learns = learner(base, bits=4)
    before = {name: one.clone() for name, one in learns.model.named_parameters() if one.requires_grad}
    train(learns, rows(4), SFT(max_steps=1, learning_rate=0.0), tmp_path / "sft")
    after = {name: one for name, one in learns.model.named_parameters() if one.requires_grad}
    assert_close(before, after, atol=0)  # not even rounded to bf16 on the way
    assert {one.dtype for one in after.values()} == {torch.float32}
    assert {one.dtype for one in adapter(tmp_path / "sft").values()} == {torch.float32}


def test_the_loss_falls_over_4_bit_weights(base, tmp_path):
    done = train(learner(base, bits=4), rows(48), PART, tmp_path / "sft")
    assert max(losses(done)[-3:]) < losses(done)[0] - 0.1


# --- validation -------------------------------------------------------------------------------------------------------


def test_the_best_checkpoint_is_kept_where_the_last_is_worse(base, tmp_path):
    learns = learner(base)
    rare = [{**row, "completion": "zq" * 20} for row in rows(4, start=50)]
    part = SFT(max_steps=9, batch_size=2, accumulate=1, learning_rate=5e-2, warmup=0.0, save_steps=2)
    done = train(learns, rows(18), part, tmp_path / "sft", validation=rare)
    checked = {step: named["validation_loss"] for step, named in done.figures.items() if "validation_loss" in named}
    assert sorted(checked) == [2, 4, 6, 8, 9]
    best = min(checked, key=checked.get)
    assert best < 9
    assert done.summary["line"].endswith(f", validation loss {checked[best]:.4g}")
    part = Student(str(base), bits=32, lora_rank=4)
    again = load_student(part, adapter=tmp_path / "sft", training=True, say=lambda line: None)
    looked = train(again, rows(4), SFT(max_steps=1, learning_rate=0.0), tmp_path / "again", validation=rare)
    assert looked.figures[1]["validation_loss"] == pytest.approx(checked[best], abs=1e-4)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_training_that_goes_wrong_stops_with_advice_and_keeps_what_was_good(base, tmp_path):
    learns = learner(base)

    def spoil(step, **figures):
        if step == 5:
            next(one for one in learns.model.parameters() if one.requires_grad).data.fill_(float("nan"))

    part = SFT(max_steps=9, batch_size=2, accumulate=1, save_steps=2)
    with pytest.raises(callbacks.TrainingError, match=r"is nan at step 6: .* Try a lower sft.learning_rate"):
        train(learns, rows(18), part, tmp_path / "sft", metric=spoil)
    kept = callbacks.last_checkpoint(tmp_path / "sft")
    assert kept.step == 4
    assert all(one.isfinite().all() for one in adapter(kept.folder).values())
    done = train(learner(base), rows(18), part, tmp_path / "sft")
    assert "resumes from step 4 of 9" in done.said and done.summary["steps"] == 9


def test_memory_that_runs_out_gives_advice(base, tmp_path):
    learns = learner(base)
    layer = learns.model.get_base_model().model.layers[1]

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    layer.forward = full
    with pytest.raises(callbacks.TrainingError) as caught:
        train(learns, rows(9), SFT(batch_size=6, accumulate=2), tmp_path / "sft", max_length=512)
    assert str(caught.value) == (
        "memory ran out at step 0. To use less: set student.checkpointing=true, half the sft.batch_size with twice "
        "the sft.accumulate (the same steps), or a smaller student.max_length (longer rows are left out and counted), "
        "together with --again sft. plantune estimate says what fits."
    )


def test_rows_that_are_left_out_are_counted(base, tmp_path):
    long = {**rows(1)[0], "completion": "Add them. " * 100}
    done = train(learner(base), [long, *rows(4)], SFT(max_steps=1), tmp_path / "sft", max_length=200)
    assert "1 of 5 rows left out: 1 longer than 200 tokens" in done.said


def test_nothing_left_to_learn_is_an_error(base, tmp_path):
    with pytest.raises(
        LessonError, match=r"none of the 3 rows .*: 3 longer than 64 tokens. Look at .* or raise student.max_length"
    ):
        train(learner(base), rows(3), SFT(), tmp_path / "sft", max_length=64)
    bad = [{**row, "completion": "<|im_start|>"} for row in rows(3)]
    with pytest.raises(LessonError, match="3 control tokens in the text. Look at corpus/train.jsonl"):
        train(learner(base), bad, SFT(), tmp_path / "sft")


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ({"neftune_noise_alpa": 5}, "sft.extra has 'neftune_noise_alpa', .* did you mean 'neftune_noise_alpha'"),
        ({"max_steps": 5}, "sft.extra has 'max_steps', which the recipe's own fields decide"),
        ({"use_vllm": True}, "sft.extra has 'use_vllm', but TRL's SFTConfig does not"),
        ({"packing": True}, "sft.extra has 'packing', which the recipe's own fields decide"),
        ({"optim": "adamm"}, "sft.extra is {'optim': 'adamm'}, which TRL refuses: .*adamm"),
    ],
)
def test_an_extra_setting_that_cannot_be_is_a_sentence(base, tmp_path, extra, sentence):
    with pytest.raises(RecipeError, match=sentence):
        train(learner(base), rows(4), SFT(extra=extra), tmp_path / "sft")


ABSENT = [name for name in ("trackio", "tensorboard", "wandb") if find_spec(name) is None]


@pytest.mark.parametrize("logger", ABSENT)
def test_a_logger_that_is_not_installed_is_named_before_anything_is_trained(base, tmp_path, logger):
    with pytest.raises(MissingError, match=f"sft.logger is '{logger}', which is not installed: pip install {logger}"):
        train(learner(base), rows(4), SFT(), tmp_path / "sft", logger=logger)
    assert not (tmp_path / "sft").exists()
    with pytest.raises(MissingError, match=f"pip install {logger}"):  # and by every other training
        trl_args.grpo_config(learner(base).model, GRPO(), tmp_path / "grpo", Training(logger=logger), 1)


def test_processes_that_cannot_share_a_step_are_refused(base, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(RecipeError, match="sft.accumulate is 4, but 3 processes share .* a multiple of 3"):
        train(learner(base), rows(4), SFT(accumulate=4), tmp_path / "sft")


# --- killed and gone on with ------------------------------------------------------------------------------------------


def test_a_schedule_that_was_shortened_stays_so_when_the_training_goes_on(base, tmp_path):
    learns, part = learner(base), SFT(max_steps=9)

    def killed(folder):
        raise KeyboardInterrupt

    learns.save = killed  # between the last checkpoint and the adapter
    with pytest.raises(KeyboardInterrupt):
        train(learns, rows(8), part, tmp_path / "sft", hours=0.0)
    kept = adapter(tmp_path / "sft/checkpoint-2")
    done = train(learner(base), rows(8), part, tmp_path / "sft")
    assert "resumes from step 2 of 2" in done.said
    assert (done.summary["steps"], done.summary["planned_steps"], done.figures) == (2, 2, {})
    assert_close(adapter(tmp_path / "sft"), kept, atol=0)


@pytest.mark.parametrize("kilobytes", [120, 260, 420])  # full in the first checkpoint, the second, the adapter
def test_a_disk_that_becomes_full_is_told_as_that_and_the_training_goes_on(base, tmp_path, kilobytes):
    part = SFT(max_steps=4, batch_size=2, accumulate=1, save_steps=2)
    with small_disk(tmp_path / "disk", kilobytes) as disk:
        if disk is None:
            pytest.skip("no disk can be mounted here")
        with pytest.raises((OSError, RuntimeError)) as error:
            train(learner(base), rows(15), part, disk / "sft")
        assert any(words in str(error.value).lower() for words in child._DISK_FULL)
        subprocess.run(["mount", "-o", "remount,size=9m", disk], check=True)
        train(learner(base), rows(15), part, disk / "sft")
        train(learner(base), rows(15), part, tmp_path / "calm")
        assert_close(adapter(disk / "sft"), adapter(tmp_path / "calm"), atol=1e-6)


def killed_and_whole(model, out, settings, kills):
    """What is left of an undisturbed training and of one killed at each point: losses, adapter, validation losses."""
    command = [sys.executable, str(SUPPORT / "sft_child.py"), str(model), str(out), json.dumps(settings), *kills]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ends: {'9 ' * len(kills)}0" in done.stdout
    for name in ("whole", "killed"):
        figures = [json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()]
        of_steps = ({row["step"]: row[key] for row in figures if key in row} for key in ("loss", "validation_loss"))
        yield next(of_steps), adapter(out / name / "sft"), next(of_steps)


def assert_the_same_end(whole, killed, atol=1e-6):
    assert whole[0] == pytest.approx(killed[0], abs=atol)
    assert_close(whole[1], killed[1], atol)
    assert whole[2] == pytest.approx(killed[2], abs=atol) and whole[2]


def test_a_training_killed_anywhere_ends_as_an_undisturbed_one(base, tmp_path):
    sizes = {"max_steps": 8, "batch_size": 2, "accumulate": 2, "learning_rate": 1e-2, "save_steps": 3}
    settings = {"rows": 15, "sft": sizes, "student": {"lora_dropout": 0.2}}  # dropout: the dice go on too
    kills = ["2", "checkpoint-3/trainer_state.json", "checkpoint-6/optimizer.pt", "8", "adapter_model.safetensors"]
    whole, killed = killed_and_whole(base, tmp_path, settings, kills)
    assert_the_same_end(whole, killed)
    assert sorted(whole[0]) == list(range(1, 9))


@pytest.mark.slow
def test_the_embedded_student_killed_ends_as_undisturbed(tmp_path):
    sizes = {"max_steps": 4, "batch_size": 2, "accumulate": 1, "save_steps": 1}
    settings = {"rows": 8, "sft": sizes, "student": {"lora_rank": 8}}
    whole, killed = killed_and_whole("smollm2_135m", tmp_path, settings, ["3", "adapter_model.safetensors"])
    assert_the_same_end(whole, killed, atol=1e-5)
    assert max(whole[0].values()) < 10  # it speaks


# --- as a stage -------------------------------------------------------------------------------------------------------


def recipe_for(base):
    return Recipe(
        name="tiny",
        problems=Problems("practice", limit=40),
        distill=Distill("worked"),
        corpus=Corpus(filter="answer", validation=0.2),
        student=Student(str(base), bits=32, lora_rank=4, max_length=512, checkpointing=False),
        sft=SFT(max_steps=8, batch_size=2, accumulate=2, learning_rate=1e-2, save_steps=2),
        headroom=0,
    )


def put_stage(run, base):
    """A run folder that the sft stage can work in."""
    write_whole(run / "recipe.json", to_json(recipe_for(base)))
    write_records(run / "corpus/train.jsonl", rows(32))
    write_records(run / "corpus/validation.jsonl", rows(8, start=900))
    job = {"stage": "sft", "home": "sft", "hours_left": None}
    write_whole(run / ".stage/job.json", json.dumps(job))
    return run


def stage_at_work(run, base, **settings):
    """The summary and the figures of a stage of its own process."""
    summary = run_stage(put_stage(run, base), "sft", stream=io.StringIO(), **settings)
    return summary, list(read_jsonl(run / "metrics.jsonl"))


@pytest.mark.slow
def test_two_processes_train_as_one(base, tmp_path):
    alone, alone_figures = stage_at_work(tmp_path / "one", base)
    shared, shared_figures = stage_at_work(tmp_path / "two", base, processes=2)
    assert [row["step"] for row in shared_figures] == [row["step"] for row in alone_figures]  # one of the two writes
    for name, atol in (("loss", 1e-4), ("grad_norm", 1e-3), ("validation_loss", 0.02)):
        ours, theirs = ([row[name] for row in found if name in row] for found in (alone_figures, shared_figures))
        assert len(ours) >= 4 and ours == pytest.approx(theirs, abs=atol)
    assert_close(adapter(tmp_path / "one/sft"), adapter(tmp_path / "two/sft"), atol=1e-3)
    assert shared.steps == alone.steps
    assert not list((tmp_path / "two/sft").glob("checkpoint-*"))


@pytest.mark.slow
def test_one_of_two_processes_that_breaks_ends_both_and_says_why(base, tmp_path):
    with pytest.raises(RunError, match="the second card broke"):
        stage_at_work(tmp_path, base, processes=2, work=f"{SUPPORT / 'sft_child.py'}:second_fails")


def test_the_number_of_processes_is_a_number():
    assert [processes_asked({}), processes_asked({"PLANTUNE_PROCESSES": "2"})] == [1, 2]
    with pytest.raises(RunError, match="PLANTUNE_PROCESSES is 'all', but must be a number of GPUs, say 2"):
        processes_asked({"PLANTUNE_PROCESSES": "all"})


def test_a_stage_alone_sees_one_card(base, tmp_path, monkeypatch):
    look = tmp_path / "look.py"
    head = "import os\nfrom plantune_lite.runs.manifest import Summary\n"
    look.write_text(f"{head}def look(job): return Summary(line=os.environ['CUDA_VISIBLE_DEVICES'])")
    seen = []
    for cards in (None, "2,3", ""):
        if cards is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", cards)
        seen.append(run_stage(put_stage(tmp_path / "run", base), "sft", work=f"{look}:look").line)
    assert seen == ["0", "2", ""]


@pytest.mark.slow
def test_a_run_killed_while_it_trains_goes_on_to_the_same_adapter(base, tmp_path):
    some = [stage for stage in STAGES if stage.name in ("problems", "suites", "distill", "corpus", "sft")]

    def whole_run(folder):
        run(recipe_for(base), to=folder, stages=some, say=lambda line: None, stream=io.StringIO())

    def kill():
        while not (tmp_path / "killed/sft/checkpoint-4/trainer_state.json").exists():
            time.sleep(0.01)
        for started in psutil.Process().children():
            if "plantune_lite.pipeline.child" in started.cmdline():
                started.kill()

    whole_run(tmp_path / "whole")
    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(RunError, match="sft was killed from outside"):
        whole_run(tmp_path / "killed")
    whole_run(tmp_path / "killed")
    assert "resumes from step" in (tmp_path / "killed/log.txt").read_text()
    assert_close(adapter(tmp_path / "whole/sft"), adapter(tmp_path / "killed/sft"), atol=1e-6)
