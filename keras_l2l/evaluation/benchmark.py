"""The benchmark: a learned rule against others on unseen tasks at real size."""

import dataclasses
import functools
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
    loss_ratio,
    mean_and_error,
)
from keras_l2l.tasks.benchmark_suite import SUITE, SuiteTask
from keras_l2l.tasks.small_suite import SMALL_SUITE

# By the name that the command line knows them by.
SUITES = {"standard": SUITE, "small": SMALL_SUITE}

# What all are compared with: Adam, tuned for each task.
REFERENCE = "Adam"


def run_benchmark(
    suite: Mapping[str, SuiteTask],
    optimizers: Mapping[str, OptimizerSpec],
    directory: str | os.PathLike[str],
    seeds: int = 5,
    sweep_seeds: int = 2,
    seed: int = 0,
    criterion: str = "training",
    progress: Callable[[str, int, int], Any] | None = None,
) -> list[Comparison]:
    """Trains optimizers on the tasks of a suite, and keeps each run in a file.

    So it goes on where it was stopped, and the baselines, which never change,
    are trained once.

    Args:
        suite: Dict from names to `SuiteTask`s, one of `SUITES` or a part.
        optimizers: Dict from names to `OptimizerSpec`s, the learned one
            first.
        directory: String or path. Where the runs are kept.
        seeds: Integer. Runs of each optimizer on each task.
            Defaults to `5`.
        sweep_seeds: Integer. Runs for each learning rate of a sweep.
            Defaults to `2`.
        seed: Integer, from which the seeds of all runs derive.
            Defaults to `0`.
        criterion: String: `"training"` or `"held-out"`, the loss by which
            learning rates are chosen, that of the end. Defaults to
            `"training"`.
        progress: Function `(run, done, total)`, called after each run
            that was not kept. Defaults to `None`.

    Returns:
        List of `Comparison`s, one a task.

    Raises:
        ValueError: If a kept run is damaged, or the task has changed since.

    Example:

    >>> name = "iris-raw-linear"
    >>> (comparison,) = run_benchmark(
    ...     {name: SUITES["small"][name]},
    ...     {"Adam": OptimizerSpec(lambda steps: rules.Adam())},
    ...     "runs",
    ...     seeds=1,
    ... )
    >>> summarize([comparison])[0].ratio
    1.0
    """
    plans = {
        name: Plan(
            *(task.steps, seeds, sweep_seeds, task.test_every, seed),
            criterion=criterion,
        )
        for name, task in suite.items()
    }
    counter = Progress(
        progress, sum(plan.run_count(optimizers) for plan in plans.values())
    )
    comparisons = []
    for name, plan in plans.items():
        make, place = suite[name].make, pathlib.Path(directory, name)
        if suite[name].uses_directory:
            make = functools.partial(make, place)
        comparisons.append(
            compare_optimizers(
                *(optimizers, name, make, plan, RunCache(place), counter)
            )
        )
    return comparisons


@dataclasses.dataclass(frozen=True)
class Row:
    """One optimizer on one task, as tables show it: means over the seeds.

    The *best step* of a run is that of its lowest held-out loss, which early
    stopping would keep.

    Attributes:
        task: String.
        optimizer: String.
        learning_rate: Float; `None` without a sweep.
        on_border: Boolean, see `Sweep`.
        final_loss: Float, mean training loss of the last tenth of the steps;
            infinity if a run diverged.
        final_error: Float, its standard error; NaN with one seed.
        mean_loss: Float, mean training loss of all steps.
        test_loss: Float, loss on held-out data after the last step.
        test_error: Float, its standard error; NaN with one seed.
        best_test_loss: Float, loss on held-out data at the best step; `None`
            if it was taken only once.
        accuracy: Float, on held-out data after the last step; `None` if the
            task has none.
        best_accuracy: Float, at the best step; `None` where one of the two
            above is.
        ratio: Float, the final loss over that of the reference, at least 1e-7
            each; `None` if the reference is not among the results.
        test_ratio: Float, the same of the held-out loss.
        steps_to_reference: Integer, steps until the training loss is that
            with which the reference ends; `None` if it never is.
        seconds_to_reference: Float, wall-clock time of these steps; `None` if
            it was not measured.
        cpu_seconds_to_reference: Float, processor time of these steps.
    """

    task: str
    optimizer: str
    learning_rate: float | None
    on_border: bool
    final_loss: float
    final_error: float
    mean_loss: float
    test_loss: float
    test_error: float
    best_test_loss: float | None
    accuracy: float | None
    best_accuracy: float | None
    ratio: float | None
    test_ratio: float | None
    steps_to_reference: int | None
    seconds_to_reference: float | None
    cpu_seconds_to_reference: float | None


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
        _row(comparison, optimizer, reference)
        for comparison in comparisons
        for optimizer in comparison.optimizers
    ]


def geometric_means(
    rows: Sequence[Row], figure: str = "ratio"
) -> dict[str, float]:
    """The geometric mean over the tasks of each optimizer's ratios.

    Args:
        rows: Sequence of `Row`s.
        figure: String: `"ratio"`, of the training loss, or `"test_ratio"`, of
            the held-out loss. Defaults to `"ratio"`.

    Returns:
        Dict from optimizers to floats; infinity if one diverged. Empty if
        there are no ratios.
    """
    ratios: dict[str, list[float]] = {}
    for row in rows:
        if getattr(row, figure) is not None:
            ratios.setdefault(row.optimizer, []).append(getattr(row, figure))
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


def _row(comparison, optimizer, reference):
    records = comparison.records_of(optimizer)
    losses = comparison.losses_of(optimizer)
    finals, tests = _finals(comparison, optimizer)
    final, test = float(np.mean(finals)), float(np.mean(tests))
    ratio = test_ratio = reached = None
    if reference in comparison.optimizers:
        goals = _finals(comparison, reference)
        goal, test_goal = (float(np.mean(values)) for values in goals)
        ratio = loss_ratio(final, goal)
        test_ratio = loss_ratio(test, test_goal)
        reached = steps_to(losses, goal)
    share = None if reached is None else reached / comparison.steps
    best = [r.best_step for r in records] if comparison.is_monitored else None
    return Row(
        task=comparison.task,
        optimizer=optimizer,
        learning_rate=records[0].learning_rate,
        on_border=optimizer in comparison.on_border,
        final_loss=final,
        final_error=mean_and_error(finals).standard_error,
        mean_loss=float(losses.mean()) if math.isfinite(final) else math.inf,
        test_loss=test,
        test_error=mean_and_error(tests).standard_error,
        best_test_loss=_mean(_at(best, [r.test_losses for r in records])),
        accuracy=_mean([r.test_accuracies.get(r.steps) for r in records]),
        best_accuracy=_mean(_at(best, [r.test_accuracies for r in records])),
        ratio=ratio,
        test_ratio=test_ratio,
        steps_to_reference=reached,
        seconds_to_reference=_product(
            share, _mean([r.seconds for r in records])
        ),
        cpu_seconds_to_reference=_product(
            share, _mean([r.cpu_seconds for r in records])
        ),
    )


def _finals(comparison, optimizer):
    """The training and the held-out loss at the end of each run."""
    records = comparison.records_of(optimizer)
    tests = [r.test_losses[comparison.steps] for r in records]
    return (
        [final_score(run) for run in comparison.losses_of(optimizer)],
        [test if math.isfinite(test) else math.inf for test in tests],
    )


def _at(steps, of_runs):
    """The figure of each run at a step of its own, `None` where it is not."""
    if steps is None:
        return [None]
    return [values.get(step) for values, step in zip(of_runs, steps)]


def _mean(values):
    return None if None in values else float(np.mean(values))


def _product(share, seconds):
    return None if share is None or seconds is None else share * seconds
