"""Training runs that are kept in files, so that none is done twice."""

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_l2l.evaluation.episode_runner import Run
from keras_l2l.serialization.atomic_write import atomic_file

_MAX_BYTES = 2**26
_DAMAGES = ValueError, KeyError, TypeError, AttributeError, RecursionError
# Relative, of first losses that should be the same but for rounding.
_TOLERANCE = 1e-3


class RunCache:
    """The runs on one task, a JSON file each.

    Args:
        directory: String or path. Where the runs are kept. Defaults to
            `None`, nowhere.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None):
        self.directory = None if directory is None else pathlib.Path(directory)
        self._first_losses: dict[int, tuple[float, pathlib.Path]] = {}

    def load(
        self,
        optimizer: str,
        rate: float | None,
        seed: int,
        recorded: Sequence[int],
    ) -> Run | None:
        """The `Run` of this length with held-out losses at these steps.

        `None` if there is none; a `ValueError` if the file is damaged, or the
        run began otherwise than others of its seed.
        """
        if self.directory is None:
            return None
        path = self._path(optimizer, rate, seed)
        if not path.exists():
            return None
        try:
            run = _read(path)
        except _DAMAGES as error:
            raise ValueError(
                f"The run {str(path)!r} cannot be read: {error!r}. Delete it "
                "to train it again."
            ) from error
        if len(run.losses) != recorded[-1] + 1:
            return None
        if not set(recorded) <= set(run.test_losses):
            return None
        self._check_first_loss(path, seed, run)
        return run

    def save(
        self, optimizer: str, rate: float | None, seed: int, run: Run
    ) -> Run:
        """Writes a run and returns it as `load` will, rounded."""
        if self.directory is None:
            return run
        path = self._path(optimizer, rate, seed)
        document = _to_json(run)
        document["digest"] = _digest(path, document)
        with atomic_file(path) as file:
            file.write(json.dumps(document, allow_nan=False).encode())
        run = _read(path)
        self._check_first_loss(path, seed, run)
        return run

    def _path(self, optimizer, rate, seed):
        name = f"{seed}" if rate is None else f"{rate:.3g}-{seed}"
        return self.directory / optimizer / f"{name}.json"

    def _check_first_loss(self, path, seed, run):
        """All runs of a seed have one initialisation and one first batch."""
        loss = run.losses[0]
        expected, other = self._first_losses.setdefault(seed, (loss, path))
        if not np.isclose(loss, expected, _TOLERANCE, 0.0, equal_nan=True):
            raise ValueError(
                f"The runs {str(other)!r} and {str(path)!r} have one task and "
                "one seed, so they should begin with one loss. Received: "
                f"{expected:.7g} and {loss:.7g}. The task has changed since "
                "one of them was trained. Delete the directory of that one, "
                f"or all of {str(self.directory)!r}, to train it again."
            )


def _to_json(run):
    return {
        "losses": [_rounded(loss) for loss in run.losses],
        "test_losses": {k: _rounded(v) for k, v in run.test_losses.items()},
        "test_accuracies": {
            step: _rounded(value) for step, value in run.test_accuracies.items()
        },
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
    }


def _digest(path, document):
    """The SHA-256 of what a file holds and of the run that it is named for."""
    # As it is read back: the keys of JSON are strings.
    document = json.loads(json.dumps(document))
    document.pop("digest", None)
    text = json.dumps([path.parent.name, path.name, document], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: pathlib.Path) -> Run:
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise ValueError(f"{size} bytes, more than {_MAX_BYTES}")
    document = json.loads(path.read_text(encoding="utf-8"))
    # Files of earlier versions have no digest.
    if "digest" in document and document["digest"] != _digest(path, document):
        raise ValueError("it was changed, or moved from that of another run")
    losses = np.array([_float(loss) for loss in document["losses"]], "float64")
    steps = len(losses) - 1
    if "test_loss" in document:  # Once only that of the last step was kept.
        return Run(losses, {steps: _float(document["test_loss"])}, {})
    test_losses, test_accuracies = (
        {int(step): _float(value) for step, value in document[key].items()}
        for key in ("test_losses", "test_accuracies")
    )
    if max(test_losses, default=None) != steps:
        raise ValueError(f"{steps} steps, but not the held-out loss after them")
    return Run(
        losses,
        test_losses,
        test_accuracies,
        *(_float(document[key]) for key in ("seconds", "cpu_seconds")),
    )


def _rounded(loss: float) -> float | None:
    """Seven digits, as many as float32 has; `None` for what is no number."""
    return float(f"{loss:.7g}") if math.isfinite(loss) else None


def _float(value: Any) -> float:
    if value is None:
        return math.nan
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"expected a finite number or null, got {value!r}")
    return float(value)
