"""Commands that show what is shipped: `presets` and `reproduce`."""

import ast
import dataclasses
import os
import pathlib
from typing import Any

import click

from keras_l2l import packaged_files
from keras_l2l.cli import options
from keras_l2l.cli.command import command
from keras_l2l.cli.errors import interruptible, user_errors


def _experiments() -> dict[str, str]:
    """Dict from the names of the experiments to what they show."""
    found = {}
    for name, file in packaged_files.find("experiments").items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found[name] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


@command("reproduce", known=_experiments, known_title="Experiments")
@click.argument(
    "experiment",
    metavar="NAME",
    shell_complete=options.complete("experiments"),
)
@click.option(
    "--full",
    is_flag=True,
    help="All of it, as in the documentation; else only enough of it to see "
    "what it does.",
)
@options.output(show_default="runs/paper/NAME", help="Where it writes to.")
@options.seed(
    show_default="that of the documentation", help="Seed of all runs."
)
def reproduce(
    experiment: str,
    full: bool,
    output: pathlib.Path | None,
    seed: int | None,
) -> tuple[Any, list[Any]]:
    """Run an experiment of the paper: its tables and figures."""
    from keras_l2l.reproduction import paper

    with user_errors(ValueError):
        paper.path(experiment)
    output = options.writable_directory(
        output or paper.default_output(experiment)
    )
    with (
        interruptible(
            "What had ended is kept in "
            f"{output}{os.sep}; the same command goes on from there."
        ),
        user_errors(ValueError, OSError, ImportError),
    ):
        paper.reproduce(experiment, output, full=full, seed=seed)
    files = sorted(path.name for path in output.iterdir() if path.is_file())
    return {
        "experiment": experiment,
        "full": full,
        "output": str(output),
        "files": files,
    }, [f"Wrote {', '.join(files)} to {output}{os.sep}"]


@command("presets")
@options.seed(default=0, help="Has no effect here.")
def presets(seed: int) -> tuple[Any, list[Any]]:
    """List the rules that are shipped."""
    from keras_l2l import evaluation
    from keras_l2l import presets as shipped
    from keras_l2l.reports import tables

    with user_errors(ValueError, OSError):
        found = shipped.describe()
        state_bytes = {
            name: evaluation.state_per_coordinate(shipped.load(name))[1]
            for name in shipped.names()
        }
    document = [
        dataclasses.asdict(preset)
        | {"state_bytes_per_coordinate": state_bytes[preset.name]}
        for preset in found
    ]
    return document, tables.preset_table(found, state_bytes)
