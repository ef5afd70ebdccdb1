"""Plots of proposed updates and of updates over time."""

import os

import numpy as np
from matplotlib.figure import Figure

from keras_l2l.evaluation.proposed_updates import Proposals, UpdateHistory
from keras_l2l.reports.axes import decorate, styles_of, subplots

_SMALL_PANEL_SIZE = (2.6, 2.2)  # inches
_FLAT_PANEL_SIZE = (5.1, 2.2)


def plot_proposed_updates(
    proposals: Proposals, path: str | os.PathLike[str] | None = None
) -> Figure:
    """Draws the update that each rule proposes against the gradient.

    A row of panels for each coordinate, a column for each step. A thin line
    marks the gradient that training had there.

    Args:
        proposals: A `keras_l2l.evaluation.Proposals`.
        path: String or path of the file to write; its ending gives the
            format. Defaults to `None`, no file.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    rows, columns = proposals.seen.shape
    figure, axes = subplots(
        rows, columns, panel_size=_SMALL_PANEL_SIZE, sharex="row", sharey="row"
    )
    styles = styles_of(proposals.rules, proposals.rules[0])
    for (row, column), panel in np.ndenumerate(axes):
        for style, name, updates in zip(
            styles, proposals.rules, proposals.updates[:, row, column]
        ):
            panel.plot(proposals.gradients[row], updates, label=name, **style)
        panel.axvline(
            proposals.seen[row, column], color="0.6", linewidth=0.8, zorder=0
        )
        panel.ticklabel_format(scilimits=(-2, 3))
        decorate(panel)
    for panel, step in zip(axes[0], proposals.steps):
        panel.set_title(f"after step {step}", fontsize="medium")
    for panel, (parameter, index) in zip(axes[:, 0], proposals.coordinates):
        panel.set_ylabel(f"Update\n(parameter {parameter}, no. {index})")
    for panel in axes[-1]:
        panel.set_xlabel("Gradient")
    axes[0, 0].legend(frameon=False, fontsize="small")
    if path is not None:
        figure.savefig(path)
    return figure


def plot_update_history(
    history: UpdateHistory, path: str | os.PathLike[str] | None = None
) -> Figure:
    """Draws the updates of each rule over time, under the gradients.

    A column of panels for each coordinate.

    Args:
        history: A `keras_l2l.evaluation.UpdateHistory`.
        path: String or path of the file to write; its ending gives the
            format. Defaults to `None`, no file.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure, panels = subplots(
        2, len(history.coordinates), panel_size=_FLAT_PANEL_SIZE, sharex=True
    )
    columns = panels.T
    styles = styles_of(history.rules, history.rules[0])
    for index, (above, below) in enumerate(columns):
        above.plot(history.gradients[index], color="0.4")
        for style, name, updates in zip(styles, history.rules, history.updates):
            below.plot(updates[index], label=name, **style)
        parameter, coordinate = history.coordinates[index]
        above.set_title(
            f"Parameter {parameter}, no. {coordinate}", fontsize="medium"
        )
        below.set_xlabel("Step")
        for panel in (above, below):
            panel.ticklabel_format(axis="y", scilimits=(-2, 3))
            decorate(panel)
    columns[0, 0].set_ylabel("Gradient")
    columns[0, 1].set_ylabel("Update")
    columns[0, 1].legend(frameon=False, fontsize="small")
    if path is not None:
        figure.savefig(path)
    return figure
