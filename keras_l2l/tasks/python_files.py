"""Functions of Python files that a user names: `FILE.py:FUNCTION`.

The file is run, as an import would: only ever one that the user asked for.
"""

import functools
import importlib.util
import pathlib
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

from keras_l2l import checks


def is_reference(text: str) -> bool:
    """Tells whether a text is of the form `FILE.py:FUNCTION`.

    Args:
        text: String.

    Returns:
        A boolean.
    """
    return text.rpartition(":")[0].endswith(".py")


def load_function(argument: str, reference: str) -> Callable[[], Any]:
    """Loads a function without arguments from a Python file.

    Args:
        argument: String, the name of the argument in errors.
        reference: String, `FILE.py:FUNCTION`. Modules beside the file can be
            imported, as by `python FILE.py`.

    Returns:
        A function that calls it. An error of its own becomes a `ValueError`
        that names the function, the error and the line.

    Raises:
        ValueError: If there is no such file or function, or if the file
            cannot be run.

    Example:

    >>> _ = pathlib.Path("mine.py").write_text("def four(): return 4")
    >>> load_function("data", "mine.py:four")()
    4
    """
    if not is_reference(reference):
        raise ValueError(
            f"Argument `{argument}` must be FILE.py:FUNCTION, a Python file "
            "and the name of a function in it. "
            f"Received: {argument}={reference!r}"
        )
    name, _, attribute = reference.rpartition(":")
    file = pathlib.Path(name).resolve()
    if not file.is_file():
        raise ValueError(f"Argument `{argument}`: there is no file {name!r}")
    module = _guarded(argument, name, file, lambda: _run(file))
    function = getattr(module, attribute, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise ValueError(
            f"Argument `{argument}`: {name!r} has no function {attribute!r}."
            f"{checks.did_you_mean(attribute, known)}"
        )
    return lambda: _guarded(argument, reference, file, function)


def _run(file: pathlib.Path) -> ModuleType:
    # A file that has changed since, in a notebook, is run again.
    return _run_version(file, file.stat().st_mtime_ns)


@functools.cache
def _run_version(file: pathlib.Path, _: int) -> ModuleType:
    # Its own name may be that of a package: `keras.py`.
    name = f"file_of_the_user_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None  # there is one for every `.py`
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    sys.modules[name] = module  # dataclasses and pickle look there
    spec.loader.exec_module(module)
    return module


def _guarded(
    argument: str, what: str, file: pathlib.Path, call: Callable[[], Any]
) -> Any:
    """Calls code of the user; its error becomes a `ValueError` of one line."""
    try:
        return call()
    except SystemExit as error:
        raise ValueError(
            f"Argument `{argument}`: {what!r} ended the process. Put what "
            'only a script does below `if __name__ == "__main__":`'
        ) from error
    except Exception as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == str(file)
        ]
        where = f", in line {lines[-1]} of {file.name}" if lines else ""
        raise ValueError(
            f"Argument `{argument}`: {what!r} raised "
            f"{type(error).__name__}: {error}{where}"
        ) from error
