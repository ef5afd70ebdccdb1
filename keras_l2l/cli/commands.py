"""What each command does: its arguments → figures for JSON, and tables."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import sys
import tempfile

from keras_l2l.cli.arguments import NETWORK_OPTIONS, CommandError


def compare(arguments):
    """The figures and tables of `keras-l2l compare`."""
    from keras_l2l import evaluation
    from keras_l2l.reports import plots, tables

    rule = _load_rule(arguments.rule)
    output = _writable_directory(arguments.output)
    task = _make_task(arguments)
    name = pathlib.Path(arguments.rule).name
    if name in evaluation.BASELINES:
        name = f"{name} (learned)"
    with _progress_bar() as progress:
        comparison = evaluation.compare(
            rule,
            task,
            steps=arguments.steps,
            seeds=arguments.seeds,
            sweep_seeds=arguments.sweep_seeds,
            test_every=arguments.test_every,
            seed=arguments.seed,
            name=name,
            progress=progress,
        )
    writers = {
        "learning_curves.png": lambda path: plots.plot_learning_curves(
            comparison, path
        ),
        "learning_curves.csv": comparison.write_csv,
        "comparison.json": comparison.write_json,
    }
    with _user_errors(OSError):
        for file, write in writers.items():
            write(output / file)
    return [record.to_dict() for record in comparison.records], [
        *tables.comparison_table(comparison),
        f"Wrote {', '.join(writers)} to {output}{os.sep}",
    ]


def benchmark(arguments):
    """The figures and tables of `keras-l2l benchmark`."""
    from keras_l2l import evaluation, reports
    from keras_l2l.tasks.benchmark_suite import SUITE

    rule = _load_rule(arguments.rule)
    output = _writable_directory(arguments.output)
    name = pathlib.Path(arguments.rule).name
    optimizers = {
        name: evaluation.learned_spec(rule),
        f"{name}, total steps": evaluation.learned_spec(rule, True),
        **_chosen(
            "--optimizers",
            arguments.optimizers,
            evaluation.BENCHMARK_OPTIMIZERS,
        ),
    }
    suite = {
        name: dataclasses.replace(
            task, make=functools.partial(_make_suite_task, name, task)
        )
        for name, task in _chosen("--tasks", arguments.tasks, SUITE).items()
    }
    with _user_errors(ValueError, OSError):
        comparisons = evaluation.run_benchmark(
            suite,
            optimizers,
            output / "runs",
            seeds=arguments.seeds,
            sweep_seeds=arguments.sweep_seeds,
            seed=arguments.seed,
            progress=lambda run, done, total: print(
                f"{done}/{total} {run}", file=sys.stderr
            ),
        )
    with _user_errors(OSError):
        files = reports.write_report(comparisons, output)
    rows = evaluation.summarize(comparisons)
    return {
        "rows": evaluation.to_json(rows),
        "geometric_means": evaluation.to_json(evaluation.geometric_means(rows)),
    }, [
        *reports.benchmark_tables(comparisons),
        f"Wrote {', '.join(files)} to {output}{os.sep}",
    ]


def meta_train(arguments):
    """What `keras-l2l meta-train` has exported."""
    from keras_l2l.reports import tables
    from keras_l2l.reproduction import recipes, runner
    from keras_l2l.serialization import saved_model

    with _user_errors(ValueError):
        recipe = recipes.get(arguments.recipe)
    output = _writable_directory(
        arguments.output or pathlib.Path("runs", recipe.name)
    )
    try:
        with _user_errors(ValueError, OSError):
            path = runner.run(
                recipe,
                output,
                epochs=arguments.epochs,
                steps_per_epoch=arguments.steps_per_epoch,
                seed=arguments.seed,
                verbose=1 if arguments.verbose else 2,
            )
    except KeyboardInterrupt:
        print(
            "The same command goes on from the last finished epoch, in "
            f"{output}{os.sep}",
            file=sys.stderr,
        )
        raise
    manifest = saved_model.read_manifest(path)
    document = {
        "recipe": recipe.name,
        "path": str(path),
        "seed": manifest["seed"],
        "scores": manifest["scores"],
    }
    return document, tables.detail_table(document)


def reproduce(arguments):
    """What `keras-l2l reproduce` has written."""
    from keras_l2l.reproduction import paper

    name = arguments.experiment
    output = arguments.output or paper.default_output(name)
    with _user_errors(ValueError):
        paper.path(name)
    output = _writable_directory(output)
    with _user_errors(ValueError, OSError):
        paper.reproduce(name, output, full=arguments.full, seed=arguments.seed)
    files = sorted(path.name for path in output.iterdir() if path.is_file())
    return {
        "experiment": name,
        "full": arguments.full,
        "output": str(output),
        "files": files,
    }, [f"Wrote {', '.join(files)} to {output}{os.sep}"]


def list_presets(arguments):
    """The presets, for `keras-l2l presets`."""
    from keras_l2l import presets
    from keras_l2l.reports import tables

    with _user_errors(ValueError, OSError):
        found = presets.describe()
    return [dataclasses.asdict(preset) for preset in found], (
        tables.preset_table(found)
    )


def inspect(arguments):
    """What `keras-l2l inspect` tells of a rule."""
    from keras_l2l import presets
    from keras_l2l.evaluation.cost import measure_cost
    from keras_l2l.reports import tables
    from keras_l2l.serialization import saved_model

    name = arguments.rule
    rule = _load_rule(name)
    directory = presets.path(name) if name in presets.names() else name
    manifest = saved_model.read_manifest(directory)
    cost = measure_cost(rule, seed=arguments.seed)
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


def _chosen(option, names, table):
    """The entries of a table that the user named; all if none."""
    for name in names or ():
        if name not in table:
            raise CommandError(
                f"{option} must be some of {', '.join(table)}. "
                f"Received: {name!r}"
            )
    return {name: table[name] for name in names or table}


def _load_rule(rule):
    from keras_l2l import presets

    with _user_errors(ValueError, OSError):
        return presets.resolve_rule(rule)


def _make_task(arguments):
    from keras_l2l import tasks

    options = {
        option: getattr(arguments, option)
        for option in NETWORK_OPTIONS
        if getattr(arguments, option) is not None
    }
    if arguments.task == "quadratic":
        if options:
            raise CommandError(
                f"--{next(iter(options)).replace('_', '-')} does not apply to "
                "the task 'quadratic', which has no network. Leave it out, or "
                "choose --task digits or mnist"
            )
        return tasks.Quadratic()
    make = {"digits": tasks.digits_mlp, "mnist": tasks.mnist_mlp}
    # A download can fail in many ways, none of which is a bug.
    with _user_errors(Exception, prefix=f"the task {arguments.task!r}: "):
        return make[arguments.task](**options)


def _make_suite_task(name, task):
    # A download can fail in many ways, none of which is a bug.
    with _user_errors(Exception, prefix=f"the task {name!r}: "):
        return task.make()


def _writable_directory(path):
    """Creates the directory and tries it, before a long run."""
    path = pathlib.Path(path)
    with _user_errors(OSError, prefix="--output must be writable: "):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path


@contextlib.contextmanager
def _user_errors(*kinds, prefix=""):
    """Turns errors of these kinds into `CommandError`s."""
    try:
        yield
    except kinds as error:
        text = str(error) or type(error).__name__
        raise CommandError(f"{prefix}{text}") from error


@contextlib.contextmanager
def _progress_bar():
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

        def progress(optimizer, done, total):
            bar.update(task, description=optimizer, completed=done, total=total)

        yield progress


COMMANDS = {
    "compare": compare,
    "benchmark": benchmark,
    "meta-train": meta_train,
    "reproduce": reproduce,
    "presets": list_presets,
    "inspect": inspect,
}
