"""The plantune command in this process, which spares half a second of imports.

done = plantune("show", "mine.csv", environ={"PLANTUNE_RUNS": str(tmp_path)})
done.returncode, done.stdout, done.stderr
"""

import contextlib
import io
import os
from subprocess import CompletedProcess
from unittest.mock import patch

from plantune_lite.cli.main import main


def plantune(*arguments, environ=None, cwd="."):
    """What a command leaves; an exception that it lets through is the test's."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    status = 0
    with (
        patch.dict(os.environ, environ or {}),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(streams[0]),
        contextlib.redirect_stderr(streams[1]),
    ):
        try:
            main(list(map(str, arguments)))
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 0
    out, err = (stream.buffer.getvalue().decode() for stream in streams)
    return CompletedProcess(arguments, status, out, err)
