"""The paper's experiments: scripts, which the wheel carries with it."""

import argparse
import dataclasses
import inspect
import os
import pathlib
import runpy
from collections.abc import Callable
from typing import Any

from rich.console import Console

from keras_l2l import evaluation, packaged_files
from keras_l2l.reports import tables
from keras_l2l.rules import UpdateRule
from keras_l2l.tasks import Task

_FAST_RATES = 3  # of each grid


def names() -> tuple[str, ...]:
    """Lists the names of all experiments.

    Returns:
        Tuple of strings, sorted.
    """
    return tuple(packaged_files.find("experiments"))


def path(name: str) -> pathlib.Path:
    """Finds the script of an experiment.

    Args:
        name: String, one of `names()`.

    Returns:
        A `pathlib.Path`.

    Raises:
        ValueError: If there is no such experiment.
    """
    return packaged_files.find_one("experiments", name)


def default_output(name: str) -> pathlib.Path:
    """Names the directory to which an experiment writes.

    Args:
        name: String, one of `names()`.

    Returns:
        A `pathlib.Path`.
    """
    return pathlib.Path("runs", "paper", name)


def reproduce(
    name: str,
    output: str | os.PathLike[str] | None = None,
    full: bool = False,
    seed: int | None = None,
) -> pathlib.Path:
    """Runs an experiment of the paper, which writes tables and figures.

    Args:
        name: String, one of `names()`.
        output: Directory to write to. Defaults to `None`, that of
            `default_output`.
        full: Boolean. Whether to run all of it, as in the documentation,
            instead of a small part that shows what it does.
            Defaults to `False`.
        seed: Non-negative integer, from which all seeds derive. Defaults to
            `None`, that of the documentation.

    Returns:
        The `pathlib.Path` of the directory.

    Raises:
        ValueError: If there is no such experiment.

    Example:

    >>> reproduce("quadratics")
    """
    run = runpy.run_path(str(path(name)))["main"]
    output = pathlib.Path(output or default_output(name))
    output.mkdir(parents=True, exist_ok=True)
    run(output, full=full, **({} if seed is None else {"seed": seed}))
    return output


def run_script(main: Callable[..., Any]) -> None:
    """Runs an experiment as a script, with the options of all of them.

    Args:
        main: Function `(output, full, seed)`, in a module with a docstring.
    """
    script = main.__globals__
    parser = argparse.ArgumentParser(
        description=script["__doc__"],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    name = pathlib.Path(script["__file__"]).stem
    default_seed = inspect.signature(main).parameters["seed"].default
    parser.add_argument(
        "--full", action="store_true", help="all of it, as in the documentation"
    )
    parser.add_argument("--seed", type=int, default=default_seed)
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=default_output(name),
    )
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    main(**vars(arguments))


def baselines(full: bool) -> dict[str, evaluation.OptimizerSpec]:
    """Lists the hand-designed rules of the paper, with the rates to try.

    Args:
        full: Boolean. Whether to try all of them, or only a few.

    Returns:
        Dict for `keras_l2l.evaluation.compare`.
    """
    if full:
        return evaluation.BASELINES
    return {
        name: dataclasses.replace(
            baseline,
            learning_rates=baseline.learning_rates[
                :: len(baseline.learning_rates) // _FAST_RATES
            ],
        )
        for name, baseline in evaluation.BASELINES.items()
    }


def run_comparison(
    output: str | os.PathLike[str],
    title: str,
    learned: dict[str, UpdateRule],
    task: Task,
    **arguments: Any,
) -> evaluation.Comparison:
    """Compares rules as `evaluation.compare`, keeps the runs and shows tables.

    An experiment that was stopped goes on from the runs that it has kept.

    Args:
        output: String or path of the directory of the experiment. The runs
            are kept in `runs/TITLE`, the result is `TITLE.json`.
        title: String. What the comparison is called.
        learned: Dict from names to `UpdateRule`s.
        task: A `Task`.
        **arguments: `steps`, `seeds`, `sweep_seeds`, `seed` and `baselines`
            of `evaluation.compare`.

    Returns:
        A `Comparison`.

    Raises:
        ValueError: If a kept run cannot be read, or is of another task.
    """
    output, name = pathlib.Path(output), title.replace(" ", "-")
    comparison = evaluation.compare(
        learned, task, **arguments, cache_dir=output / "runs" / name
    )
    comparison.write_json(output / f"{name}.json")
    show(comparison)
    return comparison


def show(comparison: evaluation.Comparison) -> None:
    """Prints the tables of a comparison.

    Args:
        comparison: A `Comparison`.
    """
    Console(width=120, highlight=False).print(
        *tables.comparison_table(comparison)
    )
