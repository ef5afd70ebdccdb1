"""The manifest of an exported rule: what it holds, and how it is written.

A manifest can come from a stranger, and is read as data; see `configuration`.
"""

import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_l2l.serialization.configuration import check_depth, checked_config
from keras_l2l.serialization.digest import digest_of
from keras_l2l.serialization.errors import (
    errors_name_path,
    format_error,
)
from keras_l2l.serialization.meta_parameters import describe
from keras_l2l.serialization.variable_budget import MAX_VARIABLES

FORMAT = "keras_l2l.rule"
FORMAT_VERSION = 1
FILE = "manifest.json"
SIZE_LIMIT = 2**20  # bytes

_NONE = type(None)
_FIELDS: dict[str, Any] = {
    "format": str,
    "format_version": int,
    "rule": dict,
    "independent": str,
    "graph": str,
    "variables": list,
    "description": str,
    "recipe": (dict, _NONE),
    "seed": (int, _NONE),
    "scores": dict,
    "versions": dict,
}
_RULE_FIELDS = {"class_name": str, "config": dict}
_VARIABLE_FIELDS = {"name": str, "shape": list, "dtype": str}
_METADATA: dict[str, Any] = {
    "description": "",
    "recipe": None,
    "seed": None,
    "scores": {},
}
# How a manifest has named granularities from the start.
_INDEPENDENT = {
    "coordinate": "coordinates",
    "tensor": "tensors",
    "model": "nothing",
}
_GRAPH_OF_COORDINATES = (
    "The functions take n coordinates. Coordinates are independent: "
    "concatenate those of all parameters."
)
_GRAPH_OF_ONE_PARAMETER = (
    "The functions take n coordinates as one parameter. The rule shares "
    "something between coordinates or parameters: for several parameters "
    "load it with keras_l2l."
)


def check_directory(path: str | os.PathLike[str]) -> None:
    """Raises unless `path` is a directory."""
    problem = (
        "Argument `path` must be a directory that `rule.export(path)` wrote. "
        f"Received: path={os.fspath(path)!r}"
    )
    if not os.path.exists(path):
        raise FileNotFoundError(f"{problem}, which does not exist.")
    if not os.path.isdir(path):
        raise NotADirectoryError(f"{problem}, which is no directory.")


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads and checks the manifest of an exported rule.

    Args:
        path: String or path of a directory that `rule.export(path)` wrote.

    Returns:
        Dict with `"format"`, `"format_version"`, `"rule"` (`"class_name"`
        and `"config"`), `"independent"`, `"graph"`, `"variables"` (dicts with
        `"name"`, `"shape"`, `"dtype"`), `"description"`, `"recipe"`,
        `"seed"`, `"scores"` and `"versions"`; of newer exports also
        `"digest"`, see `digest.digest_of`.

    Raises:
        FileNotFoundError: If `path` does not exist.
        NotADirectoryError: If `path` is no directory.
        RuleFormatError: If the manifest is missing or invalid.

    Example:

    >>> manifest = keras_l2l.serialization.read_manifest("my_rule")
    >>> manifest["rule"]["class_name"]
    'keras_l2l>CoordinatewiseLSTM'
    """
    check_directory(path)
    with errors_name_path(path):
        file = Path(path, FILE)
        if not file.is_file():
            raise format_error(f"a file {FILE}", sorted(os.listdir(path)))
        with open(file, "rb") as stream:
            content = stream.read(SIZE_LIMIT + 1)
        return _parse(content)


def write_manifest(
    rule: Any,
    base_class: type,
    variables: Mapping[str, keras.Variable],
    metadata: Mapping[str, Any],
) -> bytes:
    """Makes the manifest of a rule, checked to be one that can be read back.

    Args:
        rule: An instance of `base_class`.
        base_class: The class from which whatever is read back must derive.
        variables: Dict from names to the variables of the rule.
        metadata: Dict; see `saved_model.export_rule`.

    Returns:
        Bytes, the content of the file.

    Raises:
        ValueError: If the rule or its metadata could not be read back.
    """
    unknown = sorted(metadata.keys() - _METADATA.keys())
    if unknown:
        raise ValueError(
            f"Argument `metadata` may have the keys {list(_METADATA)}. "
            f"Received: metadata with {unknown}"
        )
    class_name = keras.saving.get_registered_name(type(rule))
    alone = rule.granularity == "coordinate"
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "rule": {"class_name": class_name, "config": rule.get_config()},
        "independent": _INDEPENDENT[rule.granularity],
        "graph": _GRAPH_OF_COORDINATES if alone else _GRAPH_OF_ONE_PARAMETER,
        "variables": describe(variables),
        **_METADATA,
        **metadata,
        "versions": _versions(),
    }
    try:
        config = json.loads(_to_json(manifest))["rule"]["config"]
        values = [variable.numpy() for variable in variables.values()]
        manifest["digest"] = digest_of(class_name, config, values).hex()
        content = _to_json(manifest)
        _parse(content)
        checked_config(config, base_class, keras.saving.get_custom_objects())
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            "Argument `metadata` and the configuration of the rule must be "
            "strict JSON that can be read back, without lambdas, NaN or "
            f"infinity. Received: {error}"
        ) from error
    return content


def _to_json(manifest):
    return f"{json.dumps(manifest, indent=2, allow_nan=False)}\n".encode()


def _parse(content):
    if len(content) > SIZE_LIMIT:
        raise format_error(
            f"a {FILE} of at most {SIZE_LIMIT} bytes", "a larger one"
        )
    try:
        manifest = json.loads(
            content, parse_constant=_finite, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise format_error(f"valid JSON in {FILE}", error) from error
    check_depth(manifest)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise format_error(f'"format": "{FORMAT}" in {FILE}', manifest)
    version = manifest.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise format_error(
            f'"format_version": {FORMAT_VERSION} in {FILE}',
            f"{version!r}, written by {manifest.get('versions')}",
            "Upgrade keras-l2l if it is newer, else export the rule again.",
        )
    _check_fields(manifest, _FIELDS)
    _check_fields(manifest["rule"], _RULE_FIELDS)
    _check_variables(manifest["variables"])
    if not isinstance(manifest.get("digest", ""), str):
        raise format_error(f"a text as 'digest' in {FILE}", manifest["digest"])
    return manifest


def _finite(text):
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text}, which is no strict JSON")
    return number


def _check_variables(variables):
    if len(variables) > MAX_VARIABLES:
        raise format_error(
            f"at most {MAX_VARIABLES} variables", f"{len(variables)} of them"
        )
    for variable in variables:
        _check_fields(variable, _VARIABLE_FIELDS)
        if not all(
            type(size) is int and size >= 0 for size in variable["shape"]
        ):
            raise format_error("shapes of integers", variable)
    names = [variable["name"] for variable in variables]
    if len({*names}) < len(names):
        raise format_error("variables of different names", names)


def _check_fields(value, fields):
    if not isinstance(value, dict):
        raise format_error(f"a dict of {list(fields)} in {FILE}", value)
    for name, kind in fields.items():
        if name not in value:
            raise format_error(f"{name!r} in {FILE}", list(value))
        if not isinstance(value[name], kind):
            raise format_error(
                f"{name!r} of type {kind} in {FILE}", repr(value[name])
            )


def _versions():
    import tensorflow as tf  # Reading a manifest needs none.

    try:
        ours = importlib.metadata.version("keras-l2l")
    except importlib.metadata.PackageNotFoundError:  # Run from its sources.
        ours = "unknown"
    return {
        "keras_l2l": ours,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "python": platform.python_version(),
    }
