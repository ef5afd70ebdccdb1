"""What a comparison of optimizers found: records, summaries, files."""

import csv
import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_l2l.evaluation.learning_rate_sweep import Sweep
from keras_l2l.evaluation.statistics import (
    Difference,
    MeanAndError,
    diverged,
    has_exploded,
    mean_and_error,
    paired_difference,
)
from keras_l2l.serialization.atomic_write import atomic_file

CSV_COLUMNS = (
    "task",
    "optimizer",
    "learning_rate",
    "seed",
    "step",
    "loss",
    "test_loss",
)


@dataclasses.dataclass(frozen=True)
class Record:
    """One training run of one optimizer.

    Attributes:
        task: String, the name of the task.
        optimizer: String.
        learning_rate: Float, the tuned one; `None` without a sweep.
        seed: Integer, the episode's seed. Runs of one seed have the same
            initialisation and the same batches.
        losses: Tuple of `steps + 1` floats: the loss before each update and
            after the last, each on the batch of that step.
        test_losses: Dict from steps to the loss on held-out data after them.
        test_accuracies: Dict from steps to the accuracy on held-out data;
            empty if the task has none.
        seconds: Float. Wall-clock time of the steps; `None` if not measured.
        cpu_seconds: Float. Processor time of the steps; `None` if not
            measured.
    """

    task: str
    optimizer: str
    learning_rate: float | None
    seed: int
    losses: tuple[float, ...]
    test_losses: dict[int, float]
    test_accuracies: dict[int, float] = dataclasses.field(default_factory=dict)
    seconds: float | None = None
    cpu_seconds: float | None = None

    @property
    def steps(self) -> int:
        """The number of updates."""
        return len(self.losses) - 1

    @property
    def final_loss(self) -> float:
        """The loss after the last update."""
        return self.losses[-1]

    @property
    def best_step(self) -> int:
        """The step of the lowest held-out loss, where training could stop."""
        finite = {k: v for k, v in self.test_losses.items() if v == v}
        return min(finite or self.test_losses, key=self.test_losses.__getitem__)

    @property
    def diverged(self) -> bool:
        """Whether a loss is not finite, or the final or a test loss exploded.

        See `statistics.has_exploded`.
        """
        test_losses = list(self.test_losses.values())
        return diverged(self.losses) or bool(
            has_exploded(test_losses, self.losses[0]).any()
        )

    def to_dict(self) -> dict[str, Any]:
        """Converts it to a dict for JSON.

        Returns:
            Dict, in which non-finite losses are `None`, without the times,
            which differ each time.
        """
        document = {
            **dataclasses.asdict(self),
            "final_loss": self.final_loss,
            "diverged": self.diverged,
        }
        for key in ("seconds", "cpu_seconds"):
            del document[key]
        return to_json(document)


@dataclasses.dataclass(frozen=True)
class Summary:
    """All runs of one optimizer.

    Attributes:
        optimizer: String.
        learning_rate: Float; `None` without a sweep.
        runs: Integer.
        diverged: Integer, how many of the runs diverged.
        final_loss: `MeanAndError` of the loss after the last update.
        mean_loss: `MeanAndError` of the mean of all losses of a run.
        test_losses: Dict from steps to `MeanAndError`s.
        final_loss_difference: `Difference` to the learned rule; `None` for
            the learned rule itself.
        test_loss_differences: Dict from steps to `Difference`s; empty for the
            learned rule itself.
    """

    optimizer: str
    learning_rate: float | None
    runs: int
    diverged: int
    final_loss: MeanAndError
    mean_loss: MeanAndError
    test_losses: dict[int, MeanAndError]
    final_loss_difference: Difference | None
    test_loss_differences: dict[int, Difference]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The runs of several optimizers on one task.

    Attributes:
        task: String, the name of the task.
        learned: String, the name of the learned rule, with which the others
            are compared.
        steps: Integer, inner steps of a run.
        seed: Integer, from which the seeds of all runs derive.
        selection: String, how learning rates were chosen.
        sweeps: Tuple of `Sweep`s, one for each optimizer that was tuned.
        records: Tuple of `Record`s, one for each optimizer and seed, those of
            the learned rule first.
    """

    task: str
    learned: str
    steps: int
    seed: int
    selection: str
    sweeps: tuple[Sweep, ...]
    records: tuple[Record, ...]

    @property
    def optimizers(self) -> tuple[str, ...]:
        """The names, that of the learned rule first."""
        return tuple(dict.fromkeys(r.optimizer for r in self.records))

    @property
    def is_monitored(self) -> bool:
        """Whether the loss on held-out data was taken more than once."""
        return len(self.records[0].test_losses) > 1

    @property
    def on_border(self) -> set[str]:
        """The optimizers whose best rate is the last that was tried."""
        return {s.optimizer for s in self.sweeps if s.on_border}

    def records_of(self, optimizer: str) -> list[Record]:
        """Lists the runs of one optimizer.

        Args:
            optimizer: String, one of `optimizers`.

        Returns:
            List of `Record`s, in the same order of seeds for each optimizer.
        """
        return [r for r in self.records if r.optimizer == optimizer]

    def losses_of(self, optimizer: str) -> np.ndarray:
        """The training losses of one optimizer.

        Args:
            optimizer: String, one of `optimizers`.

        Returns:
            Array `[S, steps + 1]`, one row a seed.
        """
        return np.array([r.losses for r in self.records_of(optimizer)])

    def summaries(self) -> list[Summary]:
        """The statistics of each optimizer.

        Returns:
            List of `Summary`s, that of the learned rule first.
        """
        return [self._summary(optimizer) for optimizer in self.optimizers]

    def to_dict(self) -> dict[str, Any]:
        """Converts it to a dict for JSON.

        Returns:
            Dict, with the summaries; non-finite numbers are `None`.
        """
        return to_json(
            {
                **dataclasses.asdict(self),
                "summaries": self.summaries(),
                "records": [record.to_dict() for record in self.records],
            }
        )

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Writes all of it as strict JSON.

        Args:
            path: String or path of the file.
        """
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
        with atomic_file(path) as file:
            file.write(f"{text}\n".encode())

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes one row for each optimizer, seed and step.

        The columns are `CSV_COLUMNS`. The learning rate of the learned rule
        is empty, and so is the test loss at a step where none was taken.
        Losses that are not finite are `nan` or `inf`.

        Args:
            path: String or path of the file.
        """
        with open(path, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(CSV_COLUMNS)
            for r in self.records:
                writer.writerows(
                    (
                        *(r.task, r.optimizer, r.learning_rate, r.seed),
                        *(step, loss, r.test_losses.get(step)),
                    )
                    for step, loss in enumerate(r.losses)
                )

    def _summary(self, optimizer):
        records = self.records_of(optimizer)
        learned = self.records_of(self.learned)
        is_learned = optimizer == self.learned
        steps = list(records[0].test_losses)

        def difference(loss_of):
            return paired_difference(
                _of_runs(records, loss_of), _of_runs(learned, loss_of)
            )

        return Summary(
            optimizer=optimizer,
            learning_rate=records[0].learning_rate,
            runs=len(records),
            diverged=sum(r.diverged for r in records),
            final_loss=mean_and_error(_of_runs(records, _final_loss)),
            mean_loss=mean_and_error(
                _of_runs(records, lambda r: float(np.mean(r.losses)))
            ),
            test_losses={
                step: mean_and_error(_of_runs(records, _test_loss(step)))
                for step in steps
            },
            final_loss_difference=(
                None if is_learned else difference(_final_loss)
            ),
            test_loss_differences=(
                {}
                if is_learned
                else {step: difference(_test_loss(step)) for step in steps}
            ),
        )


def to_json(value: Any) -> Any:
    """Turns dataclasses into dicts and non-finite floats into `None`.

    Args:
        value: A structure of dataclasses, dicts, sequences and scalars.

    Returns:
        What `json.dumps(..., allow_nan=False)` accepts.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, np.generic):
        return to_json(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _final_loss(record: Record) -> float:
    return record.final_loss


def _test_loss(step: int) -> Callable[[Record], float]:
    return lambda record: record.test_losses[step]


def _of_runs(
    records: Sequence[Record], loss_of: Callable[[Record], float]
) -> list[float]:
    """A loss of each run, NaN where the run diverged."""
    return [math.nan if r.diverged else loss_of(r) for r in records]
