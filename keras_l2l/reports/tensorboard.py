"""Logs for TensorBoard."""

import os
import pathlib
from typing import Any

import keras
import tensorflow as tf

from keras_l2l import checks
from keras_l2l.reports.meta_training_log import BASELINES

# One curve each, in one chart.
_RUNS = {"loss": "training tasks", "val_loss": "validation", **BASELINES}
_OTHERS = ("inner_steps_per_second", "diverged")


class MetaTrainingMonitor(keras.callbacks.Callback):
    """Writes the curves of a meta-training for TensorBoard, after each epoch.

    The chart `meta_loss` has the training tasks, the validation and its
    baselines as curves of their own, so that one sees while it runs whether
    the rule has become better than it was, and better than a tuned Adam.

    Args:
        log_dir: String or path of a directory. TensorBoard needs the extra
            `keras-l2l[tensorboard]`.

    Example:

    ```python
    trainer.fit(callbacks=[MetaTrainingMonitor("logs")], ...)
    ```
    """

    def __init__(self, log_dir: str | os.PathLike[str]):
        super().__init__()
        self._log_dir = log_dir
        self._writers = {"loss": self._writer("loss")}

    def on_epoch_end(self, epoch, logs=None):
        for name in _RUNS:
            if name not in logs:
                continue
            if name not in self._writers:
                self._writers[name] = self._writer(name)
            with self._writers[name].as_default(epoch + 1):
                tf.summary.scalar("meta_loss", logs[name])
                if name == "loss":
                    for other in _OTHERS:
                        tf.summary.scalar(other, logs[other])
            self._writers[name].flush()

    def _writer(self, name):
        return summary_writer(pathlib.Path(self._log_dir, _RUNS[name]))


def summary_writer(log_dir: str | os.PathLike[str]) -> Any:
    """Opens a directory for TensorBoard.

    Args:
        log_dir: String or path.

    Returns:
        A writer of `tf.summary`.

    Raises:
        ImportError: If TensorBoard is not installed.
    """
    # `tf.summary` needs it.
    checks.import_extra("tensorboard", "tensorboard", "A log needs")
    return tf.summary.create_file_writer(str(log_dir))
