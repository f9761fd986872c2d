"""A user's function in a recipe: stored as text, found again in another process, known by its source.

reference(make_problems) -> "own_problems.py:make_problems"      load("own_problems.py:make_problems") -> the function
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from plantune_lite.records import RecipeError

_REFERENCE = re.compile(r"(?P<home>.+):(?P<name>[A-Za-z_]\w*)")


def is_reference(text: str) -> bool:
    """Whether a text is `module_or_path.py:function` (and not, say, `gym:leg_counting`)."""
    match = _REFERENCE.fullmatch(text)
    return bool(match) and not text.startswith("gym:") and "//" not in text


def reference(function: Callable[..., Any]) -> str:
    """The text a recipe stores for a function."""
    import inspect

    name = getattr(function, "__qualname__", repr(function))
    try:
        home = Path(inspect.getsourcefile(function) or "")
    except TypeError:  # a built-in
        home = Path()
    if not name.isidentifier() or not home.is_file():
        raise RecipeError(
            f"the function {name!r} cannot be found again by another process: write it at the top level of a .py file"
        )
    installed = {"site-packages", "dist-packages"} & set(
        home.parts
    )  # found by name on any machine; another file is not
    return f"{function.__module__ if installed else home}:{name}"


def load(text: str) -> Callable[..., Any]:
    """The function a reference names; its file is run."""
    import importlib

    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise RecipeError(f"{text!r} names no function: write module_or_path.py:function")
    home, name = match["home"], match["name"]
    try:
        module = load_module(Path(home)) if home.endswith(".py") else importlib.import_module(home)
    except FileNotFoundError:
        raise RecipeError(f"{text}: no file {home} under {Path.cwd()}") from None
    except ModuleNotFoundError as error:
        raise RecipeError(f"{text}: {error}") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise RecipeError(f"{text}: {home} has no function {name!r}")
    return function


def source_hash(text: str) -> str:
    """A hash of the function's source, so that a changed function is a changed recipe; nothing is run to find it."""
    import ast
    import hashlib
    import importlib.util

    match = _REFERENCE.fullmatch(text)
    home = match["home"] if match else ""
    spec = None if home.endswith(".py") else importlib.util.find_spec(home)
    file = Path(spec.origin if spec and spec.origin else home)
    try:
        source = file.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{text}: {home} cannot be read ({error.strerror})") from None
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and match and node.name == match["name"]:
            return hashlib.sha256(ast.get_source_segment(source, node).encode()).hexdigest()
    raise RecipeError(f"{text}: {home} has no function of that name at its top level")


_PREFIX = "plantune_file_"


def load_module(path: Path) -> ModuleType:
    """Run a .py file as a module of its own, once a process and content."""
    import hashlib
    import importlib.util

    path = path.expanduser().resolve()
    source = path.read_bytes()
    name = _PREFIX + hashlib.sha256(str(path).encode() + b"\0" + source).hexdigest()[:16]
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass or an inspect call inside the file looks itself up here
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module
