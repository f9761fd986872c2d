"""Stages of a run as forks of a process that has imported them, which takes a third of a second each time.

with warm_stages():
    run(RECIPE, ...)      as ever but for that: a stage has its process, its pipes and its end
"""

import gc
import importlib
import json
import os
import signal
import socket
import sys
from contextlib import contextmanager
from subprocess import Popen

import pytest

from plantune_lite.pipeline import process

TRAINING = ("peft", "trl.trainer.sft_trainer")
HEAD = [sys.executable, "-u", "-m", "plantune_lite.pipeline.child"]


class Stage:
    """What pipeline.process asks of a Popen."""

    server: socket.socket

    def __init__(self, command, *, env, stdin, stdout, stderr, start_new_session):
        assert command[:4] == HEAD and start_new_session and stdin == stdout == -1
        given, (theirs, said) = os.pipe(), os.pipe()[::-1]
        asked = json.dumps({"arguments": command[4:], "environ": dict(env), "folder": os.getcwd()})
        socket.send_fds(self.server, [asked.encode()], [given[0], theirs])
        os.close(given[0])
        os.close(theirs)
        self.pid, self._code = int(self.server.recv(20)), None
        self.stdin, self.stdout = os.fdopen(given[1], "wb", 0), os.fdopen(said, "rb", 0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stdout.close()
        self.wait()
        self.stdin.close()

    def wait(self):
        """Its exit status, negative for a signal."""
        if self._code is None:
            self._code = int(self.server.recv(20))
        return self._code

    def kill(self):
        """End it at once."""
        os.kill(self.pid, signal.SIGKILL)


def serve(ours, modules):
    """Start one stage after another, each a fork; its pid, and its end."""
    from plantune_lite.pipeline import child, runner  # noqa: F401 - the toys import it

    for module in modules:
        importlib.import_module(module)
    gc.freeze()
    while True:
        asked, pipes, *_ = socket.recv_fds(ours, 1 << 20, 2)
        if not asked:
            return
        given, said = pipes
        wanted = json.loads(asked)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            for number, to in ((given, 0), (said, 1), (said, 2)):
                os.dup2(number, to)
            for number in (given, said, ours.fileno()):
                os.close(number)
            os.environ.clear()
            os.environ.update(wanted["environ"])
            os.chdir(wanted["folder"])
            sys.exit(child.main(wanted["arguments"]))
        os.close(given)
        os.close(said)
        ours.send(b"%d" % pid)
        ours.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


@contextmanager
def warm_stages(*modules):
    """Let pipeline.process start its stages so; they have imported these modules. On Linux: elsewhere as ever."""
    if sys.platform != "linux":
        yield
        return
    Stage.server, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    number = theirs.fileno()
    command = [sys.executable, "-u", __file__, str(number), *modules]
    with Popen(command, pass_fds=[number]), Stage.server, pytest.MonkeyPatch.context() as patch:
        theirs.close()
        patch.setattr(process, "Popen", Stage)
        yield


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
