"""The command line: parses, calls, prints.

A command imports TensorFlow when it runs, so that `--help`, `--version` and
shell completion answer at once.
"""

import sys
from collections.abc import Sequence

import click

from keras_l2l.cli.application import application
from keras_l2l.cli.errors import INTERRUPTED, NOTHING_KEPT, USER_ERROR

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `keras-l2l`.

    Args:
        argv: List of strings. Defaults to `None`, those of the process.

    Returns:
        The exit status: 0; 2 after a mistake of the user, which is reported
        in one line; 130 after an interruption.

    Example:

    >>> main(["--version"])
    keras-l2l ...
    0
    """
    try:
        return (
            application.main(argv, prog_name="keras-l2l", standalone_mode=False)
            or 0
        )
    except click.ClickException as error:
        message = " ".join(error.format_message().split())
        if isinstance(error, click.UsageError) and error.ctx is not None:
            message += f" (see `{error.ctx.command_path} --help`)"
        if error.exit_code == USER_ERROR:
            message = f"error: {message}"
        return _fail(message, error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _fail(f"interrupted. {NOTHING_KEPT}", INTERRUPTED)


def _fail(message: str, status: int) -> int:
    print(f"keras-l2l: {message}", file=sys.stderr)
    return status
