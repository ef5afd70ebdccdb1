"""Commands that meta-train: `meta-train` and `recipes`."""

import os
import pathlib
import tomllib
from typing import Any

import click

from keras_l2l.cli import options
from keras_l2l.cli import workers as processes
from keras_l2l.cli.command import command
from keras_l2l.cli.errors import CommandError, interruptible, user_errors
from keras_l2l.packaged_files import DEFAULT_PRESET
from keras_l2l.reproduction import recipe_files

_complete = options.complete("recipes")
_NO_REPORT = (
    'none, as nothing draws its figures: pip install "keras-l2l[plots]"'
)


@command(
    "meta-train",
    known=recipe_files.descriptions,
    known_title="Recipes",
    needs_keras=False,
)
@click.argument("recipe", required=False, shell_complete=_complete)
@options.user_task
@options.rule(
    default=None,
    show_default=DEFAULT_PRESET,
    help="With --data: the rule that is trained further.",
)
@options.count(
    "--horizon", show_default="200", help="With --data: steps of an episode."
)
@options.count("--batch-size", help="With --data: examples in a batch.")
@options.output(
    show_default="runs/RECIPE", help="Where rule and backups are kept."
)
@options.count(
    "--epochs", show_default="those of the recipe", help="Epochs of each stage."
)
@options.count(
    "--steps-per-epoch",
    show_default="those of the recipe",
    help="Outer steps in an epoch.",
)
@click.option(
    "--verbose",
    is_flag=True,
    help="Show a progress bar in place of a line an epoch.",
)
@click.option(
    "--log-dir",
    type=click.Path(path_type=pathlib.Path),
    metavar="DIR",
    help="Write the curves for TensorBoard while it runs.",
)
@options.seed(
    show_default="that of the recipe", help="Seed of rule and episodes."
)
@processes.option(
    help="Share the work among N processes of this machine; several machines "
    "by TF_CONFIG."
)
@click.pass_context
def meta_train(
    context: click.Context,
    recipe: str | None,
    output: pathlib.Path | None,
    epochs: int | None,
    steps_per_epoch: int | None,
    verbose: bool,
    log_dir: pathlib.Path | None,
    seed: int | None,
    workers: int | None,
    **own: Any,
) -> tuple[Any, list[Any]]:
    """Meta-train a rule and export it, by a recipe or on data of yours.

    RECIPE is the name of a recipe, or the path of a TOML file; `keras-l2l
    recipes NAME` prints one to start from. Without one, --data names your
    data, and a shipped rule is trained further on them. A run that was
    stopped goes on when it is started again.

    \b
    keras-l2l meta-train general
    keras-l2l meta-train --model mine.py:build_model --data mine.py:load_data
    """
    strategy = processes.join(context, workers)
    from keras_l2l.meta_training.replicas import is_chief
    from keras_l2l.reproduction import runner

    own = {name: value for name, value in own.items() if value is not None}
    arguments: dict[str, Any] = {}
    if recipe is None:
        loaded, arguments = _own_recipe(own, strategy)
    elif own:
        raise CommandError(
            f"--{next(iter(own)).replace('_', '-')} does not go with the "
            f"recipe {recipe!r}, which says what is trained on what: leave "
            "one of them out"
        )
    else:
        with user_errors(ValueError, OSError):
            loaded = recipe_files.load(recipe)
    output = options.writable_directory(
        output or pathlib.Path("runs", loaded.name)
    )
    with (
        interruptible(
            "The epochs that had ended are kept in "
            f"{output}{os.sep}; the same command goes on from there."
        ),
        # A run in which every episode diverged is a `RuntimeError`.
        user_errors(ValueError, OSError, ImportError, RuntimeError),
    ):
        path = runner.run(
            loaded,
            output,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            seed=seed,
            verbose=1 if verbose else 2,
            callbacks=_callbacks(loaded, epochs, log_dir, strategy),
            strategy=strategy,
            **arguments,
        )
    if not is_chief(strategy):
        context.exit()
    return _result(loaded.name, path, output / runner.REPORT)


def _callbacks(
    recipe: Any, epochs: int | None, log_dir: pathlib.Path | None, strategy: Any
) -> list[Any]:
    """What is shown while the run goes on, by the process that prints."""
    from keras_l2l.cli.time_left import TimeLeft
    from keras_l2l.meta_training.replicas import is_chief

    if not is_chief(strategy):
        return []
    shown: list[Any] = [TimeLeft([epochs or s.epochs for s in recipe.stages])]
    if log_dir is not None:
        from keras_l2l.reports import MetaTrainingMonitor

        with user_errors(ImportError, OSError):
            shown.append(MetaTrainingMonitor(log_dir))
    return shown


def _result(
    name: str, path: pathlib.Path, report: pathlib.Path
) -> tuple[dict[str, Any], list[Any]]:
    from keras_l2l.reports import tables
    from keras_l2l.serialization import saved_model

    manifest = saved_model.read_manifest(path)
    document = {
        "recipe": name,
        "path": str(path),
        "report": str(report) if report.exists() else None,
        "seed": manifest["seed"],
        "scores": manifest["scores"],
    }
    shown = {**document, "report": document["report"] or _NO_REPORT}
    return document, tables.detail_table(shown)


def _own_recipe(
    own: dict[str, Any], strategy: Any
) -> tuple[Any, dict[str, Any]]:
    """The recipe for a user's own files, with its rule and task."""
    from keras_l2l import presets
    from keras_l2l.meta_training.replicas import scope
    from keras_l2l.reproduction.user_recipe import user_recipe
    from keras_l2l.serialization import hub

    if "data" not in own:
        raise CommandError(
            "Missing argument 'RECIPE', or --data, which names your data"
        )
    name = own.pop("rule", presets.DEFAULT)
    horizon = {k: own.pop(k) for k in ("horizon",) if k in own}
    with scope(strategy):
        rule = options.load_rule(name)
    if hub.is_address(name):
        name = presets.pin(name)  # the manifest says of which commit it was
    task = options.make_user_task(**own)
    with user_errors(ValueError):
        made = user_recipe(rule, name, task, own, **horizon)
    return made, {"rule": rule, "task": task}


@command("recipes", needs_keras=False)
@click.argument("name", required=False, shell_complete=_complete)
def recipes(name: str | None) -> tuple[Any, list[Any]]:
    """List the recipes, or print one as TOML, to start from.

    \b
    keras-l2l recipes lstm-digits > mine.toml
    keras-l2l meta-train mine.toml
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if name is not None:
        with user_errors(ValueError, OSError):
            text = recipe_files.path(name).read_text(encoding="utf-8")
        return tomllib.loads(text), [text.rstrip()]
    described = recipe_files.descriptions()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Recipe", no_wrap=True)
    table.add_column("Description")
    for key, description in described.items():
        table.add_row(Text(key), Text(description))
    return described, [table]
