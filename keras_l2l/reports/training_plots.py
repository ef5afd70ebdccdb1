"""What an optimizer did to each tensor, as a figure."""

import os
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from keras_l2l.reports.axes import decorate, styles_of, subplots

if TYPE_CHECKING:
    from keras_l2l.reports.training_monitor import TrainingMonitor

_MOST_CURVES = 10  # in a panel
_PANELS = {
    "step_size": "Step size (root mean square)",
    "signal": "Share of signal",
    "orthogonalized": "Orthogonalised share",
}


def plot_training(
    monitor: "TrainingMonitor", path: str | os.PathLike[str] | None = None
) -> Figure:
    """Draws what a `TrainingMonitor` recorded.

    A panel for each figure, with a curve for each of the first ten tensors, and
    one for the guard.

    Args:
        monitor: A `TrainingMonitor` that has seen a training.
        path: String or path of the file to write; its ending gives the
            format. Defaults to `None`, no file.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    known = {name for curves in monitor.tensors.values() for name in curves}
    panels = [name for name in _PANELS if name in known]
    count = len(panels) + bool(monitor.interventions)
    figure, axes = subplots(1, count, scale=0.8)
    for panel, name in zip(axes[0], panels):
        _draw(panel, monitor, name)
    if monitor.interventions:
        for name, values in monitor.interventions.items():
            axes[0, -1].step(monitor.steps, values, where="post", label=name)
        axes[0, -1].set_ylabel("Interventions of the guard")
    for panel in axes[0]:
        panel.set_xlabel("Step")
        panel.legend(frameon=False, fontsize="x-small")
        decorate(panel)
    if path is not None:
        figure.savefig(path)
    return figure


def _draw(panel: Any, monitor: "TrainingMonitor", name: str) -> None:
    """One curve for each tensor, of the first ten."""
    curves = {
        path: figures[name]
        for path, figures in monitor.tensors.items()
        if name in figures
    }
    shown = list(curves)[:_MOST_CURVES]
    for path, style in zip(shown, styles_of(shown, "")):
        values = curves[path]
        panel.plot(monitor.steps[-len(values) :], values, label=path, **style)
    panel.set_ylabel(_PANELS[name])
    if name == "step_size":
        if any(value > 0 for values in curves.values() for value in values):
            panel.set_yscale("log", nonpositive="mask")
    else:
        panel.set_ylim(0, 1.05)
