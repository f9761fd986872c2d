import json
import os
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from plantune_lite.runs.job import Reporter
from plantune_lite.student import attention
from plantune_lite.train import callbacks
from plantune_lite.train.callbacks import Checkpoint, Clock, Figures, Schedule, TrainingError

# --- the learning rate ------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 500), st.floats(0, 0.5))
def test_the_rate_goes_up_in_a_line_and_down_to_nothing(steps, share):
    warmup = round(share * steps)
    shares = [Schedule(steps, warmup)(step) for step in range(steps + 1)]
    assert all(0 < one <= 1 for one in shares[:-1]) and shares[-1] == pytest.approx(0)
    assert all(after > before for before, after in pairwise(shares[: warmup + 1]))
    assert all(after < before for before, after in pairwise(shares[warmup:]))


def test_shortened_it_is_what_it_would_have_been_from_the_start():
    schedule = Schedule(1000, 100)
    schedule.shorten(50)
    assert [schedule(step) for step in range(60)] == [Schedule(50, 5)(step) for step in range(60)]


def stepper(schedule):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)


def test_a_checkpoint_of_the_scheduler_keeps_a_shortened_schedule(tmp_path):
    schedule = Schedule(100, 10)
    optimizer, scheduler = stepper(schedule)
    for _ in range(30):
        optimizer.step()
        scheduler.step()
    schedule.shorten(40)
    torch.save(scheduler.state_dict(), tmp_path / "scheduler.pt")

    again = Schedule(100, 10)
    optimizer, scheduler = stepper(again)
    scheduler.load_state_dict(torch.load(tmp_path / "scheduler.pt", weights_only=True))  # as the trainer loads it
    optimizer.step()
    scheduler.step()
    assert (again.steps, again.warmup) == (40, 4)
    assert scheduler.get_last_lr() == [Schedule(40, 4)(31)]


# --- the time ---------------------------------------------------------------------------------------------------------


def run(steps, hours, seconds_a_step, *, at=0, **settings):
    """A training of fake steps by the clock; how many it made, how long it took, what it said, its rates."""
    time, said, rates = [0.0], [], []
    schedule = Schedule(steps, steps // 10)
    clock = Clock(schedule, hours, said.append, now=lambda: time[0], **settings)
    state = SimpleNamespace(global_step=at, max_steps=steps)
    control = SimpleNamespace(should_training_stop=False, should_save=False, should_evaluate=False)
    while not control.should_training_stop:
        rates.append(schedule(state.global_step))
        time[0] += seconds_a_step(state.global_step)
        state.global_step += 1
        clock.on_step_end(SimpleNamespace(eval_strategy="steps"), state, control)
    return SimpleNamespace(
        made=state.global_step, time=time[0], said=said, rates=rates, schedule=schedule, state=state, end=control
    )


def test_without_a_limit_every_step_is_made():
    done = run(100, None, lambda step: 1e6)
    assert (done.made, done.said) == (100, [])


def test_where_all_steps_fit_nothing_is_changed():
    done = run(100, 1.0, lambda step: 30.0)
    assert (done.made, done.said, done.schedule.steps) == (100, [], 100)


def test_where_they_do_not_fit_the_schedule_ends_in_time():
    done = run(1000, 1.0, lambda step: 30.0)
    assert done.said == ["max_hours leaves time for 118 of 1000 steps: the schedule ends there"]
    assert (done.made, done.schedule.warmup, done.state.max_steps) == (118, 12, 118)
    assert 3500 < done.time <= 3600 and done.rates[-1] < 0.01


def test_a_slow_first_step_says_nothing_of_the_pace():
    done = run(300, 1.0, lambda step: 900.0 if step == 0 else 9.0)
    assert (done.made, done.said) == (299, ["max_hours leaves time for 299 of 300 steps: the schedule ends there"])


def test_a_pace_that_slows_down_is_seen_again_and_the_rate_still_comes_down():
    done = run(1000, 1.0, lambda step: 10.0 if step < 40 else 20.0)
    assert len(done.said) == 4 and 3400 < done.time <= 3600
    assert done.rates[-1] < 0.01


def test_a_pace_that_breaks_down_ends_in_time_all_the_same():
    done = run(1000, 1.0, lambda step: 10.0 if step < 300 else 200.0)
    assert done.time <= 3600 and done.made == done.schedule.steps == done.state.max_steps


def test_time_that_is_up_at_once_ends_after_two_steps():
    assert run(100, 0.0, lambda step: 1.0).made == 2


def test_room_is_left_for_the_last_validation():
    done = run(1000, 1.0, lambda step: 30.0, validation=20.0)
    assert done.made == 98 and done.time + 20 * 30.0 <= 3600


def test_a_training_that_goes_on_plans_from_its_own_steps():
    done = run(1000, 1.0, lambda step: 30.0, at=500)
    assert done.made == 618 and done.time <= 3600


def test_the_last_step_is_saved_and_looked_at_wherever_it_falls():
    done = run(1000, 1.0, lambda step: 30.0)
    assert done.end.should_save and done.end.should_evaluate


def test_several_processes_end_at_the_first_ones_step():
    done = run(1000, 1.0, lambda step: 30.0, agree=lambda count: 50)
    assert done.made == callbacks.PLANNED_AFTER + 50


# --- the figures ------------------------------------------------------------------------------------------------------


def figures(*logs, fp16=False):
    rows, lines = [], []
    watcher = Figures(
        Schedule(10, 1),
        Reporter(
            metric=lambda step, **named: rows.append((step, named)), show=lambda line, last: lines.append((line, last))
        ),
        {"loss": "loss", "eval_loss": "validation_loss", "grad_norm": "grad_norm"},
        "Do this.",
    )
    state = SimpleNamespace(global_step=0)
    watcher.on_train_begin(SimpleNamespace(), state, None)
    for one in logs:
        state.global_step += 1
        watcher.on_log(SimpleNamespace(fp16=fp16), state, None, one)
    return rows, lines


def test_named_figures_are_kept_and_others_are_not():
    rows, lines = figures({"loss": 2.0, "epoch": 0.1}, {"train_runtime": 3.0}, {"eval_loss": 1.5})
    assert rows == [(1, {"loss": 2.0}), (3, {"validation_loss": 1.5})]
    assert len(lines) == 1 and lines[0][0].startswith("step 1 of 10: loss 2, ") and lines[0][1] is False


def test_the_last_line_stays():
    _, lines = figures(*[{"loss": 1.0}] * 10)
    assert [last for _, last in lines] == [False] * 9 + [True]


@pytest.mark.parametrize("name", ["loss", "eval_loss", "grad_norm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_no_number_ends_the_training_with_advice(name, value):
    with pytest.raises(TrainingError, match=rf"is {value} at step 2: .* saved is from before that. Do this."):
        figures({"loss": 1.0}, {name: value})


def test_a_step_that_fp16_leaves_out_is_no_error():
    assert figures({"loss": 1.0, "grad_norm": float("inf")}, fp16=True)[0] == [(1, {"loss": 1.0})]


# --- checkpoints ------------------------------------------------------------------------------------------------------


def checkpoint(out, step, *, planned=100, without=(), state=None, cut=None):
    folder = out / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    weights = {"a": torch.zeros(9)}
    for name in {"optimizer.pt", "scheduler.pt", "rng_state.pth"}.difference(without):
        torch.save(weights, folder / name)
    if "adapter_model.safetensors" not in without:
        save_file(weights, folder / "adapter_model.safetensors")
    if cut:
        os.truncate(folder / cut, (folder / cut).stat().st_size - 9)
    text = state if state is not None else json.dumps({"global_step": step, "max_steps": planned})
    (folder / "trainer_state.json").write_text(text)
    return folder


def test_the_newest_checkpoint_is_the_one_of_the_most_steps(tmp_path):
    for step in (9, 100, 20):
        checkpoint(tmp_path, step, planned=120)
    assert callbacks.last_checkpoint(tmp_path) == Checkpoint(tmp_path / "checkpoint-100", 100, 120)


def test_no_checkpoint_is_no_error(tmp_path):
    assert callbacks.last_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "broken",
    [
        *({"state": text} for text in ("", '{"global_st', "{}", "null")),
        *({"without": (name,)} for name in ("optimizer.pt", "adapter_model.safetensors")),
        *({"cut": name} for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.safetensors")),
    ],
)
def test_a_half_written_checkpoint_is_passed_over_and_removed(tmp_path, broken):
    whole, half = checkpoint(tmp_path, 10), checkpoint(tmp_path, 20, **broken)
    assert callbacks.last_checkpoint(tmp_path).folder == whole
    assert whole.exists() and not half.exists()


def test_a_checkpoint_without_its_mark_is_half_written(tmp_path):
    (checkpoint(tmp_path, 10) / "trainer_state.json").unlink()
    assert callbacks.last_checkpoint(tmp_path) is None


# --- memory -----------------------------------------------------------------------------------------------------------


def test_memory_that_ran_out_is_known_by_its_many_names():
    for error in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        MemoryError(),
    ):
        assert attention.out_of_memory(error)
    assert not attention.out_of_memory(RuntimeError("shape mismatch"))


def test_memory_that_really_runs_out_here_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert attention.out_of_memory(caught.value)
