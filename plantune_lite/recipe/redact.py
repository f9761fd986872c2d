"""Cut folders out of what is published: where a user keeps files is nobody's business."""

import os
import re
from collections.abc import Mapping
from typing import Any

from plantune_lite.files import is_data_file
from plantune_lite.recipe import user_code

# Fields of a recipe that name a file, a function or a run, and those that name a Hub id or a folder.
_PATHS, _IDS = ("problems.path", "problems.source", "sft.start", "grpo.start"), ("student.model", "grpo.embedder")
_JOINED = ("problems.source", "cpl.policy")  # practice+mine.csv, ADDRESS#NAME
_ANYWHERE = re.compile(r"[/\\~.]|[A-Za-z]:[/\\]")  # how a path begins that is no name


def without_paths(said: Any, name: str = "") -> Any:
    """JSON with the folders in it cut off, in keys too: where a user keeps files is nobody's business.

    What a recipe says of a run, a file or a function is known by its field: `data/mine.csv` looks like a Hub id.
    """
    if isinstance(said, Mapping):
        cut: dict[str, Any] = {}
        for key, value in said.items():
            short = _without_folders(key, name)
            while short in cut:  # files of one name in two folders
                short += "'"
            cut[short] = without_paths(value, f"{name}.{key}")
        return cut
    if isinstance(said, list | tuple):
        return [without_paths(one, name) for one in said]
    return _without_folders(said, name) if isinstance(said, str) else said


def _without_folders(text: str, name: str) -> str:
    joined = name.endswith(_JOINED) and not os.path.isfile(os.path.expanduser(text))
    parts = re.split(r"(\s*[+#]\s*)", text) if joined else [text]
    return "".join(last_part(part) if _is_path(part, name) else part for part in parts)


def _is_path(text: str, name: str) -> bool:
    if re.match(r"https?://|hf:", text):
        return False
    deep = text.count("/") > 1  # no Hub id is
    by_field = name.endswith(_PATHS) or name.endswith(_IDS) and deep
    is_file = is_data_file(text) or user_code.is_reference(text) and ".py:" in text
    return by_field or is_file or bool(_ANYWHERE.match(text)) or "\\" in text or os.path.exists(text)


def last_part(path: str) -> str:
    """A file's name, or a name that is no path at all."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
