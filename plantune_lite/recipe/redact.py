"""Cut folders out of what is published: where a user keeps files is private."""

import os
import re
from collections.abc import Mapping
from typing import Any

from plantune_lite.files import is_data_file
from plantune_lite.recipe import user_code

# Fields of a recipe that name a file, a function or a run, and those that name a Hub id or a folder.
_PATHS, _IDS = ("problems.path", "problems.source", "sft.start", "grpo.start"), ("student.model", "grpo.embedder")
_JOINED = ("problems.source", "cpl.policy")  # practice+mine.csv, ADDRESS#NAME
_ANYWHERE = re.compile(r"[/\\~.]|[A-Za-z]:[/\\]")  # the start of a path that is more than a name


def without_paths(content: Any, name: str = "") -> Any:
    """Cut the folders out of JSON, in keys too: where a user keeps files is private.

    The field tells whether a text names a run, a file or a function: `data/mine.csv` looks like a Hub id.
    """
    if isinstance(content, Mapping):
        cut: dict[str, Any] = {}
        for key, value in content.items():
            short = _without_folders(key, name)
            while short in cut:  # files of one name in two folders
                short += "'"
            cut[short] = without_paths(value, f"{name}.{key}")
        return cut
    if isinstance(content, list | tuple):
        return [without_paths(item, name) for item in content]
    return _without_folders(content, name) if isinstance(content, str) else content


def _without_folders(text: str, name: str) -> str:
    joined = name.endswith(_JOINED) and not os.path.isfile(os.path.expanduser(text))
    parts = re.split(r"(\s*[+#]\s*)", text) if joined else [text]
    return "".join(last_part(part) if _is_path(part, name) else part for part in parts)


def _is_path(text: str, name: str) -> bool:
    if re.match(r"https?://|hf:", text):
        return False
    deep = text.count("/") > 1  # a Hub id has one
    by_field = name.endswith(_PATHS) or name.endswith(_IDS) and deep
    is_file = is_data_file(text) or user_code.is_reference(text) and ".py:" in text
    return by_field or is_file or bool(_ANYWHERE.match(text)) or "\\" in text or os.path.exists(text)


def last_part(path: str) -> str:
    """Return a file's name; a name that is not a path stays as it is."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
