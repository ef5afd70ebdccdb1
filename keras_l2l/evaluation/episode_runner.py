"""The training of optimizees by a rule, with their losses."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_l2l import checks
from keras_l2l.inner_loop.episode import start, unpack
from keras_l2l.inner_loop.unroll import compile_unroll
from keras_l2l.rules import UpdateRule
from keras_l2l.tasks import Task


class Run(NamedTuple):
    """What is measured of one training run.

    Attributes:
        losses: Array `[steps + 1]`: the loss before each update and after the
            last, each on the batch of that step.
        test_losses: Dict from steps to the loss on held-out data after them.
        test_accuracies: Dict from steps to the accuracy on held-out data;
            empty if the task has none.
        seconds: Float. Wall-clock time of the steps, without that of the
            held-out data and of building the graph.
        cpu_seconds: Float. Processor time of the same.
    """

    losses: np.ndarray
    test_losses: dict[int, float]
    test_accuracies: dict[int, float]
    seconds: float | None = None
    cpu_seconds: float | None = None


class EpisodeRunner:
    """Trains optimizees of a task by a rule, with one graph for all seeds.

    The learning rate of a rule is a variable, so a sweep keeps the graph.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`.
    """

    def __init__(self, rule: UpdateRule, task: Task):
        self.rule = rule
        self.task = task
        self._unroll = compile_unroll(rule, task)
        self._is_traced = False

    def run(self, seed: int, recorded: Sequence[int]) -> Run:
        """Trains an optimizee, and looks at held-out data at some steps."""
        carry = start(self.rule, self.task, seed)
        if not self._is_traced:
            self._unroll(carry, 0)
            self._is_traced = True
        losses, times = [], np.zeros(2)
        tests: dict[str, dict[int, float]] = {"loss": {}, "accuracy": {}}
        for length, step in zip(np.diff([0, *recorded]).tolist(), recorded):
            begin = _times()
            carry, part = self._unroll(carry, length)
            *before, last = part.losses.numpy().astype("float64")
            times += _times() - begin
            losses += before  # The last is the first of the next part.
            for name, value in self._test(carry).items():
                tests.setdefault(name, {})[step] = float(value)
        return Run(
            np.array([*losses, last]),
            *(tests["loss"], tests["accuracy"]),
            *times.tolist(),
        )

    def _test(self, carry):
        parameters = self.rule.evaluation_parameters(
            carry.parameters, carry.rule_state
        )
        parameters = unpack(self.rule, self.task, parameters)
        return self.task.test_metrics(parameters, carry.model_state)


class LearningCurves(NamedTuple):
    """Training runs of one rule, one for each seed.

    Attributes:
        losses: Array `[S, steps + 1]`, before each update and after the last,
            each on the batch of that step.
        test_losses: Array `[S, n]`, on held-out data, at the `n` steps of
            `recorded_steps(steps, test_every)`.
    """

    losses: np.ndarray
    test_losses: np.ndarray


def learning_curves(
    rule: UpdateRule,
    task: Task,
    seeds: Sequence[int],
    steps: int,
    test_every: int | None = None,
) -> LearningCurves:
    """Trains an optimizee for each seed and returns its losses.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`.
        seeds: Sequence of integers in [0, 2³¹). Each fixes an initialisation
            and all batches; see `keras_l2l.tasks.base.episode_seed`.
        steps: Integer. Inner steps.
        test_every: Integer. The loss on held-out data is taken each time this
            number of steps is done, and after the last. Defaults to `None`,
            after the last alone.

    Returns:
        A `LearningCurves`.

    Raises:
        TypeError: If `rule` is no `UpdateRule` or `task` no `Task`.
        ValueError: If there are no seeds, or a number is not positive.

    Example:

    >>> curves = learning_curves(rule, task, seeds=range(3), steps=10)
    >>> curves.losses.shape, curves.test_losses.shape
    ((3, 11), (3, 1))
    """
    check_type("rule", rule, UpdateRule)
    check_type("task", task, Task)
    seeds = list(seeds)
    if not seeds:
        raise ValueError(
            "Argument `seeds` must hold at least one integer. "
            f"Received: seeds={seeds}"
        )
    recorded = recorded_steps(steps, test_every)
    episodes = EpisodeRunner(rule, task)
    runs = [episodes.run(seed, recorded) for seed in seeds]
    return LearningCurves(
        np.stack([run.losses for run in runs]),
        np.stack([list(run.test_losses.values()) for run in runs]),
    )


def recorded_steps(
    steps: int, test_every: int | None = None
) -> tuple[int, ...]:
    """Lists the steps after which the loss on held-out data is taken.

    Args:
        steps: Integer. Inner steps of a run.
        test_every: Integer, or `None` for the last step alone.
            Defaults to `None`.

    Returns:
        Tuple of integers, the last of which is `steps`.

    Example:

    >>> recorded_steps(100, 40)
    (40, 80, 100)
    """
    steps = checks.positive_integer(steps=steps)
    if test_every is None:
        return (steps,)
    test_every = checks.positive_integer(test_every=test_every)
    return (*range(test_every, steps, test_every), steps)


def check_type(argument: str, value: object, expected: type) -> None:
    """Raises a `TypeError` if the value is no instance of the class."""
    if not isinstance(value, expected):
        raise TypeError(
            f"Argument `{argument}` must be a `{expected.__name__}`. "
            f"Received: {argument}={value!r}"
        )


def _times():
    return np.array([time.perf_counter(), time.process_time()])
