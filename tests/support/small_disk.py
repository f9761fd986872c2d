"""A disk that is soon full: `with small_disk(tmp_path / "disk", 66 * 1024) as disk: ...`"""

import subprocess
from contextlib import contextmanager


@contextmanager
def small_disk(path, kilobytes):
    """A disk of that size, where we may mount one (as root, or in a CI machine's own way); else None."""
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", path], capture_output=True)
    try:
        yield path if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", path], check=True)  # an error that is kept keeps its file open
