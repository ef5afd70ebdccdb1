"""The figures of a meta-training, epoch by epoch."""

import csv
import os
import pathlib

# What a validation is seen beside, and what it is called.
BASELINES = {"val_nominal": "rule as it began", "val_adam": "tuned Adam"}


def read_epochs(
    log: str | os.PathLike[str],
) -> dict[int, dict[str, float]]:
    """Reads the file of the epochs of a meta-training.

    Args:
        log: String or path of the file.

    Returns:
        Dict from the numbers of the epochs, ascending, to dicts from the names
        of columns to floats; without those that an epoch has not.

    Raises:
        ValueError: If the file has no epoch.
    """
    with pathlib.Path(log).open(newline="") as file:
        # Of an epoch that was repeated, the last line counts.
        rows = {
            int(row["epoch"]): {k: float(v) for k, v in row.items() if v}
            for row in csv.DictReader(file)
        }
    if not rows:
        raise ValueError(
            "Argument `log` must be a file with at least one epoch. "
            f"Received: log={os.fspath(log)!r}"
        )
    return dict(sorted(rows.items()))
