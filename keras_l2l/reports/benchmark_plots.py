"""The figures of a benchmark: training curves and the performance profile."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from keras_l2l.evaluation.benchmark import Row
from keras_l2l.evaluation.results import Comparison
from keras_l2l.evaluation.statistics import diverged, loss_ratio
from keras_l2l.reports.axes import (
    Curve,
    decorate,
    draw_curve,
    finish,
    steps_until_explosion,
    styles_of,
    subplots,
)

_PANEL_SIZE = (8.6, 4.4)  # inches
_SMOOTHING = 50  # windows in a curve
_WORST_RATIO = 8.0  # where the performance profile ends
_TICKS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


def plot_task(comparison: Comparison) -> Figure:
    """Draws the training curves of all optimizers on one task.

    The line is the mean over the seeds, the band goes from the lowest of them
    to the highest. Each curve is the mean over the last fiftieth of all steps
    and ends where a run explodes.

    Args:
        comparison: A `keras_l2l.evaluation.Comparison`.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure, ((axes,),) = subplots(1, 1, panel_size=_PANEL_SIZE)
    optimizers = comparison.optimizers
    for style, name in zip(
        styles_of(optimizers, comparison.learned), optimizers
    ):
        curves = _smoothed(comparison.losses_of(name))
        curve = Curve(
            np.arange(curves.shape[1]),
            *(curves.mean(0), curves.min(0), curves.max(0)),
        )
        draw_curve(axes, curve, _label(comparison, name), style, alpha=0.15)
    finish(axes, comparison.steps, "Training loss")
    title, seeds = comparison.task, len(comparison.losses_of(name))
    if seeds > 1:
        title += f": mean of {seeds} runs, lowest to highest shaded"
    axes.set_title(title, fontsize="medium")
    _add_legend(figure)
    return figure


def plot_profile(rows: Sequence[Row], learned: str) -> Figure:
    """Draws on what share of the tasks an optimizer is near the best.

    Near: its final training loss is within a ratio of the lowest.

    Args:
        rows: Sequence of `keras_l2l.evaluation.Row`s.
        learned: String, the name of the learned rule.

    Returns:
        A `matplotlib.figure.Figure`.

    Reference:
        [Dolan and Moré, 2002](https://arxiv.org/abs/cs/0102001)
    """
    best: dict[str, float] = {}
    for row in rows:
        best[row.task] = min(best.get(row.task, math.inf), row.final_loss)
    figure, ((axes,),) = subplots(1, 1, panel_size=_PANEL_SIZE)
    optimizers = list(dict.fromkeys(row.optimizer for row in rows))
    beyond = 2.0 * _WORST_RATIO
    for style, name in zip(styles_of(optimizers, learned), optimizers):
        ratios = sorted(
            min(loss_ratio(row.final_loss, best[row.task]), beyond)
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
    decorate(axes)
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


def _label(comparison, name):
    label, records = name, comparison.records_of(name)
    if records[0].learning_rate is not None:
        label += f", rate {records[0].learning_rate:.3g}"
    lost = sum(diverged(record.losses) for record in records)
    if lost:
        label += f", {lost} of {len(records)} diverged"
    return label


def _add_legend(figure):
    """Beside the panel: ten curves leave no room within it."""
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
