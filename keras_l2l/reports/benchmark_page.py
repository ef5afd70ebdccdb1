"""What a benchmark found: tables, figures, and one page with both."""

import html
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from keras_l2l.evaluation.benchmark import (
    REFERENCE,
    geometric_means,
    summarize,
)
from keras_l2l.evaluation.results import Comparison, to_json
from keras_l2l.reports.benchmark_plots import plot_profile, plot_task
from keras_l2l.reports.page import page, picture, pixels, table
from keras_l2l.serialization.atomic_write import atomic_file

_TITLES = {
    "training": "Training loss",
    "held_out": "Held-out data",
    "means": "Geometric means over the tasks of the ratios",
}
_EXPLANATION = (
    "Means over {seeds} seeds, ± standard error. Final: mean training loss of "
    "the last tenth of the steps. Mean: of all steps. Test: loss on held-out "
    "data after the last step. Best: where that loss is lowest, as early "
    "stopping would keep."
)
_EXPLANATION_OF_RATIOS = (
    "Ratio: over {reference}, below one is better. Reached: steps until the "
    "training loss with which {reference} ends, and their wall-clock and "
    "processor time in seconds."
)
_NO_RATIOS = (
    "There are no ratios, as {reference}, to which they would be, is not "
    "among the optimizers."
)
_ON_BORDER = "*: the best rate lies on the border of the grid."


def benchmark_document(
    comparisons: Sequence[Comparison], reference: str = REFERENCE
) -> dict[str, Any]:
    """The results for JSON.

    Args:
        comparisons: Sequence of `keras_l2l.evaluation.Comparison`s, one a
            task.
        reference: String, the optimizer with which all are compared.
            Defaults to `"Adam"`, tuned.

    Returns:
        Dict: `"rows"`, and for each optimizer the geometric means over the
        tasks of its ratios to the reference, `"geometric_means"` of the
        training loss and `"held_out_geometric_means"`. Non-finite numbers are
        `None`.
    """
    rows = summarize(comparisons, reference)
    return to_json(
        {
            "rows": rows,
            "geometric_means": geometric_means(rows),
            "held_out_geometric_means": geometric_means(rows, "test_ratio"),
        }
    )


def benchmark_tables(
    comparisons: Sequence[Comparison], reference: str = REFERENCE
) -> list[Any]:
    """The results for the terminal.

    Args:
        comparisons: Sequence of `keras_l2l.evaluation.Comparison`s, one a
            task.
        reference: String, the optimizer with which all are compared.
            Defaults to `"Adam"`, tuned.

    Returns:
        List of what `rich` can print.
    """
    rows, learned = summarize(comparisons, reference), comparisons[0].learned
    tables = []
    for title, columns, cells in _tables(rows):
        table = Table(
            title=title,
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        first = columns.index("Optimizer")  # after the task, if any
        for name in columns[first:]:
            table.add_column(
                name,
                justify="left" if name == "Optimizer" else "right",
                no_wrap=True,
            )
        task = None
        for line in cells:
            if first and line[0] != task:  # A line of its own, as it is long.
                task = line[0]
                table.add_section()
                table.add_row(Text(task, style="italic"))
            table.add_row(
                *map(Text, line[first:]),
                style="bold" if line[first] == learned else None,
            )
        tables.append(table)
    return [*tables, Text(_note(comparisons, rows, reference), style="dim")]


def write_report(
    comparisons: Sequence[Comparison],
    directory: str | os.PathLike[str],
    reference: str = REFERENCE,
) -> list[str]:
    """Writes `benchmark.json`, `report.html` and a figure for each task.

    The page holds its figures, and loads nothing.

    Args:
        comparisons: Sequence of `keras_l2l.evaluation.Comparison`s, one a
            task.
        directory: String or path of the directory to write to.
        reference: String, the optimizer with which all are compared.
            Defaults to `"Adam"`, tuned.

    Returns:
        List of the names of the files.
    """
    directory = pathlib.Path(directory)
    rows, learned = summarize(comparisons, reference), comparisons[0].learned
    document = benchmark_document(comparisons, reference)
    files = {
        "benchmark.json": json.dumps(
            document, indent=2, allow_nan=False
        ).encode(),
        "profile.png": pixels(plot_profile(rows, learned)),
    }
    sections = ["<h2>All tasks</h2>", picture("profile", files["profile.png"])]
    sections += [
        table(title, columns, cells, learned)
        for title, columns, cells in _tables(rows)
        if title == _TITLES["means"]
    ]
    for comparison in comparisons:
        task = comparison.task
        files[f"{task}.png"] = pixels(plot_task(comparison))
        sections += [
            f"<h2>{html.escape(task)}</h2>",
            *(
                table(title, columns[1:], [c[1:] for c in cells], learned)
                for title, columns, cells in _tables(
                    [row for row in rows if row.task == task]
                )[:2]
            ),
            picture(task, files[f"{task}.png"]),
        ]
    files["report.html"] = page(
        f"Benchmark of {learned}",
        _note(comparisons, rows, reference),
        sections,
    )
    for name, content in files.items():
        with atomic_file(directory / name) as file:
            file.write(content)
    return list(files)


def _tables(rows):
    """List of titles, names of columns, and rows of cells."""
    names = [[row.task, row.optimizer, _rate(row)] for row in rows]
    tables = []
    for title, columns in (
        ("training", _training_columns(rows)),
        ("held_out", _held_out_columns(rows)),
    ):
        shown = {k: v for k, v in columns.items() if any(v)}
        tables.append(
            (
                _TITLES[title],
                ["Task", "Optimizer", "Rate", *shown],
                [[*n, *v] for n, *v in zip(names, *shown.values())],
            )
        )
    if _has_ratios(rows):
        columns, cells = _means(rows)
        tables.append((_TITLES["means"], columns, cells))
    return tables


def _training_columns(rows):
    reached = [row.steps_to_reference for row in rows]
    return {
        "Final": [_with_error(r.final_loss, r.final_error) for r in rows],
        "Mean": [_number(row.mean_loss) for row in rows],
        "Ratio": [_number(row.ratio, ".3g") for row in rows],
        "Reached": [
            "" if row.ratio is None else "never" if n is None else str(n)
            for row, n in zip(rows, reached)
        ],
        "Wall s": [_number(row.seconds_to_reference, ".3g") for row in rows],
        "CPU s": [_number(row.cpu_seconds_to_reference, ".3g") for row in rows],
    }


def _held_out_columns(rows):
    return {
        "Test": [_with_error(row.test_loss, row.test_error) for row in rows],
        "Ratio": [_number(row.test_ratio, ".3g") for row in rows],
        "Best": [_number(row.best_test_loss) for row in rows],
        "Accuracy": [_number(row.accuracy, ".4f") for row in rows],
        "Accuracy, best": [_number(row.best_accuracy, ".4f") for row in rows],
    }


def _means(rows):
    """Geometric mean, on how many tasks better, worst ratio: of both losses."""
    columns, cells = ["Optimizer"], dict[str, list[str]]()
    for figure, name in (("ratio", "Training"), ("test_ratio", "Held-out")):
        columns += [name, "Better on", "Worst"]
        for optimizer, mean in geometric_means(rows, figure).items():
            ratios = [
                getattr(r, figure) for r in rows if r.optimizer == optimizer
            ]
            better = sum(ratio < 1.0 for ratio in ratios)
            cells.setdefault(optimizer, [optimizer]).extend(
                [
                    f"{mean:.3g}",
                    f"{better} of {len(ratios)}",
                    f"{max(ratios):.3g}",
                ]
            )
    return columns, list(cells.values())


def _has_ratios(rows):
    return any(row.ratio is not None for row in rows)


def _rate(row):
    return _number(row.learning_rate, ".3g") + ("*" if row.on_border else "")


def _number(value, form=".4g"):
    return "" if value is None else format(value, form)


def _with_error(value, error):
    return f"{value:.4g}" + ("" if math.isnan(error) else f" ± {error:.2g}")


def _note(comparisons, rows, reference):
    first = comparisons[0]
    name = f"tuned {reference}" if reference == REFERENCE else reference
    of_ratios = _EXPLANATION_OF_RATIOS if _has_ratios(rows) else _NO_RATIOS
    notes = [
        _EXPLANATION.format(seeds=len(first.records_of(first.learned))),
        of_ratios.format(reference=name),
    ]
    if any(row.on_border for row in rows):
        notes.append(_ON_BORDER)
    return " ".join(notes)
