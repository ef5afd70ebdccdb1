"""The command line: parses, calls, prints.

TensorFlow takes seconds to import, so that each command imports what it needs.
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
        _start_tensorflow()
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


def _start_tensorflow():
    """Imports TensorFlow, without what its C++ has to say on the way.

    `TF_CPP_MIN_LOG_LEVEL` alone does not stop all of it; who sets it sees it.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        import tensorflow as tf

        tf.config.list_logical_devices()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
