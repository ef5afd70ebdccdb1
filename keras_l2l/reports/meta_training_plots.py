"""The course of a meta-training."""

import csv
import os
import pathlib

from matplotlib.figure import Figure

from keras_l2l.reports.axes import decorate, subplots


def plot_meta_training(
    log: str | os.PathLike[str], path: str | os.PathLike[str] | None = None
) -> Figure:
    """Draws the meta-losses of a meta-training over its epochs.

    The validation loss has error bars of one standard error, where there were
    several optimizees of a task. No global state of matplotlib changes.

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
    with pathlib.Path(log).open(newline="") as file:
        # Of an epoch that was repeated, the last line counts.
        rows = {int(row["epoch"]): row for row in csv.DictReader(file)}
    if not rows:
        raise ValueError(
            "Argument `log` must be a file with at least one epoch. "
            f"Received: log={os.fspath(log)!r}"
        )
    epochs = sorted(rows)
    figure, axes = subplots(1, 1)
    axis = axes[0, 0]
    axis.plot(
        epochs,
        [float(rows[epoch]["loss"]) for epoch in epochs],
        color="0.6",
        label="training tasks",
    )
    validated = [epoch for epoch in epochs if rows[epoch]["val_loss"]]
    if validated:
        axis.errorbar(
            validated,
            [float(rows[epoch]["val_loss"]) for epoch in validated],
            [
                float(rows[epoch]["val_loss_standard_error"] or 0.0)
                for epoch in validated
            ],
            color="#D55E00",
            marker="o",
            markersize=3,
            capsize=2,
            label="validation, ± 1 standard error",
        )
    axis.set_xlabel("Epoch")
    axis.set_ylabel("Meta-loss")
    axis.legend(frameon=False, fontsize="small")
    decorate(axis)
    if path is not None:
        figure.savefig(path)
    return figure
