"""Handle user functions in a recipe: stored as text, loaded in another process, identified by their source.

reference(make_problems) -> "own_problems.py:make_problems"      load("own_problems.py:make_problems") -> the function
"""

import ast
import importlib.util
import re
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from plantune_lite.files import as_path
from plantune_lite.recipe.fields import nearest
from plantune_lite.recipe.lab import FUNCTIONS, function_path
from plantune_lite.types import RecipeError, present

_REFERENCE = re.compile(r"(?P<home>.+):(?P<name>[A-Za-z_]\w*)")


def is_reference(text: str) -> bool:
    """Tell whether a text is `module_or_path.py:function` (and not, say, `gym:leg_counting`)."""
    match = _REFERENCE.fullmatch(text)
    return bool(match) and not text.startswith("gym:") and "//" not in text


def reference(function: Callable[..., Any]) -> str:
    """Format a function as the text that a recipe stores."""
    name, code = getattr(function, "__qualname__", repr(function)), getattr(function, "__code__", None)
    home = Path(code.co_filename) if code else Path()  # a built-in has no code
    if not name.isidentifier() or not home.is_file():
        raise RecipeError(
            f"the function {name!r} cannot be loaded by another process: define it at the top level of a .py file"
        )
    return f"{home}:{name}"


def _split(text: str) -> tuple[str, str]:
    """Return the file or module that a reference names, and the function."""
    match = _REFERENCE.fullmatch(function_path(text))
    if match is None:
        raise RecipeError(f"{text!r} does not name a function: write module_or_path.py:function")
    return match["home"], match["name"]


def load(text: str) -> Callable[..., Any]:
    """Load the function that a reference names; this runs its file."""
    home, name = _split(text)
    try:
        module = load_module(Path(home)) if home.endswith(".py") else importlib.import_module(home)
    except (FileNotFoundError, ImportError, SyntaxError) as error:
        raise RecipeError(f"{text}: {error}") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise RecipeError(f"{text}: {home} has no function {name!r}")
    return function


def load_from_lab(name: str) -> Callable[..., Any]:
    """Load a function of the lab by its name in the table."""
    return load(FUNCTIONS[name])


def source_hash(text: str) -> str:
    """Hash the function's source, so that a changed function is a changed recipe; nothing is run."""
    import hashlib

    home, name = _split(text)
    try:
        source = (as_path(home) if home.endswith(".py") else _file_of(home)).read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (OSError, ValueError, SyntaxError) as error:
        raise RecipeError(f"{text}: {home} cannot be read ({error})") from None
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if name not in functions:
        raise RecipeError(f"{text}: {home} has no function {name!r} at its top level{nearest(name, functions)}")
    return hashlib.sha256((ast.get_source_segment(source, functions[name]) or "").encode()).hexdigest()


def _file_of(module: str) -> Path:
    """Find a module's file without importing the packages around it, which importlib would."""
    path, spec = None, None
    for part in module.split("."):
        spec = PathFinder.find_spec(part, path)
        path = spec.submodule_search_locations if spec else []
    if spec is None or not spec.origin:
        raise RecipeError(f"no module {module!r} is installed; write module_or_path.py:function")
    return Path(spec.origin)


_PREFIX = "plantune_file_"


_loading = 0  # files that are being run by load_module right now


def is_loading() -> bool:
    """Tell whether a recipe's file is being read: `run()` in it must wait for `if __name__ == "__main__"`."""
    return _loading > 0


def load_module(path: Path) -> ModuleType:
    """Run a .py file as its own module, once per process and content; it may import its neighbours."""
    import hashlib

    global _loading
    path = as_path(path).resolve()
    source = path.read_bytes()
    name = _PREFIX + hashlib.sha256(str(path).encode() + b"\0" + source).hexdigest()[:16]
    if name in sys.modules:
        return sys.modules[name]
    module = importlib.util.module_from_spec(present(importlib.util.spec_from_file_location(name, path)))
    sys.modules[name] = module  # a dataclass or an inspect call inside the file looks itself up here
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # as with `python FILE`, but last
    _loading += 1
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        _loading -= 1
    return module
