"""The figures of a benchmark: training curves and the performance profile."""

import math

import numpy as np
from matplotlib.figure import Figure

from keras_l2l.evaluation.learning_rate_sweep import diverged
from keras_l2l.reports.plots import (
    decorate,
    steps_until_explosion,
    styles_of,
    to_log_scale,
)

_PANEL_SIZE = (8.6, 4.4)  # inches
_SMOOTHING = 50  # windows in a curve
_WORST_RATIO = 8.0  # where the performance profile ends
_TICKS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


def plot_task(results, learned):
    """Training curves of all optimizers on one task.

    The line is the mean over the seeds, the band goes from the lowest of them
    to the highest. Each curve is the mean over the last fiftieth of all steps
    and ends where a run explodes.

    Args:
        results: List of `keras_l2l.evaluation.benchmark.Result` of one task.
        learned: String, the name of the learned rule.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure, axes = _panel()
    optimizers = [result.optimizer for result in results]
    for style, result in zip(styles_of(optimizers, learned), results):
        curves = _smoothed(result.losses)
        steps = np.arange(curves.shape[1])
        (line,) = axes.plot(
            steps, curves.mean(0), label=_curve_label(result), **style
        )
        axes.fill_between(
            steps,
            curves.min(0),
            curves.max(0),
            color=line.get_color(),
            alpha=0.15,
            lw=0,
        )
    to_log_scale(axes)
    axes.set_xlim(0, results[0].losses.shape[1] - 1)
    axes.set_xlabel("Step")
    axes.set_ylabel("Training loss")
    seeds = len(results[0].losses)
    title = results[0].task
    if seeds > 1:
        title += f": mean of {seeds} runs, lowest to highest shaded"
    axes.set_title(title, fontsize="medium")
    _add_legend(figure)
    return figure


def plot_profile(rows, learned):
    """On what share of the tasks each optimizer is within a ratio of the best.

    Args:
        rows: List of `keras_l2l.evaluation.benchmark_summary.Row`.
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
    beyond = 2.0 * _WORST_RATIO
    for style, name in zip(styles_of(optimizers, learned), optimizers):
        ratios = sorted(
            min(row.final_loss / best[row.task], beyond)
            if math.isfinite(row.final_loss)
            else beyond
            for row in rows
            if row.optimizer == name
        )
        shares = np.arange(1, len(ratios) + 1) / len(ratios)
        axes.step(
            [1.0, *ratios, beyond],
            [0.0, *shares, shares[-1]],
            where="post",
            label=name,
            **style,
        )
    axes.set_xscale("log")
    axes.set_xlim(1.0, _WORST_RATIO)
    axes.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    axes.set_xticks([], minor=True)
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel("Final training loss over that of the best optimizer")
    axes.set_ylabel("Share of the tasks")
    _add_legend(figure)
    return figure


def _smoothed(losses):
    """`[S, T]` → means over the last steps, of fewer at the start."""
    window = max(1, losses.shape[1] // _SMOOTHING)
    losses = losses[:, : steps_until_explosion(losses, losses[:, 0])]
    sums = np.cumsum(np.pad(losses, ((0, 0), (window, 0))), axis=1)
    counts = np.minimum(np.arange(losses.shape[1]) + 1, window)
    return (sums[:, window:] - sums[:, :-window]) / counts


def _curve_label(result):
    label = result.optimizer
    if result.learning_rate is not None:
        label += f", rate {result.learning_rate:.3g}"
    lost = sum(map(diverged, result.losses))
    if lost:
        label += f", {lost} of {len(result.losses)} diverged"
    return label


def _panel():
    figure = Figure(figsize=_PANEL_SIZE, dpi=150, layout="constrained")
    axes = figure.subplots()
    decorate(axes)
    return figure, axes


def _add_legend(figure):
    """Beside the panel: ten curves leave no room within it."""
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
