"""The command line: parses, calls, prints.

Each command imports what it alone needs.
"""

import contextlib
import json
import os
import sys

from keras_l2l.cli.arguments import CommandError, make_parser
from keras_l2l.cli.commands import COMMANDS

__all__ = ["main"]

_BROKEN_PIPE = 1
_USER_ERROR = 2
_INTERRUPTED = 130
_PIPE_WIDTH = 120  # columns, where the output is no terminal


def main(argv=None):
    """Runs the command line `keras-l2l`.

    Args:
        argv: List of strings. Defaults to `None`, those of the process.

    Returns:
        The exit status: 0; 2 after a mistake of the user, which is reported
        in one line; 130 after an interruption.

    Example:

    >>> main(["compare", "--steps", "50", "--seeds", "3"])
    0
    """
    try:
        arguments = make_parser().parse_args(argv)
        # Whatever a library prints must not get between a program and JSON.
        with (
            contextlib.redirect_stdout(sys.stderr)
            if arguments.json
            else contextlib.nullcontext()
        ):
            document, tables = COMMANDS[arguments.command](arguments)
        _print(document, tables, arguments.json)
    except CommandError as error:
        message = " ".join(str(error).split())
        print(f"keras-l2l: error: {message}", file=sys.stderr)
        return _USER_ERROR
    except KeyboardInterrupt:
        print("keras-l2l: interrupted.", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # Its reader, such as `head`, has seen enough.
        # Python flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    return 0


def _print(document, tables, as_json):
    if as_json:
        text = json.dumps(document, indent=2, allow_nan=False, default=str)
        print(text, flush=True)
        return
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    console = Console(width=width, highlight=False)
    for table in tables:
        console.print(table, markup=False)
