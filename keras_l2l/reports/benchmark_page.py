"""What a benchmark found: tables, figures, and one page with both."""

import base64
import html
import io
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

_EXPLANATION = (
    "Final: mean training loss of the last tenth of the steps, mean ± standard "
    "error over {seeds} seeds. Mean: of all steps. Test: on held-out data "
    "after the last step."
)
_EXPLANATION_OF_RATIOS = (
    f"Ratio: the final loss over that of tuned {REFERENCE}, below one is "
    "better. Reached: steps until the loss with which tuned "
    f"{REFERENCE} ends."
)
_NO_RATIOS = (
    f"There are no ratios, as tuned {REFERENCE}, to which they would be, is "
    "not among the optimizers."
)
_ON_BORDER = "*: the best rate lies on the border of the grid."
_COLUMNS = ("Task", "Optimizer", "Rate", "Final", "Mean", "Test")
_COLUMNS_OF_RATIOS = ("Ratio", "Reached")
_MEAN_COLUMNS = ("Optimizer", "Geometric mean", "Better on", "Worst ratio")
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em;
  padding: 0 1em; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: .15em .7em; text-align: right; }}
td:first-child, th:first-child {{ text-align: left; }}
th {{ border-bottom: 1px solid #888; }}
tr.learned {{ font-weight: bold; }}
img {{ max-width: 100%; }}
</style></head><body><h1>{title}</h1>
<p>{note}</p>{sections}</body></html>
"""


def benchmark_tables(comparisons: Sequence[Comparison]) -> list[Any]:
    """The results for the terminal.

    Args:
        comparisons: Sequence of `keras_l2l.evaluation.Comparison`s, one a
            task.

    Returns:
        List of what `rich` can print.
    """
    rows, learned = summarize(comparisons), comparisons[0].learned
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for index, name in enumerate(_columns(rows)):
        table.add_column(
            name, justify="left" if index < 2 else "right", no_wrap=True
        )
    for index, row in enumerate(rows):
        is_last = index + 1 == len(rows) or rows[index + 1].task != row.task
        table.add_row(
            *map(Text, _cells(row)),
            style="bold" if row.optimizer == learned else None,
            end_section=is_last,
        )
    note = Text(_note(comparisons, rows), style="dim")
    if not _has_ratios(rows):
        return [table, note]
    means = Table(*_MEAN_COLUMNS, box=box.SIMPLE_HEAD, pad_edge=False)
    for name, *cells in _mean_cells(rows):
        means.add_row(
            Text(name), *cells, style="bold" if name == learned else None
        )
    return [table, means, note]


def write_report(
    comparisons: Sequence[Comparison], directory: str | os.PathLike[str]
) -> list[str]:
    """Writes `benchmark.json`, `report.html` and a figure for each task.

    The page holds its figures, and loads nothing.

    Args:
        comparisons: Sequence of `keras_l2l.evaluation.Comparison`s, one a
            task.
        directory: String or path of the directory to write to.

    Returns:
        List of the names of the files.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    rows, learned = summarize(comparisons), comparisons[0].learned
    document = {"rows": rows, "geometric_means": geometric_means(rows)}
    (directory / "benchmark.json").write_text(
        json.dumps(to_json(document), indent=2, allow_nan=False) + "\n"
    )
    overview = _picture(plot_profile(rows, learned), directory / "profile.png")
    if _has_ratios(rows):
        overview = (
            _html_table(_MEAN_COLUMNS, _mean_cells(rows), learned) + overview
        )
    sections, files = ["<h2>All tasks</h2>", overview], ["profile.png"]
    for comparison in comparisons:
        task = comparison.task
        sections += [
            f"<h2>{html.escape(task)}</h2>",
            _html_table(
                _columns(rows)[1:],
                [_cells(row)[1:] for row in rows if row.task == task],
                learned,
            ),
            _picture(plot_task(comparison), directory / f"{task}.png"),
        ]
        files.append(f"{task}.png")
    page = _PAGE.format(
        title=f"Benchmark of {html.escape(learned)}",
        note=html.escape(_note(comparisons, rows)),
        sections="".join(sections),
    )
    (directory / "report.html").write_text(page, encoding="utf-8")
    return ["benchmark.json", "report.html", *files]


def _has_ratios(rows):
    return any(row.ratio is not None for row in rows)


def _columns(rows):
    return _COLUMNS + (_COLUMNS_OF_RATIOS if _has_ratios(rows) else ())


def _cells(row):
    rate = "" if row.learning_rate is None else f"{row.learning_rate:.3g}"
    error = "" if math.isnan(row.final_error) else f" ± {row.final_error:.2g}"
    cells = [
        row.task,
        row.optimizer,
        rate + ("*" if row.on_border else ""),
        f"{row.final_loss:.4g}{error}",
        f"{row.mean_loss:.4g}",
        f"{row.test_loss:.4g}",
    ]
    if row.ratio is not None:
        steps = row.steps_to_reference
        cells += [f"{row.ratio:.3f}", "never" if steps is None else str(steps)]
    return cells


def _mean_cells(rows):
    """Name, geometric mean, on how many tasks better, worst ratio."""
    cells = []
    for name, mean in geometric_means(rows).items():
        ratios = [row.ratio for row in rows if row.optimizer == name]
        better = sum(ratio < 1.0 for ratio in ratios)
        cells.append(
            [
                name,
                f"{mean:.3f}",
                f"{better} of {len(ratios)}",
                f"{max(ratios):.3f}",
            ]
        )
    return cells


def _note(comparisons, rows):
    first = comparisons[0]
    notes = [
        _EXPLANATION.format(seeds=len(first.records_of(first.learned))),
        _EXPLANATION_OF_RATIOS if _has_ratios(rows) else _NO_RATIOS,
    ]
    if any(row.on_border for row in rows):
        notes.append(_ON_BORDER)
    return " ".join(notes)


def _picture(figure, path):
    """Writes a figure to a file, and returns it as a part of the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    path.write_bytes(buffer.getvalue())
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<p><img alt="{html.escape(path.stem)}" '
        f'src="data:image/png;base64,{data}"></p>'
    )


def _html_table(head, rows, learned):
    """A table; the name of the optimizer is in its first column."""
    lines = [f"<tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>"]
    for cells in rows:
        data = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        kind = ' class="learned"' if cells[0] == learned else ""
        lines.append(f"<tr{kind}>{data}</tr>")
    return f"<table>{''.join(lines)}</table>"
