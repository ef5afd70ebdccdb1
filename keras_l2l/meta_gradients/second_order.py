"""The meta-gradient through everything, the optimizee's gradients included."""

import math

import tensorflow as tf

from keras_l2l.execution.stacked_arrays import (
    StackedArrays,
    count_bytes,
    floating,
)
from keras_l2l.inner_loop.episode import loss_dtype
from keras_l2l.inner_loop.outer_loss import outer_loss, outer_loss_and_gradients
from keras_l2l.inner_loop.unroll import inner_step, loss_and_gradients, unroll


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
    weight_of = _loss_weight(rule, task, carry, meta_loss)
    starts = _segment_starts(rule, task, carry, length, segments)

    def judge(carry, inner_loss):
        return outer_loss(rule, task, carry, inner_loss, meta_loss.held_out)

    def record(segment, losses):
        begin = segment * length
        size = tf.minimum(steps - begin, length)
        return _record_segment(
            rule, task, starts.read(segment), begin, size, losses, judge
        )

    def back(segment, carries, cotangents, gradients):
        begin = segment * length
        size = tf.minimum(steps - begin, length)
        return _backpropagate_segment(
            rule,
            task,
            carries,
            size,
            cotangents,
            gradients,
            judge,
            lambda loss, index: weight_of(loss, begin + index),
        )

    # The forward pass ends with the last segment, which is recorded once.
    losses = tf.TensorArray(loss_dtype(carry), size=steps + 1, element_shape=())
    segment = tf.constant(segments - 1)
    carries, next_carry, losses = record(segment, losses)
    loss, slope, _ = loss_and_gradients(rule, task, next_carry)
    loss, slope = outer_loss_and_gradients(
        rule, task, next_carry, (loss, slope), meta_loss.held_out
    )
    losses = losses.write(steps, loss)
    weight = weight_of(loss, steps)
    cotangents = [tf.zeros_like(leaf) for leaf in floating(next_carry)]
    cotangents[: len(slope)] = [tf.cast(weight, g.dtype) * g for g in slope]
    totals = [tf.zeros_like(v) for v in rule.trainable_variables]
    cotangents, gradients = back(segment, carries, cotangents, totals)

    def previous_segment(segment, cotangents, gradients, losses):
        carries, _, losses = record(segment, losses)
        cotangents, gradients = back(segment, carries, cotangents, gradients)
        return segment - 1, cotangents, gradients, losses

    _, _, gradients, losses = _loop(
        lambda segment, *_: segment >= 0,
        previous_segment,
        (segment - 1, cotangents, gradients, losses),
    )
    return losses.stack(), gradients, next_carry


def _loss_weight(rule, task, carry, meta_loss):
    """Function from a loss and its `t` to dL/df(θ_t), for t = 0 … T."""
    weights = meta_loss.weights / meta_loss.steps
    weights = tf.concat([tf.zeros([1], weights.dtype), weights], 0)
    loss, *_ = loss_and_gradients(rule, task, carry)
    loss = outer_loss(rule, task, carry, loss, meta_loss.held_out)
    first_loss = meta_loss.first_loss(loss[None])

    def weight_of(loss, t):
        slope = meta_loss.derivative(loss, first_loss)
        return tf.stop_gradient(tf.cast(weights[t], loss.dtype) * slope)

    return weight_of


def _segment_starts(rule, task, carry, length, segments):
    """`StackedArrays` of the carries at the starts of all segments."""
    starts = StackedArrays.like(carry, segments).write(0, carry)

    def body(segment, carry, starts):
        carry, _ = unroll(rule, task, carry, length)
        return segment + 1, carry, starts.write(segment + 1, carry)

    *_, starts = _loop(
        lambda segment, *_: segment < segments - 1,
        body,
        (tf.constant(0), carry, starts),
    )
    return starts


def _record_segment(rule, task, carry, begin, size, losses, judge):
    """Trains through a segment.

    Returns:
        Tuple `(carries, carry, losses)`: `StackedArrays` of the carry before
        each step, the carry after the last, and the `TensorArray` of losses.
    """

    def body(index, now, carries, losses):
        carries = carries.write(index, now)
        after, loss, _ = inner_step(rule, task, now)
        losses = losses.write(begin + index, judge(now, loss))
        return index + 1, after, carries, losses

    _, carry, carries, losses = _loop(
        lambda index, *_: index < size,
        body,
        (tf.constant(0), carry, StackedArrays.like(carry, size), losses),
    )
    return carries, carry, losses


def _backpropagate_segment(
    rule, task, carries, size, cotangents, gradients, judge, weight_of
):
    """Takes the cotangents of a carry from the end of a segment to its start.

    Returns:
        Tuple `(cotangents, gradients)`, lists of tensors: those of the first
        carry, and the gradients with what this segment adds.
    """
    variables = [v.value for v in rule.trainable_variables]

    def body(index, cotangents, gradients):
        before = carries.read(index)
        inputs = floating(before)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            after, loss, _ = inner_step(rule, task, before, True)
            loss = judge(before, loss)
            objective = weight_of(loss, index) * loss
            objective += _inner_product(floating(after), cotangents, loss.dtype)
        products = tape.gradient(
            objective,
            inputs + variables,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        cotangents = products[: len(inputs)]
        added = products[len(inputs) :]
        gradients = [a + b for a, b in zip(gradients, added)]
        return index - 1, cotangents, gradients

    _, cotangents, gradients = _loop(
        lambda index, *_: index >= 0, body, (size - 1, cotangents, gradients)
    )
    return cotangents, gradients


def _segment_length(carry, steps, memory_budget):
    """The whole unroll where it fits, else what makes both parts small."""
    if count_bytes(carry) * steps <= memory_budget:
        return steps
    return math.ceil(math.sqrt(steps))


def _loop(condition, body, state):
    return tf.while_loop(condition, body, state, parallel_iterations=1)


def _inner_product(tensors, others, dtype):
    products = [tf.reduce_sum(a * b) for a, b in zip(tensors, others)]
    return tf.add_n([tf.cast(product, dtype) for product in products])
