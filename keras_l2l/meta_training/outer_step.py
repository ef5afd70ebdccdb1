"""One outer step of a batch of optimizees: unroll and meta-gradient."""

import functools
from typing import Any, NamedTuple

import tensorflow as tf

from keras_l2l.meta_gradients.meta_loss import MetaLoss


class OuterStepResult(NamedTuple):
    """The result of an unroll of a batch of `K` optimizees.

    Attributes:
        meta_losses: Tensor `[K]`; a scalar if there is one optimizee.
        gradients: List of tensors shaped as the trainable meta-parameters,
            summed over the optimizees that contribute.
        carry: The estimator's carry, for the next unroll.
        first_losses: As `meta_losses`: the first loss of each episode.
        diverged: Booleans, as `meta_losses`.
        contributes: Booleans, as `meta_losses`.
    """

    meta_losses: Any
    gradients: Any
    carry: Any
    first_losses: Any
    diverged: Any
    contributes: Any


def compile_outer_step(config, task, rule):
    """Makes a graph of the outer step of a batch.

    Args:
        config: A `MetaTrainingConfig`.
        task: A `Task`, or a `BatchedTask`.
        rule: The `UpdateRule`, or a copy of it on another device.

    Returns:
        Function from a carry, the first losses of the episodes, the weights of
        the meta-loss and seeds to an `OuterStepResult`.
    """
    # No AutoGraph, as in Keras's own training. A partial, because TensorFlow
    # counts the traces of one Python function over all tasks and warns.
    return tf.function(
        functools.partial(_outer_step, config, task, rule), autograph=False
    )


def _outer_step(config, task, rule, carry, first_losses, weights, seeds):
    estimator = config.estimator
    meta_loss = MetaLoss(
        weights,
        first_losses,
        config.loss_transform,
        config.divergence_limit,
        config.held_out,
        config.log_floor,
    )
    losses, gradients, carry = estimator(rule, task, carry, meta_loss, seeds)
    losses = tf.cast(losses, tf.float32)
    diverged = meta_loss.has_diverged(losses)
    is_finite = tf.reduce_all(
        [tf.reduce_all(tf.math.is_finite(g)) for g in gradients]
    )
    if config.clipnorm is not None:
        gradients, _ = tf.clip_by_global_norm(gradients, config.clipnorm)
    contributes = tf.fill(tf.shape(diverged), is_finite)
    if not estimator.learns_from_divergence:
        contributes &= ~diverged
    return OuterStepResult(
        meta_losses=meta_loss(losses),
        gradients=gradients,
        carry=carry,
        first_losses=meta_loss.first_loss(losses),
        diverged=diverged | ~is_finite,
        contributes=contributes,
    )
