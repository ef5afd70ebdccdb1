"""The meta-gradient estimator: task and rule → dL/dφ."""

import abc
from typing import Any, NamedTuple

from keras_l2l.inner_loop.episode import start


class Estimate(NamedTuple):
    """What an estimator returns.

    Attributes:
        losses: Tensor `[steps + 1]`, of the optimizee before each step of the
            unroll and after the last; `[steps + 1, K]` of `K` optimizees.
        gradients: List of tensors, one for each of
            `rule.trainable_variables`: the gradient of the meta-loss, summed
            over the optimizees that contribute.
        carry: What the next estimate starts from.
    """

    losses: Any
    gradients: Any
    carry: Any


class MetaGradientEstimator(abc.ABC):
    """Base class of the estimators of the meta-gradient.

    Attributes:
        learns_from_divergence: Boolean. Whether an unroll that diverged
            contributes to the gradient. Defaults to `False`.
    """

    learns_from_divergence = False

    def start(self, rule, task, seed):
        """What the first estimate of an episode starts from. Runs eagerly.

        Args:
            rule: An `UpdateRule`.
            task: A `Task`; or a `BatchedTask` of at most `capacity` optimizees.
            seed: Integer in [0, 2³¹). Of a `BatchedTask`, a list of them.

        Returns:
            A structure of tensors. Defaults to a `Carry`.
        """
        return start(rule, task, seed)

    def capacity(self, rule, task, steps):
        """How many optimizees an estimate should train side by side.

        Args:
            rule: An `UpdateRule`.
            task: A `Task`.
            steps: Integer. Inner steps of an unroll.

        Returns:
            An integer. Defaults to 1, which is always right.
        """
        return 1

    @abc.abstractmethod
    def __call__(self, rule, task, carry, meta_loss, seed):
        """Unrolls optimizees and estimates the gradient of the meta-loss.

        Runs inside a `tf.function`.

        Args:
            rule: An `UpdateRule`.
            task: A `Task`; or a `BatchedTask` of at most `capacity` optimizees.
            carry: From `start`, or from the last estimate of the episode.
            meta_loss: A `MetaLoss`.
            seed: Integer tensor `[2]`, for estimators that draw.

        Returns:
            An `Estimate`.
        """
