"""What all figures share: their size, grid, styles and curves."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_l2l.evaluation.statistics import has_exploded

# Okabe and Ito's colours, told apart by the colour-blind, and three more; the
# line styles tell them apart in black and white.
_LEARNED: dict[str, Any] = {"color": "#D55E00", "linewidth": 2.6, "zorder": 3}
_COLORS = (
    *("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"),
    *("#000000", "#7F7F7F", "#8C510A", "#B8A300"),
)
_LINES: tuple[Any, ...] = (
    *("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)), (0, (1, 3))),
    *((0, (3, 1, 1, 1)), (0, (10, 2, 2, 2)), (0, (2, 1)), "-"),
)
_PANEL_SIZE = (6.4, 4.4)  # inches
_DPI = 150


class Curve(NamedTuple):
    """A curve over the steps and the band around it.

    Attributes:
        steps: Array `[T]`.
        center: Array `[T]`, the line.
        low: Array `[T]`, the lower edge of the band.
        high: Array `[T]`, the upper edge.
    """

    steps: np.ndarray
    center: np.ndarray
    low: np.ndarray
    high: np.ndarray


def subplots(
    rows: int,
    columns: int,
    scale: float = 1.0,
    panel_size: tuple[float, float] = _PANEL_SIZE,
    **shared: Any,
) -> tuple[Figure, np.ndarray]:
    """Makes a figure without any global state of matplotlib.

    `scale` multiplies its size, `panel_size` is in inches; `sharex` and
    `sharey` are those of matplotlib. The axes are an array `[rows, columns]`.
    """
    width, height = panel_size
    figure = Figure(
        figsize=(scale * width * columns, scale * height * rows),
        dpi=_DPI,
        layout="constrained",
    )
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def styles_of(optimizers: Sequence[str], learned: str) -> list[dict[str, Any]]:
    """Chooses the arguments of matplotlib's line for each optimizer.

    The learned one stands out; up to ninety others all differ.
    """
    styles = (
        {"color": color, "linestyle": line}
        for color, line in zip(
            itertools.cycle(_COLORS), itertools.cycle(_LINES)
        )
    )
    return [_LEARNED if o == learned else next(styles) for o in optimizers]


def draw_curve(
    axes: Axes, curve: Curve, label: str, style: dict[str, Any], alpha: float
) -> None:
    """Draws a curve in a style of `styles_of`, and its band."""
    (line,) = axes.plot(curve.steps, curve.center, label=label, **style)
    axes.fill_between(
        curve.steps,
        curve.low,
        curve.high,
        color=line.get_color(),
        alpha=alpha,
        lw=0,
    )


def steps_until_explosion(losses: np.ndarray, first_losses: np.ndarray) -> int:
    """Counts the losses `[S, T]` before the first that explodes, in any run."""
    exploded = has_exploded(losses, first_losses[:, np.newaxis]).any(0)
    return int(np.argmax(exploded)) if exploded.any() else losses.shape[1]


def finish(axes: Axes, steps: int, label: str) -> None:
    """Gives a panel of curves its scales, labels and grid."""
    # Without a single positive loss there is no logarithm to draw.
    if any(np.any(np.array(x.get_ydata()) > 0) for x in axes.get_lines()):
        axes.set_yscale("log", nonpositive="mask")
    axes.set_xlim(0, steps)
    axes.set_xlabel("Step")
    axes.set_ylabel(label)
    decorate(axes)


def decorate(axes: Axes) -> None:
    """Gives a panel its grid and removes the frame at its top and right."""
    axes.grid(which="both", alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
