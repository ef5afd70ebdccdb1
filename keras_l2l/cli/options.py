"""Options that several commands share."""

import functools
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from keras_l2l import packaged_files
from keras_l2l.cli.errors import CommandError, user_errors

if TYPE_CHECKING:
    from keras_l2l.rules import UpdateRule

Value = TypeVar("Value")


def count(
    name: str, text: str, default: int | None = None, shown: str | None = None
) -> Callable[..., Any]:
    """An option that takes a positive integer.

    Args:
        name: String, `"--steps"`.
        text: String, its help.
        default: Integer, or `None`.
        shown: String, what the help says of a default of `None`.
    """
    return _option(name, click.IntRange(min=1), "N", text, default, shown)


def seed(
    text: str, default: int | None = None, shown: str | None = None
) -> Callable[..., Any]:
    """The option `--seed`, see `count`."""
    return _option("--seed", click.IntRange(min=0), "N", text, default, shown)


def output(
    text: str, default: str | None = None, shown: str | None = None
) -> Callable[..., Any]:
    """The option `--output`, a directory, see `count`."""
    kind = click.Path(path_type=pathlib.Path)
    return _option("--output", kind, "DIR", text, default, shown)


def _option(
    name: str,
    kind: click.ParamType,
    metavar: str,
    text: str,
    default: Any,
    shown: str | None,
) -> Callable[..., Any]:
    return click.option(
        name,
        type=kind,
        metavar=metavar,
        help=text,
        default=default,
        show_default=shown or default is not None,
    )


def _preset_names(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    names = packaged_files.find("presets", "*/manifest.json")
    return [name for name in names if name.startswith(incomplete)]


rule = functools.partial(
    click.option,
    "--rule",
    # The name of `presets.DEFAULT`, which is not imported for `--help`.
    default="general",
    show_default=True,
    metavar="NAME_OR_PATH",
    shell_complete=_preset_names,
    help="A preset, or the directory of an exported rule.",
)
rule_argument = functools.partial(
    click.argument,
    "rule",
    metavar="NAME_OR_PATH",
    shell_complete=_preset_names,
)


def chosen(
    option: str, names: Sequence[str], table: Mapping[str, Value]
) -> dict[str, Value]:
    """The entries of a table that the user named; all if none."""
    for name in names:
        if name not in table:
            raise CommandError(
                f"{option} must be one of {', '.join(table)}. "
                f"Received: {name!r}"
            )
    return {name: table[name] for name in names or table}


def load_rule(name: str) -> "UpdateRule":
    """The rule with the name of a preset, or in a directory."""
    from keras_l2l import presets

    with user_errors(ValueError, OSError):
        return presets.resolve_rule(name)


def writable_directory(path: pathlib.Path) -> pathlib.Path:
    """Creates the directory and tries it, before a long run."""
    with user_errors(OSError, prefix="--output must be writable: "):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
