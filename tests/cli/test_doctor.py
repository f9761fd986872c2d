import json
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from loopback_hub import LoopbackHub, point_at
from tiny import tiny_student

from plantune_lite import Evaluate, Export, Problems, Student
from plantune_lite.cli import doctor
from plantune_lite.export import llama_cpp
from plantune_lite.files import write_records
from plantune_lite.recipe.load import load_recipe, shipped

DEMO = load_recipe("smollm2_135m")


def check(recipe, name):
    return next(check for check in doctor.examine(recipe) if check.name == name)


def test_the_demo_can_run_here_and_the_exit_status_says_so():
    done = subprocess.run(
        [sys.executable, "-m", "plantune_lite.cli.main", "doctor", "--json"], capture_output=True, check=False
    )
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["runs_here"], [c for c in report["checks"] if c["state"] == "bad"]


def test_a_large_student_without_a_gpu_is_bad_with_a_way_out():
    pytest.importorskip("torch")
    import torch

    if torch.cuda.is_available():
        pytest.skip("needs a machine without a CUDA GPU")
    found = check(replace(DEMO, student=Student("qwen2_5_7b")), "student")
    assert found.state == "bad" and "smollm2_135m" in found.fix


def test_a_gpu_that_cuda_13_has_dropped_is_bad(monkeypatch):
    import torch

    old = SimpleNamespace(name="Tesla V100", major=7, minor=0)
    monkeypatch.setattr(doctor.devices, "why_no_gpu", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: old)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (15 << 30, 16 << 30))
    found = check(DEMO, "gpu")
    assert found.state == "bad" and "capability 7.0" in found.found and "7.5" in found.fix
    old.minor = 5
    assert check(DEMO, "gpu").state == "ok"


def test_what_triton_needs_is_looked_for_where_there_is_a_gpu(monkeypatch):
    import torch

    monkeypatch.setattr(doctor.devices, "why_no_gpu", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor.sysconfig, "get_path", lambda name: "/nowhere")
    monkeypatch.setattr(doctor.platform, "system", lambda: "Linux")
    monkeypatch.setattr(doctor.platform, "release", lambda: "5.15.153.1-microsoft-standard-WSL2")
    found = check(DEMO, "compiler")
    assert found.state == "bad" and "a C compiler and Python's headers" in found.found and "python3-dev" in found.fix
    assert "/mnt/c" in check(DEMO, "wsl").fix


@pytest.mark.parametrize(
    ("built", "driver", "words"),
    [
        (None, "580.1", "a build for CPUs, and the driver is 580.1"),
        ("13.0", "570.1", "built for CUDA 13.0 and sees none"),
    ],
)
def test_why_there_is_no_gpu_names_the_driver_and_what_torch_is_built_for(monkeypatch, built, driver, words):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(doctor.devices, "nvidia_smi", lambda field: [driver])
    assert words in doctor.devices.why_no_gpu()
    monkeypatch.setattr(doctor.devices, "nvidia_smi", lambda field: [])
    assert "no NVIDIA driver" in doctor.devices.why_no_gpu()


def test_a_missing_problem_file_is_bad():
    assert check(replace(DEMO, problems=Problems("gsm8k", path="nowhere.csv")), "problems").state == "bad"


@pytest.mark.parametrize(
    ("source", "state"),
    [("gms8k", "bad"), ("gsm8k", "ok"), ("nofile.py:make", "bad"), ("practice", "ok"), ("nowhere.csv", "bad")],
)
def test_a_source_that_does_not_exist_is_bad_before_the_run_finds_out(source, state, tmp_path, monkeypatch):
    rows = [{"question": f"What is {n} + {n}?", "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}"} for n in range(20)]
    write_records(tmp_path / "gsm8k_train.jsonl", rows)
    monkeypatch.setenv("PLANTUNE_DATA", str(tmp_path))
    found = check(replace(DEMO, problems=Problems(source)), "problems")
    assert found.state == state, found


def test_worlds_of_ours_want_the_planners(monkeypatch):
    monkeypatch.setitem(sys.modules, "unified_planning.environment", None)  # what an import finds where it is missing
    found = check(load_recipe("smollm2_135m_worlds"), "problems")
    assert found.state == "bad" and "plantune-lite[lab]" in found.found


@pytest.mark.parametrize("model", ["/nonexist", "./nonexist", "~/nonexist"])
def test_a_student_in_a_folder_that_is_not_there_is_bad(model):
    assert check(replace(DEMO, student=Student(model)), "student").state == "bad"


def test_a_student_in_a_folder_is_no_preset_and_no_obstacle(tmp_path):
    tiny_student(tmp_path, "llama")
    assert check(replace(DEMO, student=Student(str(tmp_path))), "student").state == "note"


def test_a_student_that_cannot_be_served_is_found_before_a_run(tmp_path):
    tiny_student(tmp_path, "llama")
    (tmp_path / "config.json").write_text('{"model_type": "gemma3", "vision_config": {}}')
    found = check(replace(DEMO, student=Student(str(tmp_path))), "student")
    assert found.state == "bad" and "reads more than text" in found.found


def test_gguf_of_what_llama_cpp_does_not_know_is_found_before_a_run(tmp_path, monkeypatch):
    tiny_student(tmp_path, "llama")
    listed = tmp_path / f"llama.cpp-{llama_cpp.VERSION}" / "conversion" / "__init__.py"
    listed.parent.mkdir(parents=True)
    listed.write_text('"Qwen3ForCausalLM": "qwen"')
    monkeypatch.setenv("PLANTUNE_CACHE", str(tmp_path))
    asked = replace(DEMO, student=Student(str(tmp_path)), export=Export(("q8_0",)))
    found = check(asked, "student")
    assert found.state == "bad" and "does not support LlamaForCausalLM: set export.formats=merged" in found.found
    assert check(replace(asked, export=Export(("merged",))), "student").state == "note"


@pytest.mark.parametrize(
    ("url", "model", "environ", "words"),
    [
        ("http://192.168.1.5:11434/v1", "m", {}, "no key is set"),
        ("http://192.168.1.5:11434/v1", "m", {"OPENAI_API_KEY": "x"}, "price of 'm' is not known"),
        ("http://127.0.0.1:11434/v1", "m", {"PLANTUNE_PRICE": "cheap"}, "two numbers"),
        ("http://127.0.0.1:11434/v1", None, {}, "distill.model is not set"),
        ("http://192.168.1.5:11434/v1", "m", {"OPENAI_API_KEY": "x", "PLANTUNE_PRICE": "0,0"}, None),
        ("http://127.0.0.1:11434/v1", "m", {}, None),
    ],
)
def test_a_server_that_a_run_would_not_ask_is_bad(monkeypatch, url, model, environ, words):
    for name in ("OPENAI_API_KEY", "PLANTUNE_PRICE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    found = check(replace(DEMO, distill=replace(DEMO.distill, teacher=url, model=model)), "teacher")
    assert found.state == ("bad" if words else "ok") and re.search(words or "", found.found)


def test_a_suite_that_does_not_exist_is_bad():
    found = check(replace(DEMO, evaluate=Evaluate(("gsm9k",))), "problems")
    assert found.state == "bad" and "did you mean 'gsm8k'" in found.found


def test_versions_are_held_against_the_windows_of_our_own_metadata(monkeypatch):
    from importlib import metadata

    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.1" if name == "click" else real(name))
    found = check(DEMO, "click")
    assert found.state == "bad" and "outside" in found.found and found.fix.startswith("pip install 'click")


def test_a_key_that_is_set_will_do_and_is_never_shown(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "secret-value")
    recipe = replace(DEMO, distill=replace(DEMO.distill, teacher="gemini"))
    assert check(recipe, "teacher").state == "ok"
    unpriced = replace(recipe, distill=replace(recipe.distill, model="gemini-nonsense"))
    assert "no budget could hold" in check(unpriced, "teacher").found
    assert "secret-value" not in repr(list(doctor.examine(recipe)))


def test_gemini_without_a_key_is_a_note_and_not_an_obstacle():
    found = check(replace(DEMO, distill=replace(DEMO.distill, teacher="gemini")), "teacher")
    assert found.state == "note" and "plan for itself" in found.found


def test_a_k_quant_that_nothing_here_can_make_is_bad_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr(doctor.llama_cpp, "runs_llama", lambda: False)
    found = check(replace(DEMO, export=Export(("merged", "q4_k_m"))), "llama.cpp")
    assert found.state == "bad" and "plantune-lite[gguf]" in found.fix
    assert check(DEMO, "llama.cpp").state == "note"  # q8_0


def test_no_shipped_recipe_needs_a_compiler():
    for name in shipped():
        assert not {"q4_k_m", "q5_k_m", "q6_k"} & set(load_recipe(name).export.formats), name


def test_where_programs_may_be_run_it_says_whether_they_can_be():
    assert not [one for one in doctor.examine(DEMO) if one.name == "sandbox"]
    found = check(replace(DEMO, evaluate=Evaluate(("own",), allow_code=True)), "sandbox")
    assert (found.state == "ok") == (doctor.sandbox.why_not() is None)


def test_a_full_disk_is_bad(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 5e8}))
    assert check(DEMO, "disk").state == "bad"


def test_weights_behind_a_closed_gate_are_bad(monkeypatch):
    with LoopbackHub() as hub:
        hub.commit("somebody/gated", {"config.json": "{}", "a.safetensors": b""}, kind="model", gated=True)
        point_at(hub.url, monkeypatch)
        found = check(replace(DEMO, student=Student("somebody/gated")), "student")
    assert found.state == "bad" and "is gated" in found.found and "HF_TOKEN" in found.found
