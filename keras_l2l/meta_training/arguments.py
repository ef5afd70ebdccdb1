"""What a `MetaTrainer` accepts, and what it makes of it."""

import keras
import numpy as np

from keras_l2l import checks
from keras_l2l.meta_gradients.base import MetaGradientEstimator
from keras_l2l.meta_gradients.meta_loss import TRANSFORMS
from keras_l2l.meta_training.curriculum import Curriculum, HorizonSchedule
from keras_l2l.rules.base import UpdateRule
from keras_l2l.tasks.base import Task


def check(
    rule, tasks, tasks_per_step, loss_transform, estimator, divergence_limit
):
    """Raises an error that names the first argument that cannot be.

    Args:
        rule: See `MetaTrainer`.
        tasks: List of `Task`.
        tasks_per_step: See `MetaTrainer`.
        loss_transform: See `MetaTrainer`.
        estimator: See `MetaTrainer`.
        divergence_limit: See `MetaTrainer`.
    """
    if not isinstance(rule, UpdateRule):
        raise TypeError(
            "Argument `rule` must be a `keras_l2l.rules.UpdateRule`. "
            f"Received: rule={rule!r}"
        )
    if tasks_per_step is not None:
        checks.positive_integers(tasks_per_step=tasks_per_step)
        if tasks_per_step > len(tasks):
            raise ValueError(
                "Argument `tasks_per_step` must not exceed the number of "
                f"tasks. Received: tasks_per_step={tasks_per_step} and "
                f"{len(tasks)} tasks"
            )
    if loss_transform not in TRANSFORMS:
        raise ValueError(
            f"Argument `loss_transform` must be one of {TRANSFORMS}. "
            f"Received: loss_transform={loss_transform!r}"
        )
    if not isinstance(estimator, MetaGradientEstimator):
        raise TypeError(
            "Argument `estimator` must be a `MetaGradientEstimator`. "
            f"Received: estimator={estimator!r}"
        )
    if not divergence_limit > 1:
        raise ValueError(
            "Argument `divergence_limit` must be greater than 1. "
            f"Received: divergence_limit={divergence_limit}"
        )


def task_list(argument, tasks):
    """A task or several, as a list.

    Args:
        argument: String, the name of the argument.
        tasks: A `Task` or a list of tasks.

    Returns:
        A list of `Task`.
    """
    tasks = list(tasks) if isinstance(tasks, list | tuple) else [tasks]
    if not tasks or not all(isinstance(task, Task) for task in tasks):
        raise TypeError(
            f"Argument `{argument}` must be a `keras_l2l.tasks.Task` or a "
            f"list of them. Received: {argument}={tasks!r}"
        )
    return tasks


def progress(horizon, unroll):
    """The horizons of a run.

    Args:
        horizon: Integer, pair of integers or `Curriculum`, see `MetaTrainer`.
        unroll: Integer.

    Returns:
        A `HorizonSchedule`.
    """
    if isinstance(horizon, Curriculum):
        stages = [_pair(length, unroll) for length in horizon.horizons]
        return HorizonSchedule(stages, horizon.patience)
    return HorizonSchedule([_pair(horizon, unroll)])


def loss_weight_array(weights, horizon):
    """The weights w_t of the meta-loss.

    Args:
        weights: Sequence of floats, or `None` for ones.
        horizon: Integer.

    Returns:
        Array `[horizon]`, float32.
    """
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


def refuse_keras_backup(callbacks):
    """Raises an error if `keras.callbacks.BackupAndRestore` is among them."""
    for callback in keras.tree.flatten(callbacks):
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise ValueError(
                "`keras.callbacks.BackupAndRestore` does not know the "
                "optimizees in training. Remove it from `callbacks` and pass "
                f"`fit(backup_dir={str(callback.backup_dir)!r})` instead."
            )


def _pair(horizon, unroll):
    """The shortest and the longest horizon."""
    horizons = horizon if isinstance(horizon, list | tuple) else [horizon] * 2
    if len(horizons) != 2:
        raise ValueError(
            "Argument `horizon` must be an integer, a pair of integers or a "
            f"`Curriculum`. Received: horizon={horizon!r}"
        )
    for value in horizons:
        checks.positive_integers(horizon=value)
    if any(value % unroll for value in horizons) or horizons[0] > horizons[1]:
        raise ValueError(
            "Argument `horizon` must be a multiple of `unroll`, or the "
            "shortest and the longest such multiple. "
            f"Received: horizon={horizon}, unroll={unroll}"
        )
    return tuple(horizons)
