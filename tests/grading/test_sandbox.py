import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plantune_lite.grading import sandbox
from plantune_lite.grading.sandbox import SandboxError, run

isolated = pytest.mark.skipif(sandbox.why_not() is not None, reason=str(sandbox.why_not()))

# --- what is contained ------------------------------------------------------------------------------------------------

HOSTILE = {
    "forks without end": ("import os\nwhile True: os.fork()", "PermissionError"),
    "starts threads": ("import threading\nwhile True: threading.Thread(target=input).start()", "RuntimeError"),
    "starts a shell": ("import subprocess\nsubprocess.run(['/bin/sh', '-c', 'true'])", "PermissionError"),
    "becomes another program": ("import os, sys\nos.execv(sys.executable, ['python'])", "PermissionError"),
    "takes 50 GB of memory": ("bytearray(50 << 30)", "MemoryError"),
    "takes memory in small pieces": ("pieces = []\nwhile True: pieces.append(bytearray(1 << 20))", "MemoryError"),
    "takes memory that counts for nobody": ("import os\nos.memfd_create('x')", "PermissionError"),
    "writes 10 GB": ("file = open('x', 'wb')\nfor _ in range(10_000): file.write(bytes(1 << 20))", "OSError"),
    "writes many files": ("for number in range(100_000): open(str(number), 'w').close()", "OSError"),
    "opens files without end": ("files = []\nwhile True: files.append(open('x', 'w'))", "OSError"),
    "asks the machine's host": ("import socket\nsocket.socket(socket.AF_VSOCK)", "PermissionError"),
    "reads passwords": ("open('/etc/shadow').read()", "FileNotFoundError"),
    "reads a home": (f"import os\nos.listdir({str(Path.home() / '.ssh')!r})", "FileNotFoundError"),
    "reads this project": (f"open({sandbox.__file__!r}).read()", "FileNotFoundError"),
    "reads others' environment": ("open('/proc/1/environ').read()", "FileNotFoundError"),
    "reads its own environment": ("import os\nos.environ['PATH']", "KeyError"),
    "writes to Python's library": ("import os\nopen(os.__file__, 'a').close()", "Error"),
    "makes a file beside the root": ("open('/x', 'w').close()", "OSError"),
    "becomes root": ("import os\nos.setuid(0)", "Error"),
    "leaves for another user namespace": (
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.unshare(0x10000000): raise OSError(ctypes.get_errno(), 'no')",
        "PermissionError",
    ),
}


@isolated
@pytest.mark.parametrize(("program", "error"), HOSTILE.values(), ids=HOSTILE)
def test_a_program_cannot_do_harm(program, error):
    ran = run(program, seconds=2, memory=256 << 20)
    assert not ran.ok and error in ran.how and ran.how.startswith("failed: ")


@isolated
def test_a_program_reaches_no_server_of_this_machine():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        ran = run(f"import socket\nsocket.create_connection({server.getsockname()!r}, 1)")
        with pytest.raises(TimeoutError):
            server.accept()
    assert not ran.ok


@isolated
def test_a_program_that_kills_all_it_can_reach_harms_only_itself():
    program = "import os, signal\nfor who in (os.getppid(), 0, -1):\n    os.kill(who, signal.SIGKILL)"
    assert not run(program, "assert False").ok and run("x = 1", "assert x == 1").ok


@isolated
def test_no_file_of_this_machine_can_be_seen_but_pythons_library(tmp_path):
    (tmp_path / "key").write_text("secret")
    shown = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", f"{sys.base_prefix}/lib", f"{sys.base_prefix}/lib64"]
    program = f"""
import os
found = []
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in {shown}]
    found += [os.path.join(folder, name) for name in files]
"""
    ran = run(program, f"assert not found, found\nassert not os.path.exists({str(tmp_path)!r})")
    assert ran == (True, "passed the tests")


@isolated
def test_pythons_library_cannot_be_written_to_and_nothing_written_can_be_executed():
    program = "import os\nlibrary, scratch = (os.statvfs(path).f_flag for path in (os.__file__, '.'))"
    assert run(program, "assert library & os.ST_RDONLY and scratch & os.ST_NOEXEC and scratch & os.ST_NOSUID").ok


@isolated
def test_a_program_is_nobody_and_has_no_capabilities():
    program = (
        "import ctypes, os\nhead, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()\n"
        "ctypes.CDLL(None).capget(head, sets)"
    )
    ran = run(program, "assert not any(sets) and os.getresuid() == (65534,) * 3 and os.getresgid() == (65534,) * 3")
    assert ran.ok, ran.how


@isolated
def test_what_waits_for_ever_is_ended_by_the_clock():
    began = time.monotonic()
    assert run("import time\ntime.sleep(1e6)", seconds=1) == (False, "ran out of time")
    assert time.monotonic() - began < 10


@isolated
def test_what_computes_for_ever_is_ended_by_its_own_time():
    program = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert run(program, seconds=1) == (False, "ran out of time")


@isolated
@pytest.mark.parametrize("seconds", [0, 0.01, 0.03, 0.1, 0.3, 1])
def test_nothing_is_left_running_when_whoever_asked_is_killed_at_any_moment(seconds):
    code = "from plantune_lite.grading.sandbox import run\nrun('import time\\ntime.sleep(1e6)', seconds=600)"
    with subprocess.Popen([sys.executable, "-c", code]) as asking:
        keeper = first_child(asking.pid)
        time.sleep(seconds)
        inmates = children(keeper)
        asking.kill()
    assert all_end([keeper, *inmates])


@isolated
@pytest.mark.parametrize("attempt", range(5))
def test_a_program_does_not_outlive_its_keeper_killed_as_soon_as_it_had_begun_it(attempt):
    child = Path(sandbox.__file__).with_name("sandbox_child.py")
    job = {"before": "", "program": "import time\ntime.sleep(1e6)", "tests": "", "seconds": 600, "memory": 1 << 30}
    keeping = [sys.executable, "-S", child]
    with subprocess.Popen(keeping, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as keeper:
        keeper.stdin.write(f"{json.dumps(job)}\n".encode())
        keeper.stdin.flush()
        while not (first_of_its_namespace := [pid for pid in children(keeper.pid) if namespaces(pid) == 2]):
            pass
        keeper.kill()
    assert all_end(first_of_its_namespace)


def first_child(pid):
    while not (begun := children(pid)):
        pass
    return begun[0]


def children(pid):
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def namespaces(pid):
    """Count the process namespaces that the process has a number in."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return len(status.partition("NSpid:")[2].partition("\n")[0].split())


def all_end(processes):
    ends = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in processes) and time.monotonic() < ends:
        time.sleep(0.05)
    return not any(Path(f"/proc/{pid}").exists() for pid in processes)


# --- what is judged ---------------------------------------------------------------------------------------------------

DOUBLE = "def double(x):\n    return x + x\n"
TESTS = "assert double(4) == 8\nassert double('a') == 'aa'\n"


@isolated
def test_a_right_program_passes_and_a_wrong_one_fails():
    assert run(DOUBLE, TESTS) == (True, "passed the tests")
    assert run(DOUBLE.replace("+", "*"), TESTS) == (False, "failed: AssertionError")
    assert run(DOUBLE, "assert double(None)").how.startswith("failed: TypeError: unsupported operand")


WRONG = "def double(x):\n    return x\n"
CHEATS = {
    "ends well before its tests": "import os\nprint('passed the tests')\nos._exit(0)",
    "exits": "import sys\nsys.exit(0)",
    "ends well within its tests": "import os\ndef double(x): os._exit(0)",
    "exits within its tests": "def double(x): raise SystemExit",
    "takes what would run its tests": "import builtins\nbuiltins.exec = builtins.compile = lambda *given: 'x = 1'",
    "writes the verdict wherever it can": (
        "import os\nfor descriptor in range(32):\n    try: os.write(descriptor, b'passed the tests')\n"
        "    except OSError: pass\nos._exit(0)"
    ),
    "changes what is written": (
        "import os\nwrite = os.write\nos.write = lambda to, said: write(to, said[:16] + b'passed the tests')"
    ),
    "keeps failures from being caught": "import builtins\nbuiltins.BaseException = builtins.AssertionError = KeyError",
    "crashes": "import ctypes\nctypes.string_at(0)",
    "has an error that cannot be shown": "class Odd(Exception):\n    def __str__(self): raise self\nraise Odd",
    "says too much": "raise ValueError('passed the tests' * 1_000_000)",
    "says too much in other letters": "raise ValueError('€' * 1_000)",
    "is no program": "def double(x:",
    "holds a zero": "x = 1\0",
    "holds half a character": "x = '\ud800'",
}


@isolated
@pytest.mark.parametrize("program", CHEATS.values(), ids=CHEATS)
def test_a_program_does_not_pass_by_other_means(program):
    ran = run(WRONG + program, TESTS)
    assert not ran.ok and ran.how.startswith("failed: ") and len(ran.how) <= 300


@isolated
def test_builtins_that_a_program_changed_do_not_judge_it():
    program = "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.all = lambda x: True\ndef double(x): return 1"
    assert run(program, "assert abs(double(4) - 8) < 1e-6") == (False, "failed: AssertionError")


@isolated
def test_a_program_is_no_main_module_but_knows_its_own():
    program = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
    )
    assert run(program + "if __name__ == '__main__': input()", "assert A(1).x == 1").ok


@isolated
def test_what_comes_before_a_program_is_there_for_it_and_for_its_tests():
    assert run("def f(): return one()", "assert f() == one() == 1", before="def one(): return 1").ok


@isolated
def test_a_program_may_write_a_file_and_use_the_library():
    program = "import decimal, hashlib, json, tempfile\nwith tempfile.TemporaryFile() as file: file.write(bytes(9))"
    assert run(program, "assert hashlib.md5(b'').hexdigest()[:4] == 'd41d'") == (True, "passed the tests")


@isolated
def test_the_same_program_has_the_same_verdict_each_time():
    program = "def order(): return list({'ab', 'cd', 'ef', 'gh'})"
    orders = {run(program, "raise ValueError(order())").how for _ in range(3)}
    assert len(orders) == 1


# --- where it cannot be ----------------------------------------------------------------------------------------------


def test_where_namespaces_are_forbidden_nothing_is_run_and_a_sentence_says_why():
    """In a user namespace that may have no further ones, as on machines whose owner forbids them."""
    code = """
import ctypes
libc = ctypes.CDLL(None)
if libc.unshare(0x10000000) == 0:
    open("/proc/sys/user/max_user_namespaces", "w").write("0")
from plantune_lite.grading import sandbox
print(sandbox.why_not())
try:
    sandbox.run("print('was run')")
except sandbox.SandboxError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    once, again = done.stdout.splitlines()
    assert once == again and once.startswith("programs are not run here, because they cannot be isolated (")


def test_another_system_than_linux_runs_no_programs(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "this is darwin: use Linux or WSL2" in sandbox.why_not.__wrapped__()  # not what was found out before
    with pytest.raises(SandboxError, match="WSL2"):
        run("x = 1")
