"""The manifest: what stages say of themselves is typed, and runs of other versions are read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifests import manifest_of

from plantune_lite.pipeline.stages import STAGES
from plantune_lite.runs.manifest import (
    Entry,
    GRPOSummary,
    Manifest,
    Summaries,
    Summary,
    TrainingSummary,
    read_manifest,
    read_summary,
    write_manifest,
)
from plantune_lite.types import RunError


def test_what_is_written_is_what_is_read(tmp_path):
    manifest = Manifest.new("mine")
    said = GRPOSummary(line="16 steps", steps=16, planned_steps=20, rewards={"right_answer": [0.1, 0.9]})
    manifest.stages["grpo"] = Entry(fingerprint="f", status="done", summary=said, outputs={"grpo/x": 7})
    manifest.stages["sft"] = Entry(status="running", began=1.0)
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert manifest.is_done("grpo") and not manifest.is_done("sft") and not manifest.is_done("cpl")
    assert manifest.line("grpo") == "16 steps" and manifest.line("sft") == manifest.line("cpl") == ""


def test_fields_at_their_defaults_are_not_written():
    assert Entry(status="running", began=1.0).to_row() == {"status": "running", "began": 1.0}
    assert read_summary("suites", {"line": "own 200"}).to_row() == {"line": "own 200"}


def test_a_run_of_another_version_is_read_without_what_is_not_known_here(tmp_path):
    stages = {
        "sft": {"status": "done", "summary": {"line": "8 steps", "steps": 8, "tokens_a_second": 9.5}, "cards": 1},
        "annealing": {"status": "done", "summary": {"line": "cooled", "degrees": 3}},
    }
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "stages": stages, "mood": "good"}))
    manifest = read_manifest(tmp_path)
    assert manifest.summaries.sft.steps == 8 and manifest.line("annealing") == "cooled"
    assert manifest.summaries.made == {"sft", "annealing"} and manifest.id is None


def test_what_a_stage_has_not_said_is_as_if_it_had_said_nothing():
    summaries = manifest_of({"sft": {"summary": {"base": {"revision": "abc"}}}}).summaries
    assert summaries.training("sft").revision == "abc" and summaries.training("grpo") == TrainingSummary()
    assert summaries.training(None).revision is None and summaries.grpo == GRPOSummary()


@pytest.mark.parametrize(
    ("row", "cut_short"),
    [({}, False), ({"partial": True}, True), ({"steps": 3, "planned_steps": 4}, True), ({"steps": 4}, False)],
)
def test_a_training_is_cut_short_where_time_or_money_ended_it(row, cut_short):
    assert read_summary("sft", row).cut_short is cut_short


def test_every_stage_has_a_summary_of_its_own():
    assert {stage.name for stage in STAGES} == set(vars(Summaries())) - {"made"}
    assert type(read_summary("anything else", {"line": "x"})) is Summary


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2, "stages": {}}', '{"format": 1, "stages": []}', "\x00"])
def test_what_is_no_manifest_is_an_error_that_names_it(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RunError, match="manifest.json is not a manifest of format 1"):
        read_manifest(tmp_path)


@given(st.dictionaries(st.sampled_from([stage.name for stage in STAGES]), st.dictionaries(st.text(), st.none())))
def test_reading_writing_and_reading_again_changes_nothing(stages):
    once = manifest_of({name: {"summary": row} for name, row in stages.items()})
    assert manifest_of(**{key: value for key, value in once.to_row().items() if key != "format"}) == once
