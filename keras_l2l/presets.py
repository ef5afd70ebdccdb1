"""Shipped rules by name."""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
from typing import Any

from keras_l2l import checks, packaged_files
from keras_l2l.rules import UpdateRule, load_rule
from keras_l2l.serialization import hub, manifest

DEFAULT = packaged_files.DEFAULT_PRESET
# Beside the presets; `benchmarks/presets.py` writes it.
AGAINST_ADAM = "against_adam.json"


@dataclasses.dataclass(frozen=True)
class Preset:
    """What the manifest of a preset says.

    Attributes:
        name: String.
        description: String.
        parameters: Integer, the number of meta-parameters.
        scores: Dict.
        against_adam: Dict: `ratio`, the loss on held-out data as a multiple
            of that of an Adam with a tuned learning rate, after `steps` steps
            of the task `task`. `None` if that was not measured.
    """

    name: str
    description: str
    parameters: int
    scores: dict[str, Any]
    against_adam: dict[str, Any] | None = None


def names():
    """The names of all presets.

    Returns:
        Tuple of strings, sorted.
    """
    return tuple(packaged_files.find("presets"))


def path(name):
    """The directory of a preset.

    Args:
        name: String, one of `names()`.

    Returns:
        A `pathlib.Path`.

    Raises:
        ValueError: If there is no such preset.
    """
    return packaged_files.find_one("presets", name)


def load(name=DEFAULT):
    """Loads a preset.

    Args:
        name: String, one of `names()`. Defaults to `"general-4"`.

    Returns:
        An `UpdateRule`.

    Raises:
        ValueError: If there is no such preset.

    Example:

    >>> rule = keras_l2l.presets.load("general")
    """
    return load_rule(path(name))


def describe():
    """What there is to choose from.

    Returns:
        List of `Preset`, sorted by name.
    """
    figures = _figures()
    return [
        _describe(
            name, manifest.read_manifest(path(name)), figures.get(name, {})
        )
        for name in names()
    ]


def manifest_digest(name):
    """A digest of a preset's manifest, which each training changes.

    Args:
        name: String, one of `names()`.

    Returns:
        A string of 16 characters.
    """
    content = (path(name) / manifest.FILE).read_bytes()
    return hashlib.sha256(content).hexdigest()[:16]


def resolve_rule(rule):
    """The rule that is meant by a name, an address, a path, or the rule itself.

    Args:
        rule: String, the name of a preset, an address as for `load_rule`, or
            else the path of a rule export; a path object; or an `UpdateRule`,
            which is returned as it is. A directory with the name of a preset
            is `"./NAME"`.

    Returns:
        An `UpdateRule`.

    Raises:
        TypeError: If `rule` is none of these.
        ValueError: If it is a string without preset or directory, or if the
            directory is no rule export. An address raises what `load_rule`
            raises.

    Example:

    >>> rule = keras_l2l.presets.resolve_rule("my_rule")
    """
    if isinstance(rule, UpdateRule):
        return rule
    if isinstance(rule, (str, os.PathLike)):
        return load_rule(locate(rule))
    raise TypeError(
        "Argument `rule` must be the name of a preset, the path of an "
        f"exported rule, or an `UpdateRule`. Received: {rule!r} "
        f"(of type {type(rule).__name__})"
    )


def locate(rule):
    """The directory of a rule, which is downloaded if it is elsewhere.

    Args:
        rule: String or path object, as for `resolve_rule`.

    Returns:
        A `pathlib.Path`.

    Raises:
        ValueError: If it is a string without preset or directory. An address
            raises what `load_rule` raises.

    Example:

    >>> keras_l2l.presets.locate("general").name
    'general'
    """
    if not isinstance(rule, str):
        return pathlib.Path(rule)
    if hub.is_address(rule):
        return hub.download(rule).path
    directories = packaged_files.find("presets")
    if rule in directories:
        return directories[rule]
    if os.path.isdir(rule):
        return pathlib.Path(rule)
    raise ValueError(
        f"Argument `rule` must be a preset (one of {list(directories)}) or "
        "the path of an existing directory that `rule.export(path)` wrote. "
        f"Received: {rule!r}, which is neither."
        f"{checks.did_you_mean(rule, directories)}"
    )


def pin(address):
    """Pins an address to the revision that is the newest now.

    Args:
        address: String, as for `load_rule`.

    Returns:
        String, the address with a commit of Hugging Face, or with a version
        of Kaggle: it means the same meta-parameters for ever.

    Raises:
        ValueError: If there is no such repository or revision, or no rule in
            it.
        ConnectionError: If it cannot be reached, and is not cached.
        ImportError: If the client is not installed.

    Example:

    ```python
    address = keras_l2l.presets.pin("hf://user/name")
    model.compile(keras_l2l.L2LOptimizer(address), loss="mse")
    ```
    """
    return hub.download(address).address


def _figures():
    """Dict from names to what `benchmarks/presets.py` measured."""
    root = packaged_files.root("presets")
    if root is None or not (root / AGAINST_ADAM).exists():
        return {}
    return json.loads((root / AGAINST_ADAM).read_text(encoding="utf-8"))


def _describe(name, content, figure):
    sizes = [math.prod(entry["shape"]) for entry in content["variables"]]
    is_current = figure.get("manifest") == manifest_digest(name)
    return Preset(
        name,
        content["description"],
        sum(sizes),
        content["scores"],
        {k: v for k, v in figure.items() if k != "manifest"}
        if is_current
        else None,
    )
