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
    from keras_l2l.tasks import Task

Value = TypeVar("Value")


count = functools.partial(
    click.option, type=click.IntRange(min=1), metavar="N", show_default=True
)
seed = functools.partial(
    click.option,
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    show_default=True,
)
output = functools.partial(
    click.option,
    "--output",
    type=click.Path(path_type=pathlib.Path),
    metavar="DIR",
    show_default=True,
)


def complete(kind: str) -> Callable[..., list[str]]:
    """Completes, in a shell, the names of shipped files.

    Args:
        kind: String, see `packaged_files.find`.

    Returns:
        The argument `shell_complete` of an option or an argument.
    """

    def names(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[str]:
        found = packaged_files.find(kind)
        return [name for name in found if name.startswith(incomplete)]

    return names


_RULE: dict[str, Any] = {
    "metavar": "NAME_OR_PATH",
    "shell_complete": complete("presets"),
}
rule_argument = functools.partial(click.argument, "rule", **_RULE)


def rule(**options: Any) -> Callable[..., Any]:
    """The option `--rule`."""
    shown = {
        "default": packaged_files.DEFAULT_PRESET,
        "show_default": True,
        "help": "A preset, the directory of an exported rule, or an address "
        "hf://USER/NAME.",
    }
    return click.option("--rule", **{**_RULE, **shown, **options})


def user_task(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that name a user's own model and data."""
    for option, metavar, text in reversed(_USER_TASK):
        function = click.option(option, metavar=metavar, help=text)(function)
    return function


_USER_TASK = (
    (
        "--data",
        "FILE",
        "Your data: a .csv; an .npz with x and y; or FILE.py:FUNCTION, which "
        "returns (x, y), two such pairs, or a tf.data.Dataset.",
    ),
    (
        "--model",
        "FILE.py:FUNCTION",
        "Your model: a function that returns a new Keras model. Else a "
        "perceptron. The file is run.",
    ),
    ("--target", "COLUMN", "The column of a .csv to predict. Else the last."),
    (
        "--loss",
        "NAME",
        "A loss of Keras, such as mse or sparse_categorical_crossentropy. "
        "Else that of the compiled model, or one that suits the targets.",
    ),
)


def make_user_task(**arguments: Any) -> "Task":
    """The task of a user's own files; a line tells what was taken for what."""
    from keras_l2l.tasks.user_task import user_task as make

    with user_errors(ValueError, OSError):
        made = make(**arguments)
    click.echo(made.description, err=True)
    return made.task


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
    """The rule with the name of a preset, in a directory, or elsewhere."""
    from keras_l2l import presets

    with user_errors(ValueError, OSError, ImportError):
        return presets.resolve_rule(name)


def needs_figures() -> None:
    """Fails, before a long run, if its figures could not be drawn."""
    from keras_l2l import reports

    with user_errors(ImportError):
        reports.needs_figures()


def writable_directory(path: pathlib.Path) -> pathlib.Path:
    """Creates the directory and tries it, before a long run."""
    with user_errors(OSError, prefix="--output must be writable: "):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
