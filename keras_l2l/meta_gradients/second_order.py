"""The meta-gradient through everything, the optimizee's gradients included."""

import math

import tensorflow as tf

from keras_l2l.execution import stacked_arrays
from keras_l2l.inner_loop.unroll import (
    inner_step,
    loss_and_gradients,
    loss_dtype,
    unroll,
)


def backpropagate(rule, task, carry, meta_loss, memory_budget):
    """Backpropagation through an unroll, one inner step at a time.

    A forward loop records the carry before each step. A backward loop runs
    each step once more under a tape and multiplies the cotangent of the carry
    by its Jacobian. So the graph is that of a single step, and memory that of
    the recorded carries. Where they exceed the budget, only those at the
    starts of segments are kept, and each segment is recorded again when the
    backward loop reaches it.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`.
        carry: A `Carry`.
        meta_loss: A `MetaLoss`.
        memory_budget: Integer, in bytes.

    Returns:
        Tuple `(losses, gradients, carry)`: tensor `[T + 1]`, list of tensors,
        one for each of `rule.trainable_variables`, and the next `Carry`.

    Reference:
        [Chen et al., 2016](https://arxiv.org/abs/1604.06174), for the
        segments.
    """
    steps = meta_loss.steps
    length = _segment_length(carry, steps, memory_budget)
    segments = math.ceil(steps / length)
    variables = [v.value for v in rule.trainable_variables]
    # Of the loss at θ_t, for t = 0 … T.
    weights = meta_loss.weights / steps
    weights = tf.concat([tf.zeros([1], weights.dtype), weights], 0)
    loss, *_ = loss_and_gradients(rule, task, carry)
    first_loss = meta_loss.first_loss(loss[None])

    def weight_of(loss, t):
        slope = meta_loss.derivative(loss, first_loss)
        return tf.stop_gradient(tf.cast(weights[t], loss.dtype) * slope)

    starts = stacked_arrays.arrays(carry, segments)
    starts = stacked_arrays.write(starts, 0, carry)

    def to_next_segment(segment, carry, starts):
        carry, _ = unroll(rule, task, carry, length)
        return (
            segment + 1,
            carry,
            stacked_arrays.write(starts, segment + 1, carry),
        )

    _, _, starts = _loop(
        lambda segment, *_: segment < segments - 1,
        to_next_segment,
        (tf.constant(0), carry, starts),
    )

    def record_segment(segment, losses):
        """Trains through a segment; returns its carries and the last one."""
        begin = segment * length
        size = tf.minimum(steps - begin, length)

        def record(index, now, carries, losses):
            carries = stacked_arrays.write(carries, index, now)
            now, loss, _ = inner_step(rule, task, now)
            losses = losses.write(begin + index, loss)
            return index + 1, now, carries, losses

        _, last, carries, losses = _loop(
            lambda index, *_: index < size,
            record,
            (
                tf.constant(0),
                stacked_arrays.read(starts, segment, carry),
                stacked_arrays.arrays(carry, size),
                losses,
            ),
        )
        return carries, last, losses

    def back_through_segment(segment, carries, cotangents, gradients):
        begin = segment * length

        def back(index, cotangents, gradients):
            before = stacked_arrays.read(carries, index, carry)
            inputs = stacked_arrays.floating(before)
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                after, loss, _ = inner_step(rule, task, before, True)
                objective = weight_of(loss, begin + index) * loss
                objective += _inner_product(
                    stacked_arrays.floating(after), cotangents, loss.dtype
                )
            products = tape.gradient(
                objective,
                inputs + variables,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            cotangents = products[: len(inputs)]
            gradients = [
                a + b for a, b in zip(gradients, products[len(inputs) :])
            ]
            return index - 1, cotangents, gradients

        size = tf.minimum(steps - begin, length)
        _, cotangents, gradients = _loop(
            lambda index, *_: index >= 0,
            back,
            (size - 1, cotangents, gradients),
        )
        return cotangents, gradients

    # The last segment is recorded on the way forwards, and only once.
    losses = _losses(carry, steps)
    carries, next_carry, losses = record_segment(
        tf.constant(segments - 1), losses
    )
    loss, slope, _ = loss_and_gradients(rule, task, next_carry)
    losses = losses.write(steps, loss)
    cotangents = [
        tf.zeros_like(leaf) for leaf in stacked_arrays.floating(next_carry)
    ]
    weight = weight_of(loss, steps)
    cotangents[: len(slope)] = [tf.cast(weight, g.dtype) * g for g in slope]
    cotangents, gradients = back_through_segment(
        tf.constant(segments - 1),
        carries,
        cotangents,
        [tf.zeros_like(v) for v in variables],
    )

    def segment_before(segment, cotangents, gradients, losses):
        carries, _, losses = record_segment(segment, losses)
        cotangents, gradients = back_through_segment(
            segment, carries, cotangents, gradients
        )
        return segment - 1, cotangents, gradients, losses

    _, _, gradients, losses = _loop(
        lambda segment, *_: segment >= 0,
        segment_before,
        (tf.constant(segments - 2), cotangents, gradients, losses),
    )
    return losses.stack(), gradients, next_carry


def _segment_length(carry, steps, memory_budget):
    """The whole unroll where it fits, else what makes both parts small."""
    size = stacked_arrays.count_bytes(carry)
    if size * steps <= memory_budget:
        return steps
    return math.ceil(math.sqrt(steps))


def _loop(condition, body, state):
    _, *results = tf.while_loop(condition, body, state, parallel_iterations=1)
    return (None, *results)


def _losses(carry, steps):
    dtype = loss_dtype(carry)
    return tf.TensorArray(dtype, size=steps + 1, element_shape=())


def _inner_product(tensors, others, dtype):
    products = [tf.reduce_sum(a * b) for a, b in zip(tensors, others)]
    return tf.add_n([tf.cast(product, dtype) for product in products])
