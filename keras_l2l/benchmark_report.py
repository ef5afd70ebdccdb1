"""What a benchmark found: a table, figures, and one page with both."""

import base64
import html
import io
import json
import math
import pathlib

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.table import Table
from rich.text import Text

from keras_l2l.benchmark_summary import (
    REFERENCE,
    geometric_means,
    summarize,
)
from keras_l2l.comparison import to_json
from keras_l2l.plotting import styles_of

_PANEL_SIZE = (6.4, 3.8)  # inches
_SMOOTHING = 50  # windows in a curve
_WORST_RATIO = 4.0  # where the performance profile ends
_EXPLANATION = (
    "Final: mean training loss of the last tenth of the steps, mean ± standard "
    "error over {seeds} seeds. Mean: of all steps. Test: on held-out data "
    "after the last step. Ratio: the final loss over that of tuned "
    "{reference}, below one is better. Reached: steps until the loss with "
    "which tuned {reference} ends."
)
_COLUMNS = (
    *("Task", "Optimizer", "Rate", "Final", "Mean", "Test"),
    *("Ratio", "Reached"),
)
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em;
  padding: 0 1em; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: .15em .7em; text-align: right; }}
td:nth-child(-n+2), th:nth-child(-n+2) {{ text-align: left; }}
tr.learned {{ font-weight: bold; }}
tr.first td {{ border-top: 1px solid #888; }}
img {{ max-width: 100%; }}
</style></head><body><h1>{title}</h1>
<p>{note}</p>{tables}{figures}</body></html>
"""


def benchmark_tables(results, learned):
    """The results for the terminal.

    Args:
        results: List of `keras_l2l.benchmark.Result`.
        learned: String, the name of the learned rule.

    Returns:
        List of what `rich` can print.
    """
    rows = summarize(results)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for index, name in enumerate(_COLUMNS):
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
    means = Table(
        *("Optimizer", "Geometric mean", "Better on", "Worst ratio"),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for name, *cells in _mean_cells(rows):
        means.add_row(
            Text(name), *cells, style="bold" if name == learned else None
        )
    return [table, means, Text(_note(results), style="dim")]


def write_report(results, learned, directory):
    """Writes `benchmark.json`, `report.html` and a figure for each task.

    Args:
        results: List of `keras_l2l.benchmark.Result`.
        learned: String, the name of the learned rule.
        directory: Where to.

    Returns:
        List of the names of the files.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    rows = summarize(results)
    document = {"rows": rows, "geometric_means": geometric_means(rows)}
    (directory / "benchmark.json").write_text(
        json.dumps(to_json(document), indent=2, allow_nan=False) + "\n"
    )
    figures = {"profile.png": plot_profile(rows, learned)}
    for task in dict.fromkeys(result.task for result in results):
        figures[f"{task}.png"] = plot_task(
            [result for result in results if result.task == task], learned
        )
    pictures = []
    for name, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        (directory / name).write_bytes(buffer.getvalue())
        data = base64.b64encode(buffer.getvalue()).decode()
        pictures.append(
            f'<p><img alt="{html.escape(name)}" '
            f'src="data:image/png;base64,{data}"></p>'
        )
    page = _PAGE.format(
        title=f"Benchmark of {html.escape(learned)}",
        note=html.escape(_note(results)),
        tables=_html_table(
            ("Optimizer", "Geometric mean", "Better on", "Worst ratio"),
            [
                (cells, cells[0] == learned, False)
                for cells in _mean_cells(rows)
            ],
        )
        + _html_table(
            _COLUMNS,
            [
                (
                    _cells(row),
                    row.optimizer == learned,
                    index == 0 or rows[index - 1].task != row.task,
                )
                for index, row in enumerate(rows)
            ],
        ),
        figures="".join(pictures),
    )
    (directory / "report.html").write_text(page, encoding="utf-8")
    return ["benchmark.json", "report.html", *figures]


def plot_task(results, learned):
    """Training curves of all optimizers on one task.

    Args:
        results: List of `keras_l2l.benchmark.Result` of one task.
        learned: String, the name of the learned rule.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure, axes = _panel()
    for style, result in zip(
        styles_of([r.optimizer for r in results], learned), results
    ):
        losses = result.losses
        window = max(1, losses.shape[1] // _SMOOTHING)
        kernel = np.ones(window) / window
        curve = np.convolve(losses.mean(0), kernel, "valid")
        axes.plot(
            np.arange(len(curve)) + window,
            curve,
            label=_curve_label(result),
            **style,
        )
    axes.set_yscale("log")
    axes.set_xlabel("Step")
    axes.set_ylabel("Training loss")
    axes.set_title(results[0].task, fontsize="medium")
    axes.legend(frameon=False, fontsize="small")
    return figure


def plot_profile(rows, learned):
    """On what share of the tasks each optimizer is within a ratio of the best.

    Args:
        rows: List of `keras_l2l.benchmark_summary.Row`.
        learned: String, the name of the learned rule.

    Returns:
        A `matplotlib.figure.Figure`.

    Reference:
        [Dolan and Moré, 2002](https://arxiv.org/abs/cs/0102001)
    """
    best: dict[str, float] = {}
    for row in rows:
        best[row.task] = min(best.get(row.task, math.inf), row.final_loss)
    figure, axes = _panel()
    optimizers = list(dict.fromkeys(row.optimizer for row in rows))
    for style, name in zip(styles_of(optimizers, learned), optimizers):
        ratios = np.sort(
            [r.final_loss / best[r.task] for r in rows if r.optimizer == name]
        )
        shares = np.arange(1, len(ratios) + 1) / len(ratios)
        axes.step(
            [1.0, *np.minimum(ratios, 2 * _WORST_RATIO), 2 * _WORST_RATIO],
            [0.0, *shares, shares[-1]],
            where="post",
            label=name,
            **style,
        )
    axes.set_xscale("log")
    axes.set_xlim(1.0, _WORST_RATIO)
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel("Final training loss over that of the best optimizer")
    axes.set_ylabel("Share of the tasks")
    axes.legend(frameon=False, fontsize="small")
    return figure


def _panel():
    figure = Figure(figsize=_PANEL_SIZE, dpi=150, layout="constrained")
    return figure, figure.subplots()


def _curve_label(result):
    if result.learning_rate is None:
        return result.optimizer
    return f"{result.optimizer}, rate {result.learning_rate:.3g}"


def _cells(row):
    rate = "" if row.learning_rate is None else f"{row.learning_rate:.3g}"
    error = "" if math.isnan(row.final_error) else f" ± {row.final_error:.2g}"
    return [
        row.task,
        row.optimizer,
        rate + ("*" if row.on_border else ""),
        f"{row.final_loss:.4g}{error}",
        f"{row.mean_loss:.4g}",
        f"{row.test_loss:.4g}",
        f"{row.ratio:.3f}",
        "never"
        if row.steps_to_reference is None
        else str(row.steps_to_reference),
    ]


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


def _note(results):
    note = _EXPLANATION.format(
        seeds=len(results[0].losses), reference=REFERENCE
    )
    if any(result.on_border for result in results):
        note += " *: the best rate lies on the border of the grid."
    return note


def _html_table(head, rows):
    lines = [f"<tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>"]
    for cells, is_learned, is_first in rows:
        names = " ".join(
            name
            for name, applies in (("learned", is_learned), ("first", is_first))
            if applies
        )
        data = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr class="{names}">{data}</tr>')
    return f"<table>{''.join(lines)}</table>"
