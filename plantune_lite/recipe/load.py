"""Handle recipes as text: found by name, overridden on the command line, stored as JSON.

load_recipe("smollm2_135m")   override(RECIPE, ["sft.max_steps=80", "grpo=none"])   from_json(to_json(RECIPE)) == RECIPE
"""

import json
import os
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from plantune_lite.files import as_path, runs_folder, type_hints
from plantune_lite.recipe import user_code
from plantune_lite.recipe.fields import describe, nearest, parse
from plantune_lite.recipe.schema import OPTIONAL, PARTS, Recipe
from plantune_lite.types import RecipeError

# --- overriding -------------------------------------------------------------------------------------------------------


def override(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Return the recipe with `part.field=value` settings applied; every error in them at once."""
    errors: list[str] = []
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        try:
            if not equals:
                raise RecipeError(f"{setting!r} is not a setting: write part.field=value, say sft.max_steps=80")
            _set(recipe, changes, name.strip(), text)
        except RecipeError as error:
            errors.append(str(error))
    if errors:
        raise RecipeError("\n".join(errors))
    wanted = replace(recipe, **changes)
    names = {setting.partition("=")[0].strip() for setting in settings}
    if "sft.epochs" in names and "sft.max_steps" not in names and wanted.sft and wanted.sft.max_steps:
        raise RecipeError(
            f"sft.epochs={wanted.sft.epochs:g} has no effect while sft.max_steps={wanted.sft.max_steps} is set: "
            "set sft.max_steps=none too, or change the number of steps instead"
        )
    return wanted


def _set(recipe: Recipe, changes: dict[str, Any], name: str, text: str) -> None:
    """Put into `changes` the field that a setting changes, or the whole part that the field is in."""
    outer, _, inner = name.partition(".")
    inner, _, key = inner.partition(".")  # sft.extra.max_grad_norm=0.5
    hint = _type_of(Recipe, outer)
    if name in PARTS:
        changes[outer] = _whole_part(outer, text)
        return
    if key and inner != "extra" or inner and outer not in PARTS:
        raise RecipeError(f"{name}: {name.rpartition('.')[0]} is a single field")
    if outer not in PARTS:
        changes[outer] = _parsed(name, text, hint)
        return
    part = changes.get(outer, getattr(recipe, outer))
    if part is None:
        raise RecipeError(f"{name}: this recipe has no {outer}; '{outer}=default' adds it, before {name}={text}")
    hint = _type_of(PARTS[outer], inner)
    value = {**part.extra, key: _literal(text)} if key else _parsed(name, text, hint)
    changes[outer] = replace(part, **{inner: value})


def _type_of(owner: type, name: str) -> Any:
    """Return the type of a field; the error for an unknown name suggests the nearest."""
    names = [f.name for f in fields(owner)]
    if name not in names:
        raise RecipeError(f"{owner.__name__} has no field {name!r}{nearest(name, names)}")
    return type_hints(owner)[name]


def _whole_part(outer: str, text: str) -> Any:
    if outer in OPTIONAL and text.lower() == "none":
        return None
    if outer in OPTIONAL and text.lower() == "default":
        return PARTS[outer]()
    others = f", {outer}=none or {outer}=default" if outer in OPTIONAL else ""
    raise RecipeError(f"{outer}={text}: write {outer}.FIELD=value{others}")


def _parsed(name: str, text: str, hint: Any) -> Any:
    try:
        return parse(text, hint)
    except ValueError:
        raise RecipeError(f"{name} is {text!r}, but must be {describe(hint)}") from None


def _literal(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


# --- loading and storing ----------------------------------------------------------------------------------------------


def shipped() -> dict[str, Path]:
    """Map the name of each recipe that comes with the package to its file."""
    package = Path(__file__).resolve().parent.parent
    beside = package.parent / "recipes"  # a checkout; a wheel carries them inside the package
    folder = beside if (package.parent / "pyproject.toml").is_file() and beside.is_dir() else package / "_recipes"
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def load_recipe(name_or_path: str | os.PathLike[str]) -> Recipe:
    """Return a recipe by shipped name, .py file (which is run) or run folder (whose recipe.json is data)."""
    name = str(name_or_path)
    folder = run_folder(name)
    path = folder / "recipe.json" if folder else as_path(name)
    if path.is_file() and path.suffix == ".json":
        return from_json(path.read_bytes(), str(path))
    names = shipped()
    file = path if path.is_file() and path.suffix == ".py" else names.get(name)
    if file is None:
        raise RecipeError(f"no recipe, file or run {name!r}{nearest(name, names)}")
    return _from_python(file)


def run_folder(name_or_path: str | os.PathLike[str]) -> Path | None:
    """Find the run folder a recipe is loaded from, or None; shipped names and .py files take precedence."""
    path = as_path(name_or_path)
    if (path / "recipe.json").is_file():
        return path
    named = runs_folder() / path
    other = path.suffix == ".py" or str(name_or_path) in shipped()
    return named if not other and (named / "recipe.json").is_file() else None


def _from_python(path: Path) -> Recipe:
    try:
        recipe = user_code.load_module(path).__dict__.get("RECIPE")
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f" line {frame.lineno}" for frame in frames if frame.filename == str(path.resolve())]
        raise RecipeError(f"{path}{''.join(lines[-1:])}: {type(error).__name__}: {error}") from error
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"{path} has no RECIPE = Recipe(...); `plantune copy smollm2_135m` writes one to start from")
    return recipe


def to_json(recipe: Recipe) -> str:
    """Encode the recipe as JSON."""
    return json.dumps({"format": 1, **asdict(recipe)}, indent=2, ensure_ascii=False) + "\n"


def from_json(text: str | bytes, where: str = "recipe.json") -> Recipe:
    """Return the recipe that `to_json` wrote; nothing in it is run."""
    try:
        data = json.loads(text)
        if not isinstance(data, dict) or data.pop("format", None) != 1:
            raise RecipeError("not a recipe of this version (format 1)")
        parts = {name: _part(PARTS[name], part) for name, part in data.items() if name in PARTS and part is not None}
        return Recipe(**{**data, **parts})
    except (ValueError, TypeError, RecursionError) as error:  # not JSON, or JSON that is not a recipe
        raise RecipeError(f"{where}: {error}") from None


_GONE = ("batch", "tokens_per_minute")  # fields of earlier versions that change no result


def _part(kind: type, row: Mapping[str, Any]) -> Any:
    """Return a part; JSON has lists where it has tuples."""
    if not isinstance(row, dict):
        raise RecipeError(f"{kind.__name__.lower()} is {row!r:.40}, but must be an object")
    row = {name: value for name, value in row.items() if name not in _GONE}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in row.items()})
