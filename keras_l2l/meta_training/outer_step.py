"""An unroll of a group of optimizees, and what is learned from it."""

import functools
from typing import Any, NamedTuple

import tensorflow as tf

from keras_l2l.meta_gradients.meta_loss import MetaLoss


class OuterStepResult(NamedTuple):
    """What an unroll of a group gave: of each optimizee, and of all.

    Attributes:
        meta_losses: Scalar, or tensor `[K]` of `K` optimizees.
        gradients: List of tensors, summed over those that contribute.
        carry: What the next unroll starts from.
        first_losses: As `meta_losses`: the first losses of the episodes.
        diverged: Booleans, as `meta_losses`.
        contributes: Booleans, as `meta_losses`.
    """

    meta_losses: Any
    gradients: Any
    carry: Any
    first_losses: Any
    diverged: Any
    contributes: Any


def compile_outer_step(
    rule, task, estimator, loss_transform, divergence_limit, clipnorm
):
    """An unroll as a graph.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`, or a `BatchedTask`.
        estimator: A `MetaGradientEstimator`.
        loss_transform: String, see `MetaTrainer`.
        divergence_limit: Float, see `MetaTrainer`.
        clipnorm: Float or `None`, see `MetaTrainer`.

    Returns:
        Function from a carry, the first losses of the episodes, the weights of
        the meta-loss and a seed to an `OuterStepResult`.
    """

    # As in Keras's own training: no conversion of Python control flow. Partial,
    # or TensorFlow would add up the traces of all tasks and warn of too many.
    return tf.function(
        functools.partial(
            _outer_step,
            rule,
            task,
            estimator,
            functools.partial(
                MetaLoss,
                transform=loss_transform,
                divergence_limit=divergence_limit,
            ),
            clipnorm,
        ),
        autograph=False,
    )


def _outer_step(
    rule,
    task,
    estimator,
    make_meta_loss,
    clipnorm,
    carry,
    first_losses,
    weights,
    seed,
):
    meta_loss = make_meta_loss(weights, first_losses)
    losses, gradients, carry = estimator(rule, task, carry, meta_loss, seed)
    losses = tf.cast(losses, tf.float32)
    diverged = meta_loss.has_diverged(losses)
    usable = tf.reduce_all(
        [tf.reduce_all(tf.math.is_finite(g)) for g in gradients]
    )
    if clipnorm is not None:
        gradients, _ = tf.clip_by_global_norm(gradients, clipnorm)
    contributes = tf.fill(tf.shape(diverged), usable)
    if not estimator.learns_from_divergence:
        contributes &= ~diverged
    return OuterStepResult(
        meta_losses=meta_loss(losses),
        gradients=gradients,
        carry=carry,
        first_losses=meta_loss.first_loss(losses),
        diverged=diverged | ~usable,
        contributes=contributes,
    )
