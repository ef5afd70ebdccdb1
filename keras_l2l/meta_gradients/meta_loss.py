"""The meta-loss: a weighted mean of the losses along an unroll."""

import math
from typing import Any

import tensorflow as tf

TRANSFORMS = ("identity", "log")

# An optimizee that has memorised its data would outweigh all others.
DEFAULT_LOG_FLOOR = 1e-2


class MetaLoss:
    """The mean over the steps of an unroll of w_t times the transformed loss.

    The transform is the identity, or the logarithm of the loss over the first
    loss of the episode, so that tasks with losses of all sizes count alike.

    Args:
        weights: Tensor `[T]` of static shape, the weights w_t of the losses
            after each of the steps; `[T, K]` for `K` optimizees.
        first_loss: Scalar tensor, or `[K]`: the loss at the start of the
            episode; NaN in its first unroll, which begins with that loss.
            Defaults to NaN.
        transform: `"identity"` or `"log"`. Defaults to `"identity"`.
        divergence_limit: Float. An unroll with a loss that is not finite or
            exceeds `divergence_limit` times one plus the first loss has
            diverged. Defaults to infinity.
        held_out: Float in [0, 1]. The losses that an estimator hands to the
            meta-loss are `1 - held_out` times those on training data plus
            `held_out` times those on held-out data. Defaults to `0.0`.
        log_floor: Positive float. The share of the first loss below which the
            logarithm hardly falls. Defaults to `0.01`.

    Example:

    >>> meta_loss = MetaLoss(tf.ones(2))
    >>> float(meta_loss(tf.constant([8.0, 3.0, 1.0])))
    2.0
    """

    def __init__(
        self,
        weights: Any,
        first_loss: Any = math.nan,
        transform: str = "identity",
        divergence_limit: float = math.inf,
        held_out: float = 0.0,
        log_floor: float = DEFAULT_LOG_FLOOR,
    ):
        self.weights = tf.convert_to_tensor(weights)
        self.transform = transform
        self.held_out = held_out
        self._first_loss = first_loss
        self._divergence_limit = divergence_limit
        self._log_floor = log_floor

    @property
    def steps(self) -> int:
        """Inner steps of an unroll, `T`."""
        return self.weights.shape[0]

    @property
    def optimizees(self) -> int:
        """Number of optimizees, `K`, or 1."""
        return self.weights[0].shape.num_elements()

    def first_loss(self, losses):
        """The first loss of the episode.

        Args:
            losses: Tensor `[T + 1]` or `[T + 1, K]`, before each step of the
                unroll and after the last.

        Returns:
            A scalar, or a tensor `[K]`.
        """
        first = tf.cast(self._first_loss, losses.dtype)
        return tf.where(tf.math.is_nan(first), losses[0], first)

    def has_diverged(self, losses):
        """Whether an unroll has diverged.

        Args:
            losses: As for `first_loss`.

        Returns:
            A boolean, or booleans `[K]`.
        """
        limit = self._divergence_limit * (1.0 + tf.abs(self.first_loss(losses)))
        # A NaN is not below the limit either.
        return ~tf.reduce_all(tf.math.is_finite(losses) & (losses <= limit), 0)

    def values(self, losses):
        """The transformed losses after each step.

        Args:
            losses: As for `first_loss`.

        Returns:
            Tensor `[T]` or `[T, K]`.
        """
        if self.transform == "identity":
            return losses[1:]
        first = self.first_loss(losses)
        return tf.math.log(
            self._positive(losses[1:], first) / self._positive(first, first)
        )

    def derivative(self, loss, first_loss):
        """The derivative of the transform of a loss.

        Args:
            loss: Tensor of any shape.
            first_loss: Tensor that broadcasts to it, from `first_loss`.

        Returns:
            Tensor like `loss`.
        """
        if self.transform == "identity":
            return tf.ones_like(loss)
        return tf.sign(loss) / self._positive(loss, first_loss)

    def slopes(self, losses):
        """The derivatives of `T` times the meta-loss; zero if diverged.

        Args:
            losses: As for `first_loss`.

        Returns:
            Tensor like the weights.
        """
        slopes = self.derivative(losses[1:], self.first_loss(losses))
        slopes = tf.where(
            self.has_diverged(losses), tf.zeros_like(slopes), slopes
        )
        return self.weights * tf.cast(slopes, self.weights.dtype)

    def __call__(self, losses):
        """The meta-loss.

        Args:
            losses: As for `first_loss`.

        Returns:
            A scalar, or a tensor `[K]`.
        """
        values = tf.cast(self.values(losses), self.weights.dtype)
        return tf.reduce_mean(self.weights * values, 0)

    def _positive(self, loss, first_loss):
        # A negative loss, as of some regressions, has no logarithm.
        return tf.abs(loss) + self._log_floor * tf.abs(first_loss) + 1e-30
