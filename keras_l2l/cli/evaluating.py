"""Commands that judge a rule: `compare`, `benchmark` and `inspect`."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from keras_l2l.cli import options
from keras_l2l.cli import workers as processes
from keras_l2l.cli.command import command
from keras_l2l.cli.errors import CommandError, interruptible, user_errors

TASKS = ("digits", "mnist", "quadratic")


@command("compare")
@options.rule()
@click.option(
    "--task",
    type=click.Choice(TASKS),
    show_default="digits",
    help="What the optimizers train, if not a model or data of yours.",
)
@options.user_task
@options.count("--units", help="Units of a hidden layer of a perceptron.")
@options.count("--depth", help="Hidden layers of a perceptron.")
@click.option(
    "--activation", metavar="NAME", help="Activation of a perceptron."
)
@options.count("--batch-size", help="Examples in a batch.")
@options.count("--steps", default=100, help="Updates in a run.")
@options.count("--seeds", default=10, help="Runs of each optimizer.")
@options.count("--sweep-seeds", default=5, help="Runs for each learning rate.")
@options.count(
    "--test-every", show_default="the last", help="Test after each N steps."
)
@options.output(
    default="l2l_compare", help="Where plot and figures are written."
)
@options.seed(default=0, help="Seed of all runs.")
def compare(
    rule: str,
    task: str | None,
    steps: int,
    seeds: int,
    sweep_seeds: int,
    test_every: int | None,
    output: pathlib.Path,
    seed: int,
    **settings: Any,
) -> tuple[Any, list[Any]]:
    """Compare a learned rule with SGD, NAG, RMSprop and Adam.

    Their learning rates are tuned first. On a model and data of yours:

    \b
    keras-l2l compare --data table.csv --target price
    keras-l2l compare --model mine.py:build_model --data mine.py:load_data
    """
    from keras_l2l import evaluation
    from keras_l2l.reports import tables

    options.needs_figures()
    loaded = options.load_rule(rule)
    output = options.writable_directory(output)
    made_task = _make_task(
        task, {k: v for k, v in settings.items() if v is not None}
    )
    name = pathlib.Path(rule).name
    if name in evaluation.BASELINES:
        name = f"{name} (learned)"
    with (
        interruptible(
            "Nothing was kept: the same command begins anew; "
            "fewer --seeds, --sweep-seeds or --steps make it shorter."
        ),
        _progress_bar() as progress,
    ):
        comparison = evaluation.compare(
            loaded,
            made_task,
            steps=steps,
            seeds=seeds,
            sweep_seeds=sweep_seeds,
            test_every=test_every,
            seed=seed,
            name=name,
            progress=progress,
        )
    files = _write(comparison, output)
    return [record.to_dict() for record in comparison.records], [
        *tables.comparison_table(comparison),
        f"Wrote {', '.join(files)} to {output}{os.sep}",
    ]


@command("benchmark")
@options.rule()
@click.option(
    "--suite",
    # The keys of `evaluation.SUITES`, which is not imported for `--help`.
    type=click.Choice(("standard", "small")),
    default="standard",
    show_default=True,
    help="Tasks at real size, or those with few data and a hundred epochs.",
)
@click.option(
    "--tasks",
    multiple=True,
    metavar="NAME",
    show_default="all",
    help="One of the tasks; can be repeated.",
)
@click.option(
    "--optimizers",
    multiple=True,
    metavar="NAME",
    show_default="all",
    help="One of the optimizers; can be repeated.",
)
@click.option(
    "--select",
    type=click.Choice(("training", "held-out")),
    default="training",
    show_default=True,
    help="The loss by which learning rates are chosen.",
)
@click.option(
    "--reference",
    metavar="NAME",
    default="Adam",
    show_default=True,
    help="The optimizer to which ratios are.",
)
@options.count("--seeds", default=5, help="Runs of each optimizer.")
@options.count("--sweep-seeds", default=2, help="Runs for each learning rate.")
@options.count("--times", default=1, help="Make all runs N times as long.")
@options.output(default="l2l_benchmark", help="Where runs and report are kept.")
@options.seed(default=0, help="Seed of all runs.")
@processes.option(help="Share the runs among N processes of this machine.")
@click.pass_context
def benchmark(
    context: click.Context,
    rule: str,
    suite: str,
    tasks: tuple[str, ...],
    optimizers: tuple[str, ...],
    select: str,
    reference: str,
    seeds: int,
    sweep_seeds: int,
    times: int,
    output: pathlib.Path,
    seed: int,
    workers: int | None,
) -> tuple[Any, list[Any]]:
    """Compare a learned rule with others on unseen tasks.

    Takes hours; a benchmark that was stopped goes on when it is started
    again.
    """
    from keras_l2l import evaluation, reports

    options.needs_figures()
    loaded = options.load_rule(rule)
    output = options.writable_directory(output)
    name = pathlib.Path(rule).name
    specs = {
        **evaluation.benchmark_specs(name, loaded),
        **options.chosen(
            "--optimizers", optimizers, evaluation.BENCHMARK_OPTIMIZERS
        ),
    }
    chosen = _suite_tasks(suite, tasks, times)

    def run(case):
        part, contenders = case
        return evaluation.run_benchmark(
            part,
            contenders,
            output / "runs",
            seeds=seeds,
            sweep_seeds=sweep_seeds,
            seed=seed,
            criterion=select,
            progress=lambda run, done, total: print(
                f"{done}/{total} {run}", file=sys.stderr
            ),
        )

    kept = (
        f"The runs that had ended are kept in {output}{os.sep}; the same "
        "command goes on from there"
    )
    with interruptible(f"{kept}."), user_errors(ValueError, OSError):
        if workers is not None:
            processes.take_turns(
                context, workers, _cases(chosen, specs), run, kept
            )
        comparisons = run((chosen, specs))
        files = reports.write_report(comparisons, output, reference)
    return reports.benchmark_document(comparisons, reference), [
        *reports.benchmark_tables(comparisons, reference),
        f"Wrote {', '.join(files)} to {output}{os.sep}",
    ]


@command("inspect")
@options.rule_argument()
@options.seed(default=0, help="Seed of the gradients of the timing.")
def inspect(rule: str, seed: int) -> tuple[Any, list[Any]]:
    """Show what a rule is and what it costs. Runs no code of its author."""
    from keras_l2l import presets
    from keras_l2l.evaluation.cost import measure_cost
    from keras_l2l.reports import tables
    from keras_l2l.serialization import saved_model

    loaded = options.load_rule(rule)
    directory = presets.locate(rule)
    manifest = saved_model.read_manifest(directory)
    cost = measure_cost(loaded, seed=seed)
    document = {
        "rule": manifest["rule"]["class_name"],
        "config": manifest["rule"]["config"],
        "description": manifest["description"],
        "meta_parameters": cost.meta_parameters,
        "state_floats_per_coordinate": cost.state_floats,
        "state_bytes_per_coordinate": cost.state_bytes,
        "update_nanoseconds_per_coordinate": cost.update_nanoseconds,
        "measured_coordinates": cost.coordinates,
        "manifest": manifest,
    }
    details = {
        "Rule": document["rule"],
        "Description": manifest["description"] or "none",
        "Path": str(directory),
        "Configuration": manifest["rule"]["config"],
        "Meta-parameters": f"{cost.meta_parameters:,}",
        "Hidden state": (
            f"{cost.state_floats:g} numbers, {cost.state_bytes:g} bytes, for "
            "each parameter of the model"
        ),
        "Update": (
            f"{cost.update_nanoseconds:.3g} ns for each parameter of the "
            f"model (measured here on {cost.coordinates:,})"
        ),
        "Scores": manifest["scores"],
        "Seed": manifest["seed"],
        "Recipe": manifest["recipe"] or "none",
        "Versions": manifest["versions"],
    }
    return document, tables.detail_table(details)


def _errors_of_task(name: str) -> contextlib.AbstractContextManager[None]:
    kinds = (ValueError, OSError, ImportError)
    return user_errors(*kinds, prefix=f"the task {name!r}: ")


def _make_task(name: str | None, settings: dict[str, Any]) -> Any:
    from keras_l2l import tasks

    if "data" in settings and name is None:
        return options.make_user_task(**settings)
    for option in ("data", "model", "target", "loss"):
        if option in settings:
            raise CommandError(
                f"--{option} does not go with --task {name}: give --data or "
                "--task, not both"
                if name
                else f"--{option} needs --data, which names your data"
            )
    name = name or "digits"
    if name == "quadratic":
        if settings:
            raise CommandError(
                f"--{next(iter(settings)).replace('_', '-')} does not apply to "
                "the task 'quadratic', which has no network. Leave it out, or "
                "choose --task digits or mnist"
            )
        return tasks.Quadratic()
    make = {"digits": tasks.digits_mlp, "mnist": tasks.mnist_mlp}[name]
    with _errors_of_task(name):
        return make(**settings)


def _suite_tasks(
    suite: str, names: tuple[str, ...], times: int
) -> dict[str, Any]:
    """The tasks that are chosen, whose errors name them.

    Runs of another length are other runs, which are kept by another name.
    """
    from keras_l2l import evaluation

    chosen = options.chosen("--tasks", names, evaluation.SUITES[suite])
    if suite == "small" and not names:
        chosen = _without_missing_data(chosen)
    return {
        name if times == 1 else f"{name}-{times}-times": dataclasses.replace(
            task,
            make=functools.partial(_make_suite_task, name, task),
            steps=times * task.steps,
            test_every=task.test_every and times * task.test_every,
        )
        for name, task in chosen.items()
    }


def _make_suite_task(name: str, task: Any, *directory: pathlib.Path) -> Any:
    with _errors_of_task(name):
        return task.make(*directory)


def _cases(
    suite: dict[str, Any], specs: dict[str, Any]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Parts of a benchmark that do not depend on each other.

    One optimizer on one task, as its learning rate is chosen before its runs.
    All optimizers where a task keeps files of its own.
    """
    cases = []
    for name, task in suite.items():
        parts = [{key: spec} for key, spec in specs.items()]
        for part in [specs] if task.uses_directory else parts:
            cases.append(({name: task}, part))
    return cases


def _without_missing_data(suite: dict[str, Any]) -> dict[str, Any]:
    """The tasks that need no download, and a line for each of the others."""
    from keras_l2l.tasks import datasets

    found = {}
    for name, task in suite.items():
        if task.data is None or datasets.has_images(task.data):
            found[name] = task
        else:
            print(
                f"{name} is left out: {task.data} has not been downloaded. "
                f"--tasks {name} downloads it.",
                file=sys.stderr,
            )
    return found


def _write(comparison: Any, output: pathlib.Path) -> list[str]:
    """Writes a comparison and returns the names of the files."""
    from keras_l2l.reports import plots

    writers = {
        "learning_curves.png": lambda path: plots.plot_learning_curves(
            comparison, path
        ),
        "learning_curves.csv": comparison.write_csv,
        "comparison.json": comparison.write_json,
    }
    with user_errors(OSError):
        for file, write in writers.items():
            write(output / file)
    return list(writers)


@contextlib.contextmanager
def _progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Yields a function for `evaluation.compare`; the bar is on stderr."""
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    console = Console(stderr=True)
    with Progress(
        *Progress.get_default_columns(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as bar:
        task = bar.add_task("Training", total=None)

        def progress(optimizer: str, done: int, total: int) -> None:
            bar.update(task, description=optimizer, completed=done, total=total)

        yield progress
