"""What an optimizer does to each tensor while it trains a model."""

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from keras_l2l import checks
from keras_l2l.optimizers import L2LOptimizer
from keras_l2l.reports.axes import decorate, styles_of, subplots
from keras_l2l.reports.tensorboard import summary_writer

_MOST_CURVES = 10  # in a panel
_PANELS = {
    "step_size": "Step size (root mean square)",
    "signal": "Share of signal",
    "orthogonalized": "Orthogonalised share",
}


class TrainingMonitor(keras.callbacks.Callback):
    """Records what the optimizer does to each tensor, for a plot and a log.

    Of each trainable variable the root mean square of its update, with any
    optimizer. With `L2LOptimizer` also what the rule tells of itself
    (`UpdateRule.diagnostics`), for the default rule how much of the gradient is
    signal and how much of the direction of a matrix is orthogonalised; and how
    often the guard has intervened.

    Args:
        every: Integer. Records each time this number of batches is done.
            Defaults to `10`.
        path: String or path of a plot that is written at the end of training;
            its ending gives the format. Defaults to `None`, no plot.
        log_dir: String or path of a directory for TensorBoard, which needs
            the extra `keras-l2l[tensorboard]`. Defaults to `None`, no log.

    Attributes:
        steps: List of integers, the optimizer's iterations at each record.
        tensors: Dict from the paths of variables to dicts from names
            (`"step_size"`, `"signal"`, `"orthogonalized"`) to lists of floats,
            one for each record.
        interventions: Dict of two lists of integers, see
            `L2LOptimizer.interventions`; empty with another optimizer.

    Example:

    >>> model.compile(keras_l2l.L2LOptimizer(rule), loss="mse")
    >>> monitor = TrainingMonitor(every=1, path="rule.png")
    >>> x, y = np.ones((4, 6, 6, 1)), np.ones((4, 3))
    >>> history = model.fit(x, y, callbacks=[monitor])
    >>> monitor.steps
    [1]
    """

    def __init__(
        self,
        every: int = 10,
        path: str | os.PathLike[str] | None = None,
        log_dir: str | os.PathLike[str] | None = None,
    ):
        super().__init__()
        self._every = checks.positive_integer(every=every)
        self._path = path
        self._writer = None if log_dir is None else summary_writer(log_dir)
        self._batches = 0
        self._before: list[np.ndarray] | None = None
        self.steps: list[int] = []
        self.tensors: dict[str, dict[str, list[float]]] = {}
        self.interventions: dict[str, list[int]] = {}

    def on_train_batch_begin(self, batch, logs=None):
        if self._batches % self._every == 0:
            self._before = self._values()
        self._batches += 1

    def on_train_batch_end(self, batch, logs=None):
        if self._before is None:
            return
        before, self._before = self._before, None
        optimizer = _inner(self.model.optimizer)
        found: dict[str, dict[str, float]] = {}
        counts = {}
        if isinstance(optimizer, L2LOptimizer):
            found, counts = optimizer.diagnostics(), optimizer.interventions
        self.steps.append(int(optimizer.iterations.numpy()))
        for variable, old, new in zip(
            self.model.trainable_variables, before, self._values()
        ):
            size = (
                float(np.sqrt(np.mean(np.square(new - old)))) if old.size else 0
            )
            figures = {"step_size": size, **found.get(variable.path, {})}
            for name, value in figures.items():
                curves = self.tensors.setdefault(variable.path, {})
                curves.setdefault(name, []).append(value)
        for name, count in counts.items():
            self.interventions.setdefault(name, []).append(count)
        self._log()

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.flush()
        if self._path is not None and self.steps:
            plot_training(self, self._path)

    def _values(self):
        return [
            keras.ops.convert_to_numpy(keras.ops.cast(v, "float32"))
            for v in self.model.trainable_variables
        ]

    def _log(self):
        if self._writer is None:
            return
        with self._writer.as_default(self.steps[-1]):
            for path, curves in self.tensors.items():
                for name, values in curves.items():
                    tf.summary.scalar(f"{name}/{path}", values[-1])
            for name, counts in self.interventions.items():
                tf.summary.scalar(f"guard/{name}", counts[-1])


def plot_training(
    monitor: TrainingMonitor, path: str | os.PathLike[str] | None = None
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


def _draw(panel: Any, monitor: TrainingMonitor, name: str) -> None:
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


def _inner(optimizer: Any) -> Any:
    """The optimizer inside a `LossScaleOptimizer`."""
    return getattr(optimizer, "inner_optimizer", optimizer)
