"""The manifest of an exported rule: what it holds, and what it may ask for.

A manifest can come from a stranger. It is read as data: a name in it is looked
up among known classes, and never imported. Which classes may be built is an
argument, `base_class`: this module knows no rule.
"""

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

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
_PACKAGE = "keras_l2l>"
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


class RuleFormatError(ValueError):
    """What was read is no rule export, or not one that can be trusted."""


def format_error(path, expected, received, advice="Export the rule again."):
    """A `RuleFormatError` about the directory `path`."""
    return RuleFormatError(
        "Argument `path` must be the directory of an exported rule, with "
        f"{expected}. Received: {received!s:.500} "
        f"(path={os.fspath(path)!r}). {advice}"
    )


def check_directory(path):
    """Raises unless `path` is a directory."""
    problem = (
        "Argument `path` must be a directory that `rule.export(path)` wrote. "
        f"Received: path={os.fspath(path)!r}"
    )
    if not os.path.exists(path):
        raise FileNotFoundError(f"{problem}, which does not exist.")
    if not os.path.isdir(path):
        raise NotADirectoryError(f"{problem}, which is no directory.")


def read_manifest(path):
    """Reads and checks the manifest of an exported rule.

    Args:
        path: String or path of a directory that `rule.export(path)` wrote.

    Returns:
        Dict with `"format"`, `"format_version"`, `"rule"` (`"class_name"`
        and `"config"`), `"independent"`, `"graph"`, `"variables"` (dicts with
        `"name"`, `"shape"`, `"dtype"`), `"description"`, `"recipe"`,
        `"seed"`, `"scores"` and `"versions"`.

    Raises:
        FileNotFoundError: If `path` does not exist.
        NotADirectoryError: If `path` is no directory.
        RuleFormatError: If the manifest is missing or invalid.
    """
    check_directory(path)
    file = Path(path, FILE)
    if not file.is_file():
        raise format_error(path, f"a file {FILE}", sorted(os.listdir(path)))
    with open(file, "rb") as stream:
        content = stream.read(SIZE_LIMIT + 1)
    return _parse(content, path)


def write_manifest(rule, base_class, variables, metadata, path):
    """The manifest of a rule, checked to be one that can be read back.

    Args:
        rule: An instance of `base_class`.
        base_class: The class from which whatever is read back must derive.
        variables: Dict from names to the variables of the rule.
        metadata: Dict; see `saved_model.export_rule`.
        path: Where the rule will be exported, for error messages.

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
    alone = rule.granularity == "coordinate"
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "rule": {
            "class_name": keras.saving.get_registered_name(type(rule)),
            "config": rule.get_config(),
        },
        "independent": _INDEPENDENT[rule.granularity],
        "graph": _GRAPH_OF_COORDINATES if alone else _GRAPH_OF_ONE_PARAMETER,
        "variables": [
            {
                "name": name,
                "shape": list(variable.shape),
                "dtype": variable.dtype,
            }
            for name, variable in variables.items()
        ],
        **_METADATA,
        **metadata,
        "versions": _versions(),
    }
    try:
        text = json.dumps(manifest, indent=2, allow_nan=False)
        content = f"{text}\n".encode()
        rule = _parse(content, path)["rule"]
        _checked(
            rule["config"], base_class, keras.saving.get_custom_objects(), path
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            "Argument `metadata` and the configuration of the rule must be "
            "strict JSON that can be read back, without lambdas, NaN or "
            f"infinity. Received: {error}"
        ) from error
    return content


def build_rule(manifest, base_class, custom_objects, path):
    """The rule that a manifest describes, with fresh meta-parameters.

    Args:
        manifest: Dict, from `read_manifest`.
        base_class: The class from which the rule, and those within it, must
            derive.
        custom_objects: Dict from registered names to classes.
        path: Where the manifest was read, for error messages.

    Returns:
        An instance of `base_class`.

    Raises:
        RuleFormatError: If it asks for what is not known, or does not fit.
    """
    name = manifest["rule"]["class_name"]
    rule_class = _rule_class(name, base_class, custom_objects)
    if rule_class is None:
        raise format_error(
            path,
            "a rule of this package, or one passed in `custom_objects`",
            f"the rule class {name!r}",
            f"Pass `custom_objects={{{name!r}: ...}}` with its class.",
        )
    config = _checked(
        manifest["rule"]["config"], base_class, custom_objects, path
    )
    try:
        with keras.saving.custom_object_scope(custom_objects):
            return rule_class.from_config(config)
    except Exception as error:  # Whatever a constructor may raise.
        raise format_error(
            path, f"a configuration that `{name}` accepts", error
        ) from error


def _parse(content, path):
    if len(content) > SIZE_LIMIT:
        raise format_error(
            path, f"a {FILE} of at most {SIZE_LIMIT} bytes", "a larger one"
        )
    try:
        manifest = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise format_error(path, f"valid JSON in {FILE}", error) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise format_error(path, f'"format": "{FORMAT}" in {FILE}', manifest)
    version = manifest.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise format_error(
            path,
            f'"format_version": {FORMAT_VERSION} in {FILE}',
            f"{version!r}, written by {manifest.get('versions')}",
            "Upgrade keras-l2l if it is newer, else export the rule again.",
        )
    _check_fields(manifest, _FIELDS, path)
    _check_fields(manifest["rule"], _RULE_FIELDS, path)
    for variable in manifest["variables"]:
        _check_fields(variable, _VARIABLE_FIELDS, path)
        if not all(type(size) is int for size in variable["shape"]):
            raise format_error(path, "shapes of integers", variable)
    return manifest


def _refuse_constant(name):
    raise ValueError(f"{name}, which is no strict JSON")


def _check_fields(value, fields, path):
    if not isinstance(value, dict):
        raise format_error(path, f"a dict of {list(fields)} in {FILE}", value)
    for name, kind in fields.items():
        if name not in value:
            raise format_error(path, f"{name!r} in {FILE}", list(value))
        if not isinstance(value[name], kind):
            raise format_error(
                path, f"{name!r} of type {kind} in {FILE}", repr(value[name])
            )


def _rule_class(name, base_class, custom_objects):
    """The class of that name, if it is known to derive from `base_class`."""
    found = custom_objects.get(name)
    if found is None and name.startswith(_PACKAGE):
        found = keras.saving.get_registered_object(name)
    is_rule = isinstance(found, type) and issubclass(found, base_class)
    return found if is_rule else None


def _checked(value, base_class, custom_objects, path):
    """The configuration, with each nested object made of a known class.

    Keras looks up, and may import, what a nested `{"module": ...,
    "class_name": ...}` names, and calls registered objects by their name
    alone. So both are checked here, before Keras sees them.
    """
    if isinstance(value, dict) and "class_name" in value:
        return _checked_object(value, base_class, custom_objects, path)
    if isinstance(value, dict):
        return {
            key: _checked(item, base_class, custom_objects, path)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            _checked(item, base_class, custom_objects, path) for item in value
        ]
    if isinstance(value, str) and value in keras.saving.get_custom_objects():
        raise format_error(
            path, "no name of a registered object as a bare string", value
        )
    return value


def _checked_object(value, base_class, custom_objects, path):
    class_name = value["class_name"]
    name = value.get("registered_name") or class_name
    module = value.get("module")
    config = value.get("config")
    names_are_text = isinstance(class_name, str) and isinstance(name, str)
    if not (names_are_text and isinstance(config, dict)):
        raise format_error(path, "nested objects with a name", value)
    rule_class = _rule_class(name, base_class, custom_objects)
    if rule_class is not None:
        module, class_name = rule_class.__module__, rule_class.__name__
    elif name in custom_objects:
        module = None
    elif name == class_name and _is_built_in(module, class_name):
        name = None
    else:
        raise format_error(
            path,
            "nested objects that are Keras initializers, rules of this "
            "package, or passed in `custom_objects`",
            value,
            f"If you trust it, pass `custom_objects={{{name!r}: ...}}`.",
        )
    return {
        "module": module,
        "class_name": class_name,
        "registered_name": name,
        "config": _checked(config, base_class, custom_objects, path),
    }


def _is_built_in(module, class_name):
    """Whether it is an initializer of Keras, or the seed of one."""
    if (module, class_name) == ("keras.random", "SeedGenerator"):
        return True
    found = getattr(keras.initializers, class_name, None)
    return (
        module == "keras.initializers"
        and isinstance(found, type)
        and issubclass(found, keras.initializers.Initializer)
    )


def _versions():
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
