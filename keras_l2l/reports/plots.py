"""Plots of learning curves."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from keras_l2l.evaluation.results import Comparison
from keras_l2l.evaluation.statistics import standard_error
from keras_l2l.reports.axes import (
    Curve,
    decorate,
    draw_curve,
    finish,
    steps_until_explosion,
    styles_of,
    subplots,
)

_MAX_COLUMNS = 3
# A batch loss is shown as the mean of the last fiftieth of all steps.
_WINDOWS = 50


def plot_learning_curves(
    comparison: Comparison, path: str | os.PathLike[str] | None = None
) -> Figure:
    """Draws the mean loss of each optimizer, with its standard error.

    Of a hundred steps or more, the loss of a step is the mean of the last
    fiftieth of them, as batches differ. A second panel shows the loss on
    held-out data where it was taken at more than one step. The curve of an
    optimizer ends where one of its runs explodes, and the legend says so. No
    global state of matplotlib changes.

    Args:
        comparison: A `keras_l2l.evaluation.Comparison`.
        path: String or path of the file to write; its ending gives the
            format. Defaults to `None`, no file.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> comparison = keras_l2l.evaluation.compare(
    ...     rule, task, steps=5, seeds=2, baselines={}
    ... )
    >>> figure = plot_learning_curves(comparison, "learning_curves.png")
    """
    panels = [(_batch_label(comparison), _batch_losses)]
    if comparison.is_monitored:
        panels.append(("Loss on held-out data", _test_losses))
    figure, axes = subplots(1, len(panels))
    for panel, (label, losses_of) in zip(axes[0], panels):
        _draw(panel, comparison, losses_of, label)
    axes[0, 0].legend(frameon=False, fontsize="small")
    runs = len(comparison.records_of(comparison.learned))
    title = f"Training {comparison.task}"
    if runs > 1:
        title += f": mean of {runs} runs, ± 1 standard error shaded"
    figure.suptitle(title, fontsize="medium")
    return _saved(figure, path)


def plot_comparisons(
    comparisons: Mapping[str, Comparison],
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draws the learning curves of several comparisons beside each other.

    As `plot_learning_curves`, with a panel for each: the loss on the batches.

    Args:
        comparisons: Dict from titles to `keras_l2l.evaluation.Comparison`s.
        path: String or path of the file to write; its ending gives the
            format. Defaults to `None`, no file.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    columns = min(len(comparisons), _MAX_COLUMNS)
    rows = -(-len(comparisons) // columns)
    figure, axes = subplots(rows, columns, scale=0.8)
    for panel in axes.flat[len(comparisons) :]:
        panel.remove()
    for index, (title, comparison) in enumerate(comparisons.items()):
        panel = axes.flat[index]
        label = "" if index % columns else _batch_label(comparison)
        _draw(panel, comparison, _batch_losses, label)
        panel.set_title(title, fontsize="medium")
        panel.legend(frameon=False, fontsize="x-small")
    return _saved(figure, path)


def plot_final_losses(
    panels: Mapping[str, Mapping[Any, Comparison]],
    label: str,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draws how good optimizers are in the end, over some property of a model.

    The loss on held-out data after the last step, mean and standard error. A
    point is missing where a run diverged.

    Args:
        panels: Dict from titles to dicts, a panel each, from numbers, the
            property, to `keras_l2l.evaluation.Comparison`s.
        label: String. What the property is.
        path: String or path of the file to write; its ending gives the
            format. Defaults to `None`, no file.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure, axes = subplots(1, len(panels), scale=0.8, sharey=True)
    for axis, (title, comparisons) in zip(axes[0], panels.items()):
        summaries = [c.summaries() for c in comparisons.values()]
        first = next(iter(comparisons.values()))
        styles = styles_of(first.optimizers, first.learned)
        for style, of_one in zip(styles, zip(*summaries)):
            losses = [s.test_losses[first.steps] for s in of_one]
            axis.errorbar(
                np.array(list(comparisons)),
                np.array([loss.mean for loss in losses]),
                np.array([loss.standard_error for loss in losses]),
                label=of_one[0].optimizer,
                marker="o",
                markersize=3,
                **style,
            )
        axis.set_title(title, fontsize="medium")
        axis.set_xlabel(label)
        axis.set_yscale("log")
        decorate(axis)
    axes[0, 0].set_ylabel(f"Held-out loss after {first.steps} steps")
    axes[0, 0].legend(frameon=False, fontsize="small")
    return _saved(figure, path)


def _draw(axes, comparison, losses_of, label):
    summaries = comparison.summaries()
    styles = styles_of(comparison.optimizers, comparison.learned)
    for style, summary in zip(styles, summaries):
        records = comparison.records_of(summary.optimizer)
        curve = _mean_curve(records, *losses_of(records))
        draw_curve(axes, curve, _label(summary), style, alpha=0.2)
    finish(axes, comparison.steps, label)


def _mean_curve(records, steps, losses):
    """`[T]`, `[S, T]` → the mean and its standard error, as far as sound."""
    first_losses = np.array([record.losses[0] for record in records])
    end = steps_until_explosion(losses, first_losses)
    losses = losses[:, :end]
    mean = losses.mean(0)
    error = standard_error(losses) if len(losses) > 1 else np.zeros(end)
    # On a log axis a band cannot reach zero: it fades at the curve.
    low = np.where(mean > error, mean - error, mean)
    return Curve(steps[:end], mean, low, mean + error)


def _batch_losses(records):
    """Running means, as the noise of single batches hides what differs."""
    losses = np.array([record.losses for record in records])
    steps = np.arange(losses.shape[1])
    window = _window(len(steps) - 1)
    means = [
        losses[:, max(0, step + 1 - window) : step + 1].mean(1)
        for step in steps
    ]
    return steps, np.stack(means, axis=1)


def _batch_label(comparison):
    window = _window(comparison.steps)
    if window == 1:
        return "Loss on the batch of each step"
    return f"Loss on batches, mean of {window} steps"


def _window(steps):
    return max(1, steps // _WINDOWS)


def _test_losses(records):
    steps = list(records[0].test_losses)
    losses = [[record.test_losses[s] for s in steps] for record in records]
    return np.array(steps), np.array(losses)


def _label(summary):
    label = summary.optimizer
    if summary.learning_rate is not None:
        label += f" (learning rate {summary.learning_rate:.3g})"
    if summary.diverged:
        label += f", {summary.diverged} of {summary.runs} runs diverged"
    return label


def _saved(figure, path):
    if path is not None:
        figure.savefig(path)
    return figure
