"""The error of files and configurations that describe no rule."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any


class RuleFormatError(ValueError):
    """What was read is no rule export, or not one that can be trusted."""


def format_error(
    expected: str, received: Any, advice: str = ""
) -> RuleFormatError:
    """Makes a `RuleFormatError`.

    Args:
        expected: String, what the file or the configuration must have.
        received: What it has instead; shortened to 500 characters.
        advice: String, sentences that say what to do. Defaults to none.
    """
    message = f"Expected {expected}. Received: {received!s:.500}."
    return RuleFormatError(f"{message} {advice}".rstrip())


@contextlib.contextmanager
def errors_name_path(path: str | os.PathLike[str]) -> Iterator[None]:
    """Adds the argument `path` to a `RuleFormatError` from within the block.

    Args:
        path: String or path of the directory that is read.

    Raises:
        RuleFormatError: If the block raised one.
    """
    try:
        yield
    except RuleFormatError as error:
        raise RuleFormatError(
            "Argument `path` must be the directory of an exported rule. "
            f"{error} (path={os.fspath(path)!r})"
        ) from error
