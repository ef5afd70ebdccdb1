"""Plots of learning curves."""

import itertools
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from keras_l2l.evaluation.learning_rate_sweep import has_exploded

# Okabe and Ito's colours, told apart by the colour-blind, and three more; the
# line styles tell them apart in black and white.
_LEARNED: dict[str, Any] = {"color": "#D55E00", "linewidth": 2.6, "zorder": 3}
_BASELINES: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "linestyle": "--"},
    {"color": "#009E73", "linestyle": "-."},
    {"color": "#CC79A7", "linestyle": ":"},
    {"color": "#56B4E9", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    {"color": "#E69F00", "linestyle": (0, (8, 3))},
    {"color": "#000000", "linestyle": (0, (1, 3))},
    {"color": "#7F7F7F", "linestyle": (0, (3, 1, 1, 1))},
    {"color": "#8C510A", "linestyle": (0, (10, 2, 2, 2))},
    {"color": "#B8A300", "linestyle": (0, (2, 1))},
    {"color": "#0072B2"},
    {"color": "#009E73"},
    {"color": "#CC79A7"},
)
_PANEL_SIZE = (6.4, 4.4)  # inches
_MAX_COLUMNS = 3
_DPI = 150


def plot_learning_curves(comparison, path=None):
    """Draws the mean loss of each optimizer, with its standard error.

    A second panel shows the loss on held-out data where it was taken at more
    than one step. The curve of an optimizer ends where one of its runs
    explodes, and the legend says so. No global state of matplotlib changes.

    Args:
        comparison: A `keras_l2l.evaluation.results.Comparison`.
        path: String or path of the file to write; its ending gives the
            format. Defaults to `None`, no file.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> comparison = evaluation.compare(presets.load(), tasks.digits_mlp())
    >>> plot_learning_curves(comparison, "learning_curves.png")
    """
    panels = [("Loss on the batch of each step", _batch_losses)]
    if len(comparison.records[0].test_losses) > 1:
        panels.append(("Loss on held-out data", _test_losses))
    figure, axes = subplots(1, len(panels))
    axes = axes[0]
    for panel, (label, losses_of) in zip(axes, panels):
        _draw(panel, comparison, losses_of)
        panel.set_ylabel(label)
    axes[0].legend(frameon=False, fontsize="small")
    runs = len(comparison.records_of(comparison.learned))
    title = f"Training {comparison.task}"
    if runs > 1:
        title += f": mean of {runs} runs, ± 1 standard error shaded"
    figure.suptitle(title, fontsize="medium")
    if path is not None:
        figure.savefig(path)
    return figure


def plot_comparisons(comparisons, path=None):
    """Draws the learning curves of several comparisons beside each other.

    As `plot_learning_curves`, with a panel for each: the loss on the batch of
    each step.

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
    for panel, (title, comparison) in zip(axes.flat, comparisons.items()):
        _draw(panel, comparison, _batch_losses)
        panel.set_title(title, fontsize="medium")
        panel.legend(frameon=False, fontsize="x-small")
    for panel in axes[:, 0]:
        panel.set_ylabel("Loss on the batch of each step")
    if path is not None:
        figure.savefig(path)
    return figure


def plot_final_losses(panels, label, path=None):
    """Draws how good optimizers are in the end, over some property of a model.

    The loss on held-out data after the last step, mean and standard error. A
    point is missing where a run diverged.

    Args:
        panels: Dict from titles to dicts, a panel each, from numbers, the
            property, to `keras_l2l.evaluation.results.Comparison`s.
        label: String. What the property is.
        path: String or path of the file to write; its ending gives the
            format. Defaults to `None`, no file.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure, axes = subplots(1, len(panels), scale=0.8, sharey=True)
    axes = axes[0]
    for axis, (title, comparisons) in zip(axes, panels.items()):
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
    axes[0].set_ylabel(f"Held-out loss after {first.steps} steps")
    axes[0].legend(frameon=False, fontsize="small")
    if path is not None:
        figure.savefig(path)
    return figure


def subplots(rows, columns, scale=1.0, panel_size=_PANEL_SIZE, **shared):
    """A figure without any global state of matplotlib.

    Args:
        rows: Integer.
        columns: Integer.
        scale: Float, multiplies the size. Defaults to `1.0`.
        panel_size: Pair of floats, width and height of a panel, in inches.
        **shared: `sharex` and `sharey` of matplotlib.

    Returns:
        Tuple `(figure, axes)`: a `matplotlib.figure.Figure` and an array
        `[rows, columns]` of its axes.
    """
    width, height = panel_size
    figure = Figure(
        figsize=(scale * width * columns, scale * height * rows),
        dpi=_DPI,
        layout="constrained",
    )
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def styles_of(optimizers, learned):
    """How the curve of each optimizer is drawn.

    Args:
        optimizers: Sequence of names.
        learned: String, the name that stands out.

    Returns:
        List of dicts of arguments for matplotlib's lines.
    """
    styles = itertools.cycle(_BASELINES)
    return [_LEARNED if o == learned else next(styles) for o in optimizers]


def steps_until_explosion(losses, first_losses):
    """How many losses there are before the first that explodes, in any run.

    Args:
        losses: Array `[S, T]`.
        first_losses: Array `[S]`.

    Returns:
        An integer; `T` if none explodes.
    """
    exploded = has_exploded(losses, first_losses[:, np.newaxis]).any(0)
    return int(np.argmax(exploded)) if exploded.any() else losses.shape[1]


def to_log_scale(axes):
    """Makes the vertical axis of some curves logarithmic, if it can be.

    Args:
        axes: A `matplotlib.axes.Axes`.
    """
    # Without a single positive loss there is no logarithm to draw.
    if any((line.get_ydata() > 0).any() for line in axes.get_lines()):
        axes.set_yscale("log", nonpositive="mask")


def decorate(axes):
    """Gives a panel its grid and takes away what frames it.

    Args:
        axes: A `matplotlib.axes.Axes`.
    """
    axes.grid(which="both", alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _draw(axes, comparison, losses_of):
    summaries = comparison.summaries()
    styles = styles_of([s.optimizer for s in summaries], comparison.learned)
    for style, summary in zip(styles, summaries):
        steps, mean, error = _statistics(
            *losses_of(comparison.records_of(summary.optimizer))
        )
        (line,) = axes.plot(steps, mean, label=_label(summary), **style)
        # On a log axis a band cannot reach zero: it fades at the curve.
        low = np.where(mean > error, mean - error, mean)
        axes.fill_between(
            steps, low, mean + error, color=line.get_color(), alpha=0.2, lw=0
        )
    to_log_scale(axes)
    axes.set_xlim(0, comparison.steps)
    axes.set_xlabel("Step")
    decorate(axes)


def _statistics(steps, losses, first_losses):
    """`[T]`, `[S, T]`, `[S]` → steps, mean and its error, as far as sound."""
    end = steps_until_explosion(losses, first_losses)
    losses = losses[:, :end]
    error = np.zeros(end)
    if len(losses) > 1:
        error = losses.std(0, ddof=1) / np.sqrt(len(losses))
    return steps[:end], losses.mean(0), error


def _batch_losses(records):
    losses = np.array([record.losses for record in records])
    return np.arange(losses.shape[1]), losses, losses[:, 0]


def _test_losses(records):
    steps = list(records[0].test_losses)
    losses = [[record.test_losses[s] for s in steps] for record in records]
    first_losses = np.array([record.losses[0] for record in records])
    return np.array(steps), np.array(losses), first_losses


def _label(summary):
    label = summary.optimizer
    if summary.learning_rate is not None:
        label += f" (learning rate {summary.learning_rate:.3g})"
    if summary.diverged:
        label += f", {summary.diverged} of {summary.runs} runs diverged"
    return label
