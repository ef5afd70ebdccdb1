"""Recipes as TOML files: those that are shipped, and a user's own.

The keys of a file are the fields of `Recipe`, and those of each `[[stages]]`
the fields of `Stage`; what is left out has its default. A recipe's name is
that of its file. TOML has no null: among the arguments of a rule or a task,
the string `"none"` stands for `None`. A file is data alone: it can name what
the package holds, and nothing from it is imported or run.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import tomllib
import types
import typing
from typing import Any

from keras_l2l import checks, packaged_files
from keras_l2l.reproduction.recipe import Recipe, Stage

_KINDS: dict[Any, str] = {
    bool: "true or false",
    dict[str, Any]: "a table",
    dict[str, dict[str, Any]]: "a table of tables",
    float: "a number",
    int: "an integer",
    str: "a string",
    tuple[dict[str, Any], ...]: "an array of tables",
    tuple[int, ...]: "an array of integers",
    tuple[int, int]: "an array of two integers",
    tuple[str, ...]: "an array of strings",
}


def names() -> tuple[str, ...]:
    """Lists the names of the shipped recipes.

    Returns:
        Tuple of strings, sorted.
    """
    return tuple(packaged_files.find("recipes"))


def path(name: str) -> pathlib.Path:
    """Finds the file of a shipped recipe.

    Args:
        name: String, one of `names()`.

    Returns:
        A `pathlib.Path`.

    Raises:
        ValueError: If there is no such recipe.
    """
    return packaged_files.find_one("recipes", name)


def descriptions() -> dict[str, str]:
    """Describes the shipped recipes, without TensorFlow.

    Returns:
        Dict from their names to their descriptions, of one sentence.
    """
    files = packaged_files.find("recipes")
    return {name: _read(file)["description"] for name, file in files.items()}


def load(name: str | os.PathLike[str]) -> Recipe:
    """Loads a shipped recipe, or one of a user's.

    Args:
        name: String, one of `names()`; or the path of a file `PATH.toml`.

    Returns:
        A `Recipe`.

    Raises:
        ValueError: If there is no such recipe, or if the file is no recipe.
            The error names the file, the key, and what was expected there.
        OSError: If the file cannot be read.

    Example:

    >>> load("lstm-digits").task
    'digits_mlp'
    """
    # Its rules and tasks need TensorFlow, which a list of recipes does not.
    from keras_l2l.reproduction import components

    if isinstance(name, str) and not name.endswith(".toml"):
        file = path(name)
    else:
        file = pathlib.Path(name)
    try:
        recipe = _to_recipe(file.stem, _read(file))
        components.check(recipe)
    except ValueError as error:
        raise ValueError(f"Recipe {str(file)!r}: {error}") from error
    return recipe


def to_toml(recipe: Recipe) -> str:
    """Writes a recipe as the text of a TOML file.

    Args:
        recipe: A `Recipe`.

    Returns:
        A string, without what has its default.
    """
    lines = _lines(recipe, ("name", "stages"))
    for stage in recipe.stages:
        lines += ["", "[[stages]]", *_lines(stage)]
    return "\n".join(lines) + "\n"


def _lines(record: Any, left_out: tuple[str, ...] = ()) -> list[str]:
    """A line for each field of a dataclass that has not its default."""
    lines = []
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        if field.name not in left_out and value != default:
            lines.append(f"{field.name} = {_to_toml(value)}")
    return lines


def _to_toml(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        items = (f"{_key(k)} = {_to_toml(v)}" for k, v in value.items())
        return f"{{ {', '.join(items)} }}" if value else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_to_toml, value))}]"
    if value is None:
        return '"none"'
    if isinstance(value, float):
        return repr(value)
    # Texts, integers and booleans are those of JSON.
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    is_bare = re.fullmatch(r"[\w-]+", name, re.ASCII)
    return name if is_bare else json.dumps(name, ensure_ascii=False)


def _read(file: pathlib.Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"The file is not TOML: {error}") from error
    except RecursionError as error:
        raise ValueError("The file is nested too deeply.") from error


def _to_recipe(name: str, document: dict[str, Any]) -> Recipe:
    tables = document.pop("stages", None)
    fields = _fields(Recipe, document, "")
    for key in ("description", "rule", "task"):
        if key not in fields:
            raise ValueError(f"Key `{key}` is missing.")
    if tables is not None:
        tables = _convert("stages", tables, tuple[dict[str, Any], ...])
        fields["stages"] = tuple(map(_to_stage, range(len(tables)), tables))
    return Recipe(name=name, **fields)


def _to_stage(index: int, table: dict[str, Any]) -> Stage:
    fields = _fields(Stage, table, f"stages[{index}].")
    try:
        return Stage(**fields)
    except ValueError as error:
        raise ValueError(f"`stages[{index}]`: {error}") from error


def _fields(
    kind: type[Any], table: dict[str, Any], prefix: str
) -> dict[str, Any]:
    """The values of a table, as the fields of a dataclass have them."""
    hints = typing.get_type_hints(kind)
    keys = [key for key in hints if key not in ("name", "stages")]
    for key in table:
        if key not in keys:
            raise ValueError(
                f"Key `{prefix}{key}` is unknown. It must be one of {keys}."
                f"{checks.did_you_mean(key, keys)}"
            )
    return {
        key: _convert(prefix + key, value, hints[key])
        for key, value in table.items()
    }


def _convert(key: str, value: Any, hint: Any) -> Any:
    """The value with the type of the field; raises an error if it has not."""
    is_union = isinstance(hint, types.UnionType)
    kinds = typing.get_args(hint) if is_union else (hint,)
    for kind in kinds:
        with contextlib.suppress(TypeError):
            return _as_kind(value, kind)
    expected = " or ".join(_KINDS[k] for k in kinds if k is not type(None))
    raise ValueError(f"Key `{key}` must be {expected}. Received: {value!r}")


def _as_kind(value: Any, kind: Any) -> Any:
    """The value as one type; raises `TypeError` if it is of another."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and isinstance(value, list):
        if arguments[-1] is Ellipsis:
            arguments = (arguments[0],) * len(value)
        if len(arguments) == len(value):
            return tuple(map(_as_kind, value, arguments))
    if origin is dict and isinstance(value, dict):
        return {
            key: _as_kind(item, arguments[1]) for key, item in value.items()
        }
    if kind is Any:  # an argument of a rule or a task
        return _with_none(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is kind:
        return value
    raise TypeError


def _with_none(value: Any) -> Any:
    if isinstance(value, dict):
        if "class_name" in value:
            raise ValueError(
                "An argument must be plain data, no serialized object. "
                f"Received: {value}"
            )
        return {key: _with_none(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_none(item) for item in value]
    return None if value == "none" else value
