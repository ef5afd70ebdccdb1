"""Files that the package ships: presets, recipes, the paper's experiments.

The wheel carries them in the package; a checkout has some of them beside it.
"""

import importlib.resources
import pathlib

from keras_l2l import checks

_PACKAGE = pathlib.Path(str(importlib.resources.files("keras_l2l")))
_CHECKOUT = _PACKAGE.parent

# The preset that `L2LOptimizer()` loads. It stands here so that the command
# line can show it without importing TensorFlow.
DEFAULT_PRESET = "general-4"

# The first directory that exists is the one. `pyproject.toml` says which
# directories of a checkout the wheel carries, and where.
DIRECTORIES: dict[str, tuple[pathlib.Path, ...]] = {
    "presets": (_PACKAGE / "saved_models", _CHECKOUT / "saved_models"),
    "recipes": (_PACKAGE / "reproduction" / "recipes",),
    "experiments": (_PACKAGE / "paper", _CHECKOUT / "examples" / "paper"),
}

# The pattern of their files there, and what a name of one is called.
_PATTERNS = {
    "presets": "*/manifest.json",
    "recipes": "*.toml",
    "experiments": "*.py",
}
_CALLED = {
    "presets": "a preset",
    "recipes": "the path of a file PATH.toml, or a recipe",
    "experiments": "an experiment",
}


def find(kind: str) -> dict[str, pathlib.Path]:
    """Finds the shipped files of one kind.

    Args:
        kind: String, a key of `DIRECTORIES`.

    Returns:
        Dict, sorted, from names to paths: of files without their suffix, of
        subdirectories. Names that start with a dot are left out. Empty if
        nothing of this kind was installed.

    Example:

    >>> find("experiments")["mnist"].name
    'mnist.py'
    """
    directory = root(kind)
    if directory is None:
        return {}
    entries = {
        directory / match.relative_to(directory).parts[0]
        for match in directory.glob(_PATTERNS[kind])
    }
    found = {
        entry.name if entry.is_dir() else entry.stem: entry
        for entry in entries
        if not entry.name.startswith(".")
    }
    return dict(sorted(found.items()))


def root(kind: str) -> pathlib.Path | None:
    """Finds the directory of the shipped files of one kind.

    Args:
        kind: String, a key of `DIRECTORIES`.

    Returns:
        A `pathlib.Path`; `None` if nothing of this kind was installed.
    """
    return next((path for path in DIRECTORIES[kind] if path.is_dir()), None)


def find_one(kind: str, name: str) -> pathlib.Path:
    """Finds the shipped file with a name.

    Args:
        kind: String, a key of `DIRECTORIES`.
        name: String, what was received for an argument `name`.

    Returns:
        A `pathlib.Path`.

    Raises:
        ValueError: If there is no such file.
    """
    found = find(kind)
    if name not in list(found):
        raise ValueError(
            f"Argument `name` must be {_CALLED[kind]}: one of {list(found)}. "
            f"Received: name={name!r}.{checks.did_you_mean(name, found)}"
        )
    return found[name]
