"""What a comparison of optimizers found: records, statistics, files."""

import csv
import dataclasses
import json
import math
import pathlib
from typing import Any

import numpy as np

from keras_l2l.evaluation.learning_rate_sweep import (
    Sweep,
    diverged,
    has_exploded,
)

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
        learning_rate: Float, the tuned one; `None` for the learned rule.
        seed: Integer, the episode's seed. Runs of one seed have the same
            initialisation and the same batches.
        losses: Tuple of `steps + 1` floats: the loss before each update and
            after the last, each on the batch of that step.
        test_losses: Dict from steps to the loss on held-out data after them.
    """

    task: str
    optimizer: str
    learning_rate: float | None
    seed: int
    losses: tuple[float, ...]
    test_losses: dict[int, float]

    @property
    def final_loss(self):
        """The loss after the last update."""
        return self.losses[-1]

    @property
    def diverged(self):
        """Whether a loss is not finite, or the final or a test loss exploded.

        See `learning_rate_sweep.has_exploded`.
        """
        test_losses = list(self.test_losses.values())
        return diverged(self.losses) or bool(
            has_exploded(test_losses, self.losses[0]).any()
        )

    def to_dict(self):
        """Dict for JSON: non-finite losses are `None`."""
        return to_json(
            {
                **dataclasses.asdict(self),
                "final_loss": self.final_loss,
                "diverged": self.diverged,
            }
        )


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over runs; NaN if a run diverged.

    Attributes:
        mean: Float.
        standard_error: Float, of the mean; NaN with a single run.
    """

    mean: float
    standard_error: float


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far an optimizer is above the learned rule; NaN if one diverged.

    Attributes:
        mean: Float, loss of the optimizer minus that of the learned rule:
            positive where the learned rule is better.
        paired_standard_error: Float, of the differences run by run: what the
            runs of one seed have in common cancels.
        in_paired_standard_errors: Float, the mean in units of it.
        unpaired_standard_error: Float, as if the runs had nothing in common.
        in_unpaired_standard_errors: Float, the mean in units of it.
    """

    mean: float
    paired_standard_error: float
    in_paired_standard_errors: float
    unpaired_standard_error: float
    in_unpaired_standard_errors: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """All runs of one optimizer.

    Attributes:
        optimizer: String.
        learning_rate: Float, or `None` for the learned rule.
        runs: Integer.
        diverged: Integer, how many of the runs diverged.
        final_loss: `Estimate` of the loss after the last update.
        mean_loss: `Estimate` of the mean of all losses of a run.
        test_losses: Dict from steps to `Estimate`s.
        final_loss_difference: `Difference` to the learned rule; `None` for
            the learned rule itself.
        test_loss_differences: Dict from steps to `Difference`s; empty for the
            learned rule itself.
    """

    optimizer: str
    learning_rate: float | None
    runs: int
    diverged: int
    final_loss: Estimate
    mean_loss: Estimate
    test_losses: dict[int, Estimate]
    final_loss_difference: Difference | None
    test_loss_differences: dict[int, Difference]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A learned rule and its baselines on one task.

    Attributes:
        task: String, the name of the task.
        learned: String, the name of the learned rule.
        steps: Integer, inner steps of a run.
        seed: Integer, from which the seeds of all runs derive.
        selection: String, how learning rates were chosen.
        sweeps: Tuple of `Sweep`s, one for each baseline.
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
    def optimizers(self):
        """Tuple of names, the learned rule first."""
        return tuple(dict.fromkeys(r.optimizer for r in self.records))

    def records_of(self, optimizer):
        """The runs of one optimizer.

        Args:
            optimizer: String, one of `optimizers`.

        Returns:
            List of `Record`s, in the same order of seeds for each optimizer.
        """
        return [r for r in self.records if r.optimizer == optimizer]

    def summaries(self):
        """The statistics of each optimizer.

        Returns:
            List of `Summary`s, the learned rule first.
        """
        return [self._summary(optimizer) for optimizer in self.optimizers]

    def to_dict(self):
        """Dict for JSON, with the summaries; non-finite numbers are `None`."""
        return to_json(
            {
                **dataclasses.asdict(self),
                "summaries": self.summaries(),
                "records": [record.to_dict() for record in self.records],
            }
        )

    @classmethod
    def from_dict(cls, document):
        """The inverse of `to_dict`.

        Args:
            document: Dict, as JSON gives it back.

        Returns:
            A `Comparison`. Losses that were not finite are NaN.

        Raises:
            KeyError: If something is missing.
        """
        sweeps = [
            Sweep(
                optimizer=sweep["optimizer"],
                learning_rates=tuple(sweep["learning_rates"]),
                scores=_with(math.inf, sweep["scores"]),
                best=sweep["best"],
                on_border=sweep["on_border"],
            )
            for sweep in document["sweeps"]
        ]
        records = [
            Record(
                task=record["task"],
                optimizer=record["optimizer"],
                learning_rate=record["learning_rate"],
                seed=record["seed"],
                losses=_with(math.nan, record["losses"]),
                test_losses=dict(
                    zip(
                        map(int, record["test_losses"]),
                        _with(math.nan, record["test_losses"].values()),
                    )
                ),
            )
            for record in document["records"]
        ]
        return cls(
            **{key: document[key] for key in ("task", "learned", "steps")},
            **{key: document[key] for key in ("seed", "selection")},
            sweeps=tuple(sweeps),
            records=tuple(records),
        )

    def write_json(self, path):
        """Writes all of it as strict JSON.

        Args:
            path: String or path of the file.
        """
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
        pathlib.Path(path).write_text(f"{text}\n", encoding="utf-8")

    def write_csv(self, path):
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
        final, final_of_learned = (
            _over_runs(runs, lambda r: r.final_loss)
            for runs in (records, learned)
        )
        tests, tests_of_learned = (
            {
                step: _over_runs(runs, lambda r, step=step: r.test_losses[step])
                for step in runs[0].test_losses
            }
            for runs in (records, learned)
        )
        is_learned = optimizer == self.learned
        return Summary(
            optimizer=optimizer,
            learning_rate=records[0].learning_rate,
            runs=len(records),
            diverged=sum(r.diverged for r in records),
            final_loss=estimate(final),
            mean_loss=estimate(_over_runs(records, lambda r: _mean(r.losses))),
            test_losses={k: estimate(v) for k, v in tests.items()},
            final_loss_difference=(
                None if is_learned else difference(final, final_of_learned)
            ),
            test_loss_differences=(
                {}
                if is_learned
                else {
                    step: difference(values, tests_of_learned[step])
                    for step, values in tests.items()
                }
            ),
        )


def estimate(values):
    """The mean over runs and its standard error.

    Args:
        values: Sequence of floats, one a run.

    Returns:
        An `Estimate`.
    """
    return Estimate(_mean(values), _standard_error(values))


def difference(values, reference):
    """The difference between two optimizers over the same seeds.

    Args:
        values: Sequence of floats, one a run.
        reference: Sequence of floats, of the runs of the same seeds.

    Returns:
        A `Difference`.
    """
    if not np.isfinite([*values, *reference]).all():
        return Difference(*[math.nan] * 5)
    pairs = np.subtract(values, reference)
    paired = _standard_error(pairs)
    unpaired = math.hypot(_standard_error(values), _standard_error(reference))
    mean = _mean(pairs)
    return Difference(
        mean, paired, _ratio(mean, paired), unpaired, _ratio(mean, unpaired)
    )


def to_json(value) -> Any:
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


def _with(substitute, values):
    """A tuple of floats, in which JSON has `None` for what is not finite."""
    return tuple(substitute if v is None else v for v in values)


def _over_runs(records, loss_of):
    """List of a loss of each run, NaN where the run diverged."""
    return [math.nan if r.diverged else loss_of(r) for r in records]


def _mean(values):
    values = np.asarray(values, "float64")
    return float(values.mean()) if np.isfinite(values).all() else math.nan


def _standard_error(values):
    values = np.asarray(values, "float64")
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def _ratio(mean, standard_error):
    if standard_error == 0.0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / standard_error
