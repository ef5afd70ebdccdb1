"""The paper's experiments: scripts, which the wheel carries with it."""

import argparse
import dataclasses
import inspect
import json
import pathlib
import runpy

from rich.console import Console

from keras_l2l import checks, evaluation, packaged_files
from keras_l2l.evaluation.results import Comparison
from keras_l2l.reports import tables
from keras_l2l.serialization.atomic_write import atomic_file
from keras_l2l.serialization.meta_parameters import digest

_FAST_RATES = 3  # of each grid


def names():
    """The names of all experiments.

    Returns:
        Tuple of strings, sorted.
    """
    return tuple(_scripts())


def path(name):
    """The script of an experiment.

    Args:
        name: String, one of `names()`.

    Returns:
        A `pathlib.Path`.

    Raises:
        ValueError: If there is no such experiment.
    """
    scripts = _scripts()
    checks.known_name(name, scripts, "an experiment")
    return scripts[name]


def default_output(name):
    """The directory to which an experiment writes.

    Args:
        name: String, one of `names()`.

    Returns:
        A `pathlib.Path`.
    """
    return pathlib.Path("runs", "paper", name)


def reproduce(name, output=None, full=False, seed=None):
    """Runs an experiment of the paper, which writes tables and figures.

    Args:
        name: String, one of `names()`.
        output: Directory to write to. Defaults to `None`, that of
            `default_output`.
        full: Boolean. Whether to run all of it, as in the documentation. If
            not, only enough of it to see what it does. Defaults to `False`.
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


def run_script(main):
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


def baselines(full):
    """The hand-designed rules of the paper, with the rates to try.

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


def compare(path, learned, task, **arguments):
    """`evaluation.compare`, whose result is kept in a file, and printed.

    An experiment that was stopped finds there what it had done.

    Args:
        path: Path of the JSON file.
        learned: Dict from names to `UpdateRule`s.
        task: A `Task`.
        **arguments: `steps`, `seeds`, `sweep_seeds`, `seed` and `baselines`
            of `evaluation.compare`.

    Returns:
        A `Comparison`: that of the file, if it is one of the same rules with
        the same arguments, and otherwise a new one, which replaces it.

    Raises:
        ValueError: If there is a file that cannot be read.
    """
    key = _key(learned, task, **arguments)
    comparison = _kept(path, key)
    if comparison is None:
        comparison = evaluation.compare(learned, task, **arguments)
        document = {"key": key, **comparison.to_dict()}
        with atomic_file(path) as file:
            file.write(json.dumps(document, allow_nan=False).encode())
    show(comparison)
    return comparison


def show(comparison):
    """Prints the tables of a comparison.

    Args:
        comparison: A `keras_l2l.evaluation.results.Comparison`.
    """
    Console(width=120, highlight=False).print(
        *tables.comparison_table(comparison)
    )


def _key(learned, task, baselines, **numbers):
    """What a comparison depends on, as JSON has it."""
    return {
        **numbers,
        "rules": {n: digest(rule).hex() for n, rule in learned.items()},
        "rates": {n: list(b.learning_rates) for n, b in baselines.items()},
        "task": task.name,
        "shapes": [list(spec.shape) for spec in task.parameter_specs],
    }


def _kept(path, key):
    """The comparison in a file, if there is one with this key."""
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text())
        if document["key"] != key:
            return None
        return Comparison.from_dict(document)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"The comparison {str(path)!r} cannot be read: {error!r}. Delete "
            "it to run it again."
        ) from error


def _scripts():
    """Dict from the names of experiments to their files."""
    return packaged_files.find("experiments", "*.py")
