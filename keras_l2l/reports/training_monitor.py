"""What an optimizer does to each tensor while it trains a model."""

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_l2l import checks, reports
from keras_l2l.optimizers import L2LOptimizer
from keras_l2l.reports.tensorboard import summary_writer


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
        if path is not None:
            reports.needs_figures()  # before the training, not after it
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
            reports.plot_training(self, self._path)

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


def _inner(optimizer: Any) -> Any:
    """The optimizer inside a `LossScaleOptimizer`."""
    return getattr(optimizer, "inner_optimizer", optimizer)
