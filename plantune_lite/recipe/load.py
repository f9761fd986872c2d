"""Recipes as text: found by name, overridden on the command line, stored as JSON.

load("smollm2_135m")      override(RECIPE, ["sft.max_steps=80", "grpo=none"])      from_json(to_json(RECIPE)) == RECIPE
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from plantune_lite.files import runs_folder
from plantune_lite.recipe import user_code
from plantune_lite.recipe.fields import describe, nearest, parse
from plantune_lite.recipe.schema import OPTIONAL, PARTS, Recipe
from plantune_lite.types import PlantuneError, RecipeError

# --- overriding -------------------------------------------------------------------------------------------------------


def override(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with `part.field=value` settings applied; every error in them at once."""
    errors: list[str] = []
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            errors.append(f"{setting!r} is no setting: write part.field=value, say sft.max_steps=80")
            continue
        try:
            _set(recipe, changes, name.strip(), text)
        except RecipeError as error:
            errors.append(str(error))
    if errors:
        raise RecipeError("\n".join(errors))
    wanted = replace(recipe, **changes)
    said = {setting.partition("=")[0].strip() for setting in settings}
    if "sft.epochs" in said and "sft.max_steps" not in said and wanted.sft and wanted.sft.max_steps:
        raise RecipeError(
            f"sft.epochs={wanted.sft.epochs:g} changes nothing where sft.max_steps={wanted.sft.max_steps} decides: "
            "set sft.max_steps=none too, or another number of steps instead"
        )
    return wanted


def _set(recipe: Recipe, changes: dict[str, Any], name: str, text: str) -> None:
    outer, dot, inner = name.partition(".")
    hints = get_type_hints(Recipe)
    if outer not in hints:
        raise RecipeError(f"no part or field {outer!r} in a recipe{nearest(outer, hints)}")
    if outer not in PARTS and dot:
        raise RecipeError(f"{name}: {outer} is a single field; write {outer}={text}")
    if outer not in PARTS:
        changes[outer] = _parsed(name, text, hints[outer])
    elif not dot:
        changes[outer] = _whole_part(outer, text)
    else:
        part = changes.get(outer, getattr(recipe, outer))
        if part is None:
            raise RecipeError(f"{name}: this recipe has no {outer}; '{outer}=default' adds it, before {name}={text}")
        inner, _, key = inner.partition(".")
        inner_hints = get_type_hints(PARTS[outer])
        inner_names = [f.name for f in fields(PARTS[outer])]
        if inner not in inner_names:
            raise RecipeError(f"no field {inner!r} in {outer}{nearest(inner, inner_names)}")
        if key and inner != "extra":
            raise RecipeError(f"{name}: {outer}.{inner} is a single field; write {outer}.{inner}={text}")
        if key:  # sft.extra.max_grad_norm=0.5
            value: Any = {**part.extra, key: _literal(text)}
        else:
            value = _parsed(name, text, inner_hints[inner])
        changes[outer] = replace(part, **{inner: value})


def _whole_part(outer: str, text: str) -> Any:
    if outer in OPTIONAL and text.lower() == "none":
        return None
    if outer in OPTIONAL and text.lower() == "default":
        return PARTS[outer]()
    choices = "'none' and 'default' are" if outer in OPTIONAL else f"{outer}.FIELD=value is"
    raise RecipeError(f"{outer}={text}: {outer} is a part of a recipe; {choices} what can be said of it")


def _parsed(name: str, text: str, hint: Any) -> Any:
    try:
        return parse(text, hint)
    except ValueError:
        if get_origin(hint) is Literal:
            raise RecipeError(f"{name} is {text!r}{nearest(text, map(str, get_args(hint)))}") from None
        raise RecipeError(f"{name} is {text!r}, but must be {describe(hint)}") from None


def _literal(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


# --- loading and storing ----------------------------------------------------------------------------------------------


def shipped() -> dict[str, Path]:
    """The recipes that come with the package: name -> file."""
    package = Path(__file__).resolve().parent.parent
    beside = package.parent / "recipes"  # a checkout; a wheel carries them inside the package
    folder = beside if (package.parent / "pyproject.toml").is_file() and beside.is_dir() else package / "_recipes"
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def load_recipe(name_or_path: str | os.PathLike[str]) -> Recipe:
    """A recipe by shipped name, .py file (which is run) or run folder (whose recipe.json is data)."""
    if folder := run_folder(name_or_path):
        return load_recipe(folder / "recipe.json")
    path = Path(name_or_path).expanduser()
    if path.suffix == ".json" and path.is_file():
        try:
            return from_json(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path} cannot be read ({error})") from None
    if path.suffix == ".py":
        if not path.is_file():
            raise RecipeError(f"no recipe file {path}; `plantune recipes` lists those that are shipped")
        return _from_python(path)
    names = shipped()
    if str(name_or_path) in names:
        return _from_python(names[str(name_or_path)])
    if path.suffix:
        raise RecipeError(f"no file {path}")
    if path.is_dir():
        raise RecipeError(f"{path} is a folder without a recipe.json: no run was started there")
    raise RecipeError(f"no recipe {str(name_or_path)!r}{nearest(str(name_or_path), names)}")


def run_folder(name_or_path: str | os.PathLike[str]) -> Path | None:
    """The run folder a recipe is loaded from, None where it is no run's: a shipped name and a .py file go first."""
    path = Path(name_or_path).expanduser()
    if (path / "recipe.json").is_file():
        return path
    named = runs_folder() / path
    other = path.suffix == ".py" or str(name_or_path) in shipped()
    return named if not other and (named / "recipe.json").is_file() else None


def _from_python(path: Path) -> Recipe:
    try:
        recipe = user_code.load_module(path).__dict__.get("RECIPE")
    except (RecipeError, ImportError) as error:
        raise RecipeError(f"{path}: {error}") from None
    except SyntaxError as error:
        raise RecipeError(f"{path} line {error.lineno}: {error.msg}") from None
    except PlantuneError:
        raise
    except Exception as error:
        if unknown := _unknown_keywords(path):
            raise RecipeError("\n".join(unknown)) from None
        raise RecipeError(f"{path}{_line_of(error, path)}: {type(error).__name__}: {error}") from error
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"{path} has no RECIPE = Recipe(...); `plantune copy smollm2_135m` writes one to start from")
    return recipe


def _line_of(error: Exception, path: Path) -> str:
    import traceback

    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path.resolve())
    ]
    return f" line {lines[-1]}" if lines else ""


def _unknown_keywords(path: Path) -> list[str]:
    """Every keyword of a part that does not exist, by line: Python itself stops at the first."""
    import ast

    kinds = {kind.__name__: kind for kind in (*PARTS.values(), Recipe)}
    sentences = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
            names = [f.name for f in fields(kinds[node.func.id])]
            for keyword in node.keywords:
                if keyword.arg and keyword.arg not in names:
                    missing = f"{node.func.id} has no field {keyword.arg!r}{nearest(keyword.arg, names)}"
                    sentences.append(f"{path} line {keyword.value.lineno}: {missing}")
    return sentences


def to_json(recipe: Recipe) -> str:
    """The recipe as data."""
    return json.dumps({"format": 1, **asdict(recipe)}, indent=2, ensure_ascii=False) + "\n"


def from_json(text: str, where: str = "recipe.json") -> Recipe:
    """The recipe that `to_json` wrote; nothing in it is run."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecipeError(f"{where} line {error.lineno}: not JSON ({error.msg})") from None
    if not isinstance(data, dict) or data.pop("format", None) != 1:
        raise RecipeError(f"{where} is not a recipe of this version (format 1)")
    errors: list[str] = []
    values: dict[str, Any] = {}
    for name, value in data.items():
        if name not in (known := [f.name for f in fields(Recipe)]):
            errors.append(f"{where}: no part or field {name!r}{nearest(name, known)}")
        elif name in PARTS and isinstance(value, dict):
            inner_known = [f.name for f in fields(PARTS[name])]
            errors += [
                f"{where}: no field {key!r} in {name}{nearest(key, inner_known)}"
                for key in value.keys() - set(inner_known)
            ]
            inner = {
                key: tuple(item) if isinstance(item, list) else item
                for key, item in value.items()
                if key in inner_known
            }
            try:
                values[name] = PARTS[name](**inner)
            except TypeError as error:
                errors.append(f"{where}: {name}: {error}")
        else:
            values[name] = value
    missing = [f.name for f in fields(Recipe) if f.name in ("name", "problems", "student") and f.name not in data]
    errors += [f"{where}: no {name}" for name in missing]
    if errors:
        raise RecipeError("\n".join(errors))
    return Recipe(**values)
