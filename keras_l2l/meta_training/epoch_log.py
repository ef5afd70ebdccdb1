"""A file with a line for each epoch of a meta-training."""

import csv
import os

import keras

COLUMNS = (
    *("epoch", "loss", "val_loss", "val_loss_standard_error"),
    *("diverged", "inner_steps_per_second", "learning_rate"),
    # The validation losses of the rule as it began, and of a tuned Adam.
    *("val_nominal", "val_adam"),
)


class EpochLog(keras.callbacks.Callback):
    """Appends a line to a CSV file after each epoch.

    Unlike `keras.callbacks.CSVLogger`, it takes values that only some epochs
    have, such as `val_loss`. Where a run was killed and resumed, the last line
    of an epoch counts.

    Args:
        path: A `pathlib.Path` of the file, which may exist.
    """

    def __init__(self, path):
        super().__init__()
        self._path = path

    def on_epoch_end(self, epoch, logs=None):
        self._path.parent.mkdir(parents=True, exist_ok=True)
        row = {
            **{key: logs[key] for key in COLUMNS if key in logs},
            "epoch": epoch + 1,
            "learning_rate": float(
                keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
            ),
        }
        with self._path.open("a+", newline="") as file:
            file.seek(0)
            # A run that an earlier version began has fewer columns.
            columns = next(csv.reader(file), None)
            file.seek(0, os.SEEK_END)
            writer = csv.DictWriter(
                file, columns or COLUMNS, extrasaction="ignore"
            )
            if columns is None:
                writer.writeheader()
            writer.writerow(row)
