import os
import socket

import pytest
from hypothesis import settings

settings.register_profile("patient", deadline=None)  # what a busy machine makes slow is no failure
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """No test sees the user's keys, data or runs, or reaches a hub."""
    for name in (
        "GEMINI_API_KEY",
        "GOOGLE_API_KEY",
        "OPENAI_API_KEY",
        "HF_TOKEN",
        "PLANTUNE_DATA",
        "COLAB_RELEASE_TAG",
        "KAGGLE_KERNEL_RUN_TYPE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PLANTUNE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", _to_this_machine_only)


_connect = socket.socket.connect


def _to_this_machine_only(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise AssertionError(f"a test reached for {address[0]}")
    return _connect(self, address)


def pytest_sessionfinish(session, exitstatus):
    """On CI every tool is there, so a skipped test is a broken promise."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    # A kernel that gives no namespaces is nobody's promise; the sandbox says so itself.
    skipped = [one for one in skipped if "programs are" not in str(one.longrepr)]
    if os.environ.get("CI") and skipped and exitstatus == 0:
        reporter.write_line(f"{len(skipped)} skipped on CI, where nothing may be", red=True)
        session.exitstatus = 1
