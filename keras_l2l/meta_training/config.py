"""The configuration of a meta-training, checked once."""

import dataclasses
import numbers
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_l2l import checks
from keras_l2l.meta_gradients.base import MetaGradientEstimator
from keras_l2l.meta_gradients.meta_loss import TRANSFORMS
from keras_l2l.meta_training.curriculum import Curriculum, HorizonSchedule
from keras_l2l.rules.base import UpdateRule
from keras_l2l.tasks.base import Task


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MetaTrainingConfig:
    """The arguments of `MetaTrainer`, checked.

    Attributes:
        rule: An `UpdateRule`.
        tasks: List of `Task`.
        horizon: Integer, pair of integers or `Curriculum`.
        unroll: Integer. Inner steps in an outer step.
        optimizees: Integer. Optimizees of each task.
        tasks_per_step: Integer. Tasks that take part in an outer step.
        loss_weights: The weights w_t of the meta-loss: array `[T]`, float32,
            of the `T` steps of the longest horizon. Ones if made from `None`.
        loss_transform: String.
        log_floor: Positive float.
        meta_loss: `"training"`, `"held_out"` or a number in [0, 1].
        estimator: A `MetaGradientEstimator`.
        divergence_limit: Float.
        clipnorm: Float or `None`.
        seed: Integer.
    """

    rule: UpdateRule
    tasks: list[Task]
    horizon: int | tuple[int, int] | Curriculum
    unroll: int
    optimizees: int
    tasks_per_step: int
    loss_weights: Sequence[float] | np.ndarray | None
    loss_transform: str
    log_floor: float
    meta_loss: str | float
    estimator: MetaGradientEstimator
    divergence_limit: float
    clipnorm: float | None
    seed: int

    def __post_init__(self):
        self._check_types()
        self._check_numbers()
        check_held_out_data(self.tasks, self.held_out)
        longest = self.horizon_schedule().longest_horizon
        # The one way to set an attribute of a frozen dataclass.
        object.__setattr__(
            self, "loss_weights", _loss_weights(self.loss_weights, longest)
        )

    @property
    def held_out(self):
        """The weight of the held-out loss in the meta-loss, a float."""
        return held_out_weight("meta_loss", self.meta_loss)

    def horizon_schedule(self):
        """A fresh `HorizonSchedule`, at its first stage."""
        if isinstance(self.horizon, Curriculum):
            stages = [_pair(h, self.unroll) for h in self.horizon.horizons]
            return HorizonSchedule(stages, self.horizon.patience)
        return HorizonSchedule([_pair(self.horizon, self.unroll)])

    def _check_types(self):
        if not isinstance(self.rule, UpdateRule):
            raise TypeError(
                "Argument `rule` must be a `keras_l2l.rules.UpdateRule`. "
                f"Received: rule={self.rule!r}"
            )
        if not isinstance(self.estimator, MetaGradientEstimator):
            raise TypeError(
                "Argument `estimator` must be a `MetaGradientEstimator`. "
                f"Received: estimator={self.estimator!r}"
            )
        if self.loss_transform not in TRANSFORMS:
            raise ValueError(
                f"Argument `loss_transform` must be one of {TRANSFORMS}. "
                f"Received: loss_transform={self.loss_transform!r}"
            )

    def _check_numbers(self):
        checks.positive_integer_fields(
            self, "unroll", "optimizees", "tasks_per_step"
        )
        # One of NumPy's generators.
        object.__setattr__(self, "seed", checks.seed(self.seed))
        if self.tasks_per_step > len(self.tasks):
            raise ValueError(
                "Argument `tasks_per_step` must not exceed the number of "
                f"tasks. Received: tasks_per_step={self.tasks_per_step} and "
                f"{len(self.tasks)} tasks"
            )
        checks.positive_numbers(log_floor=self.log_floor)
        if not self.divergence_limit > 1:
            raise ValueError(
                "Argument `divergence_limit` must be greater than 1. "
                f"Received: divergence_limit={self.divergence_limit}"
            )
        if self.clipnorm is not None:
            checks.positive_numbers(clipnorm=self.clipnorm)


def held_out_weight(argument, value):
    """The weight of the held-out loss, of a loss that is named or mixed.

    Args:
        argument: String, the name of the argument.
        value: `"training"`, `"held_out"` or a number in [0, 1].

    Returns:
        A float in [0, 1].

    Raises:
        ValueError: If it is none of them.
    """
    named = {"training": 0.0, "held_out": 1.0}
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if isinstance(value, str) and value in named:
        return named[value]
    if not is_number or not 0.0 <= value <= 1.0:
        raise ValueError(
            f'Argument `{argument}` must be "training", "held_out", or a '
            "number in [0, 1], the weight of the held-out loss beside the "
            f"training loss. Received: {argument}={value!r}"
        )
    return float(value)


def check_held_out_data(tasks, held_out):
    """Raises a `ValueError` for a task without the data that a loss is of.

    Args:
        tasks: List of `Task`.
        held_out: Float, the weight of the held-out loss.
    """
    if held_out:
        for task in tasks:
            task.sample_held_out_batch(tf.constant([0, 0]))


def task_list(argument, tasks):
    """One task or several, as a list.

    Args:
        argument: String, the name of the argument.
        tasks: A `Task` or a list of tasks.

    Returns:
        A list of `Task`.

    Raises:
        TypeError: If there is none, or something else among them.
    """
    tasks = list(tasks) if isinstance(tasks, list | tuple) else [tasks]
    if not tasks or not all(isinstance(task, Task) for task in tasks):
        raise TypeError(
            f"Argument `{argument}` must be a `keras_l2l.tasks.Task` or a "
            f"list of them. Received: {argument}={tasks!r}"
        )
    return tasks


def _loss_weights(weights, horizon):
    """Array `[horizon]`, float32; ones unless given."""
    if weights is None:
        return np.ones(horizon, "float32")
    weights = np.asarray(weights, "float32")
    if weights.shape != (horizon,) or not np.isfinite(weights).all():
        raise ValueError(
            "Argument `loss_weights` must hold one finite float for each of "
            f"the {horizon} steps of the horizon. "
            f"Received: loss_weights of shape {weights.shape}"
        )
    return weights


def _pair(horizon, unroll):
    """The shortest and the longest horizon."""
    horizons = horizon if isinstance(horizon, list | tuple) else [horizon] * 2
    if len(horizons) != 2:
        raise ValueError(
            "Argument `horizon` must be an integer, a pair of integers or a "
            f"`Curriculum`. Received: horizon={horizon!r}"
        )
    horizons = [checks.positive_integer(horizon=value) for value in horizons]
    if any(value % unroll for value in horizons) or horizons[0] > horizons[1]:
        raise ValueError(
            "Argument `horizon` must be a multiple of `unroll`, or the "
            "shortest and the longest such multiple. "
            f"Received: horizon={horizon}, unroll={unroll}"
        )
    return tuple(horizons)
