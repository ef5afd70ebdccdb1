"""The benchmark: a learned rule against others on unseen tasks at real size."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_l2l.evaluation.comparison import (
    Plan,
    Progress,
    compare_optimizers,
)
from keras_l2l.evaluation.optimizer_spec import OptimizerSpec
from keras_l2l.evaluation.results import Comparison
from keras_l2l.evaluation.run_cache import RunCache
from keras_l2l.evaluation.statistics import (
    final_score,
    geometric_mean,
    mean_and_error,
)

# What all are compared with: Adam, tuned for each task.
REFERENCE = "Adam"


def run_benchmark(
    suite: Mapping[str, Any],
    optimizers: Mapping[str, OptimizerSpec],
    directory: str | os.PathLike[str],
    seeds: int = 5,
    sweep_seeds: int = 2,
    seed: int = 0,
    progress: Callable[[str, int, int], Any] | None = None,
) -> list[Comparison]:
    """Trains optimizers on the tasks of a suite, and keeps each run in a file.

    So it goes on where it was stopped, and the baselines, which never change,
    are trained once.

    Args:
        suite: Dict from names to `keras_l2l.tasks.benchmark_suite.SuiteTask`s.
        optimizers: Dict from names to `OptimizerSpec`s, the learned one
            first.
        directory: String or path. Where the runs are kept.
        seeds: Integer. Runs of each optimizer on each task.
            Defaults to `5`.
        sweep_seeds: Integer. Runs for each learning rate of a sweep.
            Defaults to `2`.
        seed: Integer, from which the seeds of all runs derive.
            Defaults to `0`.
        progress: Function `(run, done, total)`, called after each run
            that was not kept. Defaults to `None`.

    Returns:
        List of `Comparison`s, one a task.

    Raises:
        ValueError: If a kept run is damaged, or the task has changed since.

    Example:

    >>> comparisons = run_benchmark(
    ...     benchmark_suite.SUITE,
    ...     {"mine": learned_spec(rule), **BENCHMARK_OPTIMIZERS},
    ...     "runs",
    ... )
    """
    plans = {
        name: Plan(task.steps, seeds, sweep_seeds, seed=seed)
        for name, task in suite.items()
    }
    counter = Progress(
        progress, sum(plan.run_count(optimizers) for plan in plans.values())
    )
    return [
        compare_optimizers(
            optimizers,
            name,
            suite[name].make,
            plan,
            RunCache(pathlib.Path(directory, name)),
            counter,
        )
        for name, plan in plans.items()
    ]


@dataclasses.dataclass(frozen=True)
class Row:
    """One optimizer on one task, as tables show it.

    Attributes:
        task: String.
        optimizer: String.
        learning_rate: Float; `None` without a sweep.
        on_border: Boolean, see `Sweep`.
        final_loss: Float, mean training loss of the last tenth of the steps;
            infinity if a run diverged.
        final_error: Float, its standard error over the seeds; NaN with one.
        mean_loss: Float, mean training loss of all steps.
        test_loss: Float, loss on held-out data after the last step.
        ratio: Float, the final loss over that of the reference; `None` if
            the reference is not among the results.
        steps_to_reference: Integer, steps until the training loss is that
            with which the reference ends; `None` if it never is.
    """

    task: str
    optimizer: str
    learning_rate: float | None
    on_border: bool
    final_loss: float
    final_error: float
    mean_loss: float
    test_loss: float
    ratio: float | None
    steps_to_reference: int | None


def summarize(
    comparisons: Sequence[Comparison], reference: str = REFERENCE
) -> list[Row]:
    """The figures of all optimizers, against one of them.

    Args:
        comparisons: Sequence of `Comparison`s.
        reference: String, the name of an optimizer.
            Defaults to `"Adam"`, tuned.

    Returns:
        List of `Row`s, task by task.
    """
    return [
        _row(comparison, optimizer, _final_loss(comparison, reference))
        for comparison in comparisons
        for optimizer in comparison.optimizers
    ]


def geometric_means(rows: Sequence[Row]) -> dict[str, float]:
    """The geometric mean over the tasks of each optimizer's ratios.

    Args:
        rows: Sequence of `Row`s.

    Returns:
        Dict from optimizers to floats; infinity if one diverged. Empty if
        there are no ratios.
    """
    ratios: dict[str, list[float]] = {}
    for row in rows:
        if row.ratio is not None:
            ratios.setdefault(row.optimizer, []).append(row.ratio)
    return {name: geometric_mean(values) for name, values in ratios.items()}


def steps_to(losses: np.ndarray, goal: float) -> int | None:
    """Counts the steps until the training loss is as low as a goal.

    The training loss is taken as the mean over the seeds and a twentieth of
    the steps.

    Args:
        losses: Array `[S, steps + 1]`.
        goal: Float.

    Returns:
        An integer; `None` if it never is.
    """
    curve = losses.mean(0)
    window = max(1, (len(curve) - 1) // 20)
    means = np.convolve(curve, np.ones(window) / window, "valid")
    reached = np.flatnonzero(means <= goal)
    return int(reached[0]) + window if len(reached) else None


def _row(comparison, optimizer, goal):
    losses = comparison.losses_of(optimizer)
    records = comparison.records_of(optimizer)
    finals = [final_score(run) for run in losses]
    final = float(np.mean(finals))
    return Row(
        task=comparison.task,
        optimizer=optimizer,
        learning_rate=records[0].learning_rate,
        on_border=optimizer in comparison.on_border,
        final_loss=final,
        final_error=mean_and_error(finals).standard_error,
        mean_loss=float(losses.mean()) if math.isfinite(final) else math.inf,
        test_loss=float(
            np.mean([r.test_losses[comparison.steps] for r in records])
        ),
        ratio=None if goal is None else final / goal,
        steps_to_reference=None if goal is None else steps_to(losses, goal),
    )


def _final_loss(comparison, optimizer):
    """Mean over the seeds; `None` if there is no such optimizer."""
    if optimizer not in comparison.optimizers:
        return None
    finals = map(final_score, comparison.losses_of(optimizer))
    return float(np.mean(list(finals)))
