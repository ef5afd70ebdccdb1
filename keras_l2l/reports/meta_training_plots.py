"""The course of a meta-training."""

import math
import os

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_l2l.reports.axes import decorate, subplots
from keras_l2l.reports.meta_training_log import BASELINES, read_epochs

_LINES = dict(zip(BASELINES, ("--", ":")))


def plot_meta_training(
    log: str | os.PathLike[str], path: str | os.PathLike[str] | None = None
) -> Figure:
    """Draws the meta-losses of a meta-training over its epochs.

    The validation loss has error bars of one standard error, where there were
    several optimizees of a task, and beside it lines for the rule as it began
    and for a tuned Adam, where they are known. A second panel has the inner
    steps a second. No global state of matplotlib changes.

    Args:
        log: String or path of the file `meta-training-N.csv` that a recipe's
            run writes, for its stage N.
        path: String or path of the file to write; its ending gives the
            format. Defaults to `None`, no file.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If the file has no epoch.

    Example:

    ```python
    figure = plot_meta_training("runs/general/meta-training-1.csv", "plot.png")
    ```
    """
    rows = read_epochs(log)
    speeds = {
        epoch: speed
        for epoch, row in rows.items()
        if (speed := row.get("inner_steps_per_second")) is not None
    }
    figure, axes = subplots(1, 1 + bool(speeds))
    _draw_losses(axes[0, 0], rows)
    if speeds:
        axes[0, 1].plot(list(speeds), list(speeds.values()), color="0.4")
        axes[0, 1].set_ylim(bottom=0)
        axes[0, 1].set_ylabel("Inner steps a second")
    for axis in axes[0]:
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel("Epoch")
        decorate(axis)
    if path is not None:
        figure.savefig(path)
    return figure


def _draw_losses(axis: Axes, rows: dict[int, dict[str, float]]) -> None:
    axis.plot(
        list(rows),
        [row["loss"] for row in rows.values()],
        color="0.6",
        label="training tasks",
    )
    validated = {epoch: row for epoch, row in rows.items() if "val_loss" in row}
    if validated:
        axis.errorbar(
            list(validated),
            [row["val_loss"] for row in validated.values()],
            [
                row.get("val_loss_standard_error", 0.0)
                for row in validated.values()
            ],
            color="#D55E00",
            marker="o",
            markersize=3,
            capsize=2,
            label="validation, ± 1 standard error",
        )
        last = list(validated.values())[-1]
        for name, label in BASELINES.items():
            if math.isfinite(last.get(name, math.nan)):
                axis.axhline(
                    last[name],
                    color="0.2",
                    linestyle=_LINES[name],
                    label=f"validation, {label}",
                )
    axis.set_ylabel("Meta-loss")
    axis.legend(frameon=False, fontsize="small")
