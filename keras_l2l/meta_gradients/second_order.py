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
from keras_l2l.inner_loop.side_by_side import unroll_side_by_side
from keras_l2l.inner_loop.unroll import inner_step, loss_and_gradients, unroll


def backpropagate(
    rule, task, carry, meta_loss, memory_budget, largest_norm=None
):
    """Backpropagation through an unroll, one inner step at a time.

    A forward loop records the carry before each step. A backward loop runs
    each step once more under a tape and multiplies the cotangent of the carry
    by its Jacobian. So the graph is that of a single step, and memory that of
    the recorded carries. Where they exceed the budget, only those at the
    starts of segments are kept, and each segment is recorded again when the
    backward loop reaches it. Of several optimizees each step is vectorised.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`.
        carry: A `Carry`, of one optimizee or of `K`.
        meta_loss: A `MetaLoss`.
        memory_budget: Integer, in bytes.
        largest_norm: Float. The gradient of each optimizee is scaled down to
            this norm, and left out if it is not finite. Defaults to `None`,
            as it is.

    Returns:
        Tuple `(losses, gradients, carry)`: tensor `[T + 1]` or `[T + 1, K]`,
        list of tensors, one for each of `rule.trainable_variables`, summed
        over the optimizees that have not diverged, and the next `Carry`.

    Reference:
        [Chen et al., 2016](https://arxiv.org/abs/1604.06174), for the
        segments.
    """
    steps = meta_loss.steps
    length = _segment_length(carry, steps, memory_budget)
    segments = math.ceil(steps / length)
    passes = _Passes(rule, task, meta_loss, carry)
    moving = passes.moving(carry)
    starts = _segment_starts(passes, moving, length, segments)

    def record(segment, losses):
        begin = segment * length
        size = tf.minimum(steps - begin, length)
        carries = StackedArrays.like(moving, length)
        return _record_segment(
            passes, starts.read(segment), carries, begin, size, losses
        )

    def back(segment, carries, cotangents, gradients):
        begin = segment * length
        size = tf.minimum(steps - begin, length)
        return _backpropagate_segment(
            passes, carries, begin, size, cotangents, gradients
        )

    # The forward pass ends with the last segment, which is recorded once.
    losses = tf.TensorArray(
        loss_dtype(carry), size=steps + 1, element_shape=carry.step.shape
    )
    segment = tf.constant(segments - 1)
    carries, last, losses = record(segment, losses)
    loss, cotangents = passes.end(last)
    losses = losses.write(steps, loss)
    totals = [
        tf.zeros(carry.step.shape + v.shape, v.dtype)
        for v in rule.trainable_variables
    ]
    cotangents, gradients = back(segment, carries, cotangents, totals)

    def previous_segment(segment, cotangents, gradients, losses):
        carries, _, losses = record(segment, losses)
        cotangents, gradients = back(segment, carries, cotangents, gradients)
        return segment - 1, cotangents, gradients, losses

    if segments > 1:  # else XLA would compile what never runs
        _, _, gradients, losses = _loop(
            lambda segment, *_: segment >= 0,
            previous_segment,
            (segment - 1, cotangents, gradients, losses),
        )
    losses = losses.stack()
    kept = ~meta_loss.has_diverged(losses)
    gradients = passes.total(gradients, kept, largest_norm)
    return losses, gradients, passes.whole(last)


class _Passes:
    """The passes through one inner step, of one optimizee or of `K`.

    What no step changes, as the data of a `SyntheticTask` in its model state,
    is neither recorded nor differentiated: the *moving* carry is without it.
    """

    def __init__(self, rule, task, meta_loss, carry):
        self._rule = rule
        self._task = task
        self._meta_loss = meta_loss
        self._optimizees = carry.step.shape
        self._is_constant = _constant_leaves(rule, task, carry)
        self._constants = self._of_state(carry, True)
        weights = meta_loss.weights / meta_loss.steps
        # dL/df(θ_t) for t = 0 … T, but for the derivative of the transform.
        self._weights = tf.concat([tf.zeros_like(weights[:1]), weights], 0)
        loss = self._each(lambda now: self._losses(now)[0], self.moving(carry))
        self._first_loss = meta_loss.first_loss(loss[None])

    def moving(self, carry):
        """The carry without what no step changes."""
        return carry._replace(model_state=self._of_state(carry, False))

    def whole(self, moving):
        """The carry with what no step changes."""
        return self._whole(moving, self._constants)

    def advance(self, moving, steps):
        """The moving carry after some steps, of which nothing is recorded."""
        train = unroll_side_by_side if self._optimizees.rank else unroll
        carry, _ = train(self._rule, self._task, self.whole(moving), steps)
        return self.moving(carry)

    def forward(self, moving):
        """The moving carry after a step, and the outer loss before it."""

        def step(now):
            after, loss, _ = inner_step(self._rule, self._task, now)
            return self.moving(after), self._judge(now, loss)

        return self._each(step, moving)

    def end(self, moving):
        """The outer loss after the last step, and the cotangents there."""

        def last(now, weight, first_loss):
            loss, slope = self._losses(now)
            weight = self._slope(weight, loss, first_loss)
            leaves = floating(self.moving(now))
            cotangents = [tf.zeros_like(leaf) for leaf in leaves]
            cotangents[: len(slope)] = [
                tf.cast(weight, g.dtype) * g for g in slope
            ]
            return loss, cotangents

        weight = self._weight(self._meta_loss.steps)
        return self._each(last, moving, weight, self._first_loss)

    def backward(self, moving, index, cotangents):
        """The cotangents before a step, and what it adds to the gradients."""
        variables = [v.value for v in self._rule.trainable_variables]

        def products(before, weight, first_loss, *cotangents):
            inputs = floating(self.moving(before))
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                after, loss, _ = inner_step(
                    self._rule, self._task, before, True
                )
                loss = self._judge(before, loss)
                objective = self._slope(weight, loss, first_loss) * loss
                objective += _inner_product(
                    floating(self.moving(after)), cotangents, loss.dtype
                )
            return tape.gradient(
                objective,
                inputs + variables,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )

        found = self._each(
            products, moving, self._weight(index), self._first_loss, *cotangents
        )
        return found[: len(cotangents)], found[len(cotangents) :]

    def total(self, gradients, kept, largest_norm):
        """The sum of the gradients of the optimizees that are kept."""
        flat = [tf.reshape(g, [*self._optimizees, -1]) for g in gradients]
        kept = kept[..., None]
        scales = tf.ones(kept.shape, flat[0].dtype)
        if largest_norm is not None:
            norms = tf.norm(tf.concat(flat, -1), axis=-1, keepdims=True)
            scales = largest_norm / tf.maximum(norms, largest_norm)
            kept &= tf.math.is_finite(norms)
        totals = [tf.where(kept, scales * one, 0.0) for one in flat]
        if self._optimizees.rank:
            totals = [tf.reduce_sum(one, 0) for one in totals]
        return [
            tf.reshape(one, g.shape[self._optimizees.rank :])
            for one, g in zip(totals, gradients)
        ]

    def _each(self, function, moving, *others):
        """A function of the carry and more of one optimizee, of each."""

        def call(arguments):
            moving, constants, others = arguments
            return function(self._whole(moving, constants), *others)

        arguments = moving, self._constants, others
        if not self._optimizees.rank:
            return call(arguments)
        return tf.vectorized_map(call, arguments)

    def _of_state(self, carry, is_constant):
        return [
            leaf
            for leaf, one in zip(carry.model_state, self._is_constant)
            if one == is_constant
        ]

    def _whole(self, moving, constants):
        leaves = {True: iter(constants), False: iter(moving.model_state)}
        return moving._replace(
            model_state=[next(leaves[one]) for one in self._is_constant]
        )

    def _losses(self, carry):
        """The outer loss of a carry, with its gradients."""
        loss, slope, _ = loss_and_gradients(self._rule, self._task, carry)
        return outer_loss_and_gradients(
            *(self._rule, self._task, carry),
            *((loss, slope), self._meta_loss.held_out),
        )

    def _judge(self, carry, inner_loss):
        return outer_loss(
            *(self._rule, self._task, carry),
            *(inner_loss, self._meta_loss.held_out),
        )

    def _weight(self, index):
        return tf.broadcast_to(self._weights[index], self._optimizees)

    def _slope(self, weight, loss, first_loss):
        """dL/df(θ_t), a constant."""
        slope = self._meta_loss.derivative(loss, first_loss)
        return tf.stop_gradient(tf.cast(weight, loss.dtype) * slope)


def _constant_leaves(rule, task, carry):
    """Which leaves of the model state a step hands on: list of booleans."""
    found: list[bool] = []
    axes = carry.step.shape.rank

    def trace(carry):
        *_, after = loss_and_gradients(rule, task, carry)
        found.extend(a is b for a, b in zip(after, carry.model_state))

    specs = tf.nest.map_structure(
        lambda leaf: tf.TensorSpec(leaf.shape[axes:], leaf.dtype), carry
    )
    tf.function(trace, autograph=False).get_concrete_function(specs)
    return found


def _segment_starts(passes, carry, length, segments):
    """`StackedArrays` of the carries at the starts of all segments."""
    starts = StackedArrays.like(carry, segments).write(0, carry)
    if segments == 1:
        return starts

    def body(segment, carry, starts):
        carry = passes.advance(carry, length)
        return segment + 1, carry, starts.write(segment + 1, carry)

    *_, starts = _loop(
        lambda segment, *_: segment < segments - 1,
        body,
        (tf.constant(0), carry, starts),
    )
    return starts


def _record_segment(passes, carry, carries, begin, size, losses):
    """Trains through a segment, and writes to `carries`.

    Returns:
        Tuple `(carries, carry, losses)`: `StackedArrays` of the carry before
        each step, the carry after the last, and the `TensorArray` of losses.
    """

    def body(index, now, carries, losses):
        carries = carries.write(index, now)
        after, loss = passes.forward(now)
        return index + 1, after, carries, losses.write(begin + index, loss)

    _, carry, carries, losses = _loop(
        lambda index, *_: index < size,
        body,
        (tf.constant(0), carry, carries, losses),
    )
    return carries, carry, losses


def _backpropagate_segment(passes, carries, begin, size, cotangents, gradients):
    """Takes the cotangents of a carry from the end of a segment to its start.

    Returns:
        Tuple `(cotangents, gradients)`, lists of tensors: those of the first
        carry, and the gradients with what this segment adds.
    """

    def body(index, cotangents, gradients):
        cotangents, added = passes.backward(
            carries.read(index), begin + index, cotangents
        )
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
