"""The inner loop of optimizees that a rule cannot see as one.

A `BatchedTask` is for rules whose coordinates are independent. For any other
rule, the whole inner step is vectorised: the optimizee's gradients, the rule
and its hidden state. So operations are few and large, which is what a compiled
program is fast at.
"""

import keras
import tensorflow as tf

from keras_l2l.inner_loop.episode import loss_dtype
from keras_l2l.inner_loop.outer_loss import outer_loss
from keras_l2l.inner_loop.unroll import inner_step, loss_and_gradients


def stack(structures):
    """Structures of tensors as one, of tensors with one more axis in front.

    Args:
        structures: Sequence of `P` equal structures of tensors.

    Returns:
        A structure of tensors `[P, …]`.
    """
    return tf.nest.map_structure(lambda *leaves: tf.stack(leaves), *structures)


@tf.autograph.experimental.do_not_convert
def unroll_side_by_side(rule, task, carry, steps, held_out=0.0, values=None):
    """Trains optimizees for some inner steps, all in one loop.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`.
        carry: A `Carry` of tensors `[P, …]`, of `P` optimizees; `P` may stand
            for several axes.
        steps: Integer. Number of inner steps, `T`.
        held_out: Float, see `unroll`. Defaults to `0.0`.
        values: List of tensors `[P, …]`, the meta-parameters under which each
            of the optimizees is trained. Defaults to `None`, those of the rule.

    Returns:
        Tuple `(carry, losses)`: the next carry, and the outer losses before
        each step and after the last, `[T + 1, P]`.
    """
    variables = rule.trainable_variables
    values = [] if values is None else values
    axes = carry.step.shape
    carry, values = _reshape((carry, values), axes, [axes.num_elements()])

    def each(function, carry):
        def call(arguments):
            carry, values = arguments
            mapping = list(zip(variables, values))
            with keras.StatelessScope(state_mapping=mapping):
                return function(carry)

        return tf.vectorized_map(call, (carry, values))

    def step(carry):
        after, loss, _ = inner_step(rule, task, carry)
        return after, outer_loss(rule, task, carry, loss, held_out)

    def last_loss(carry):
        loss, *_ = loss_and_gradients(rule, task, carry)
        return outer_loss(rule, task, carry, loss, held_out)

    def body(index, carry, losses):
        carry, loss = each(step, carry)
        return index + 1, carry, losses.write(index, loss)

    losses = tf.TensorArray(
        loss_dtype(carry), size=steps + 1, element_shape=carry.step.shape
    )
    _, carry, losses = tf.while_loop(
        lambda index, *_: index < steps,
        body,
        (tf.constant(0), carry, losses),
        parallel_iterations=1,
    )
    losses = losses.write(steps, each(last_loss, carry))
    carry = _reshape(carry, carry.step.shape, axes)
    return carry, tf.reshape(losses.stack(), [steps + 1, *axes])


def _reshape(structure, axes, others):
    """Tensors `[*axes, …]` as `[*others, …]`."""
    return tf.nest.map_structure(
        lambda leaf: tf.reshape(leaf, [*others, *leaf.shape[len(axes) :]]),
        structure,
    )
