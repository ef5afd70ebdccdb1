"""Files that the package ships: presets, recipes, the paper's experiments.

The wheel carries them in the package; a checkout has some of them beside it.
"""

import importlib.resources
import pathlib

_PACKAGE = pathlib.Path(str(importlib.resources.files("keras_l2l")))
_CHECKOUT = _PACKAGE.parent

# The first directory that exists is the one. `pyproject.toml` says which
# directories of a checkout the wheel carries, and where.
DIRECTORIES: dict[str, tuple[pathlib.Path, ...]] = {
    "presets": (_PACKAGE / "saved_models", _CHECKOUT / "saved_models"),
    "recipes": (_PACKAGE / "reproduction" / "recipes",),
    "experiments": (_PACKAGE / "paper", _CHECKOUT / "examples" / "paper"),
}


def find(kind: str, pattern: str) -> dict[str, pathlib.Path]:
    """Finds the shipped files of one kind.

    Args:
        kind: String, a key of `DIRECTORIES`.
        pattern: String, a glob pattern relative to the directory of the
            kind: `"*.py"`, or `"*/manifest.json"` for subdirectories with
            such a file. Names that start with a dot are left out.

    Returns:
        Dict, sorted, from names to paths: of files without their suffix, of
        subdirectories. Empty if nothing of this kind was installed.

    Example:

    >>> find("experiments", "*.py")["mnist"].name
    'mnist.py'
    """
    directory = root(kind)
    if directory is None:
        return {}
    entries = {
        directory / match.relative_to(directory).parts[0]
        for match in directory.glob(pattern)
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
