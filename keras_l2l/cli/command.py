"""What all commands do alike: run, print, tell what they accept."""

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import click

from keras_l2l.cli.errors import NOTHING_KEPT, interruptible
from keras_l2l.cli.keras_backend import import_keras

_PIPE_WIDTH = 120  # columns, where the output is no terminal


class Command(click.Command):
    """A command whose function returns figures for JSON, and tables.

    Its help ends with the names that it accepts.

    Args:
        known: Function that returns a dict from names to descriptions.
            Defaults to `None`, no list.
        known_title: String, the title of the list.
        needs_keras: Boolean. Whether Keras is imported before the command
            runs. Defaults to `True`.
    """

    def __init__(
        self,
        *args: Any,
        known: Callable[[], Mapping[str, str]] | None = None,
        known_title: str = "",
        needs_keras: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._known = known
        self._known_title = known_title
        self._needs_keras = needs_keras
        self.params.append(
            click.Option(
                ["--json", "as_json"],
                is_flag=True,
                help="Print JSON, and nothing else, on standard output.",
            )
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments and keeps them for processes to be started."""
        ctx.meta["arguments"] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> None:
        """Runs the command and prints what it returns."""
        as_json = ctx.params.pop("as_json")
        # Whatever a library prints must not get between a program and JSON.
        with (
            interruptible(NOTHING_KEPT),
            contextlib.redirect_stdout(sys.stderr)
            if as_json
            else contextlib.nullcontext(),
        ):
            if self._needs_keras:
                import_keras()
            document, tables = super().invoke(ctx)
        if as_json:
            text = json.dumps(document, indent=2, allow_nan=False, default=str)
            print(text, flush=True)
        else:
            _print_tables(tables)

    def format_epilog(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Writes the names that the command accepts."""
        if self._known is not None:
            with formatter.section(self._known_title):
                formatter.write_dl(list(self._known().items()))


def _print_tables(tables: list[Any]) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    console = Console(width=width, highlight=False)
    for table in tables:
        if isinstance(table, str):
            print(table)  # a path or a file, which must not be wrapped
        else:
            console.print(table, markup=False)
    sys.stdout.flush()


command = functools.partial(click.command, cls=Command)
