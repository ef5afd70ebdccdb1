"""The meta-gradient estimator: task and rule → dL/dφ."""

import abc
from typing import Any, NamedTuple

from keras_l2l.inner_loop.episode import start
from keras_l2l.meta_gradients.meta_loss import MetaLoss
from keras_l2l.rules.base import UpdateRule
from keras_l2l.tasks.base import Task


class Estimate(NamedTuple):
    """The result of an estimator.

    Attributes:
        losses: Tensor `[T + 1]`, the losses of the optimizee before each step
            of the unroll and after the last; `[T + 1, K]` for `K` optimizees.
        gradients: List of tensors, one for each of
            `rule.trainable_variables`: the gradient of the meta-loss, summed
            over the optimizees that contribute.
        carry: Structure of tensors, from which the next estimate starts.
    """

    losses: Any
    gradients: Any
    carry: Any


class MetaGradientEstimator(abc.ABC):
    """Base class of the estimators of the meta-gradient.

    Subclasses implement `__call__`, and `start` if their carry is not that of
    the inner loop.

    Attributes:
        learns_from_divergence: Boolean. Whether an unroll that diverged
            contributes to the gradient. Defaults to `False`.
        vectorize: Boolean. Whether optimizees of any rule are trained side by
            side, those of the validation, too. Defaults to `False`.
    """

    learns_from_divergence = False
    vectorize = False

    def start(self, rule: UpdateRule, task: Task, seed: Any) -> Any:
        """Begins an episode, in eager mode.

        Args:
            rule: An `UpdateRule`.
            task: A `Task`; or a `BatchedTask` of at most `capacity` optimizees.
            seed: Integer in [0, 2³¹). For a `BatchedTask` a list of `K` such
                integers.

        Returns:
            A structure of tensors, from which the first estimate starts.
            Defaults to a `Carry`.
        """
        return start(rule, task, seed)

    def capacity(self, rule: UpdateRule, task: Task, steps: int) -> int:
        """The number of optimizees that an estimate should train side by side.

        Args:
            rule: An `UpdateRule`.
            task: A `Task`.
            steps: Integer. Inner steps of an unroll.

        Returns:
            An integer. Defaults to 1, which is always right.
        """
        return 1

    @abc.abstractmethod
    def __call__(
        self,
        rule: UpdateRule,
        task: Task,
        carry: Any,
        meta_loss: MetaLoss,
        seed: Any,
    ) -> Estimate:
        """Unrolls optimizees and estimates the gradient of the meta-loss.

        Runs inside a `tf.function`.

        Args:
            rule: An `UpdateRule`.
            task: A `Task`; or a `BatchedTask` of at most `capacity` optimizees.
            carry: From `start`, or from the last estimate of the episode.
            meta_loss: A `MetaLoss`.
            seed: Integer tensor `[2]`, for estimators that draw random
                numbers. For a `BatchedTask` `[K, 2]`, one for each optimizee,
                whose numbers must depend on its own seed alone.

        Returns:
            An `Estimate`.
        """
