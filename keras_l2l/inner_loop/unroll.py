"""The inner loop, written once: whatever trains an optimizee calls it."""

import functools
from typing import Any, NamedTuple

import tensorflow as tf

from keras_l2l.execution.compiled_step import compile_rule
from keras_l2l.execution.partition import by_blocks
from keras_l2l.inner_loop.episode import Carry, loss_dtype, unpack
from keras_l2l.inner_loop.outer_loss import (
    dense_gradients,
    outer_loss,
    outer_loss_and_gradients,
)


class Trajectory(NamedTuple):
    """Losses and gradients along an unroll of `T` steps, at θ_0 … θ_T.

    Attributes:
        losses: Tensor `[T + 1]`, or `[T + 1, K]` for `K` optimizees, before
            each update and after the last: the outer losses.
        gradients: List of tensors `[T + 1, …]`, one for each of the carry's
            parameters, as the rule sees them; `None` unless asked for.
        outer_gradients: Those of the outer losses; the same list if these are
            the losses of training.
    """

    losses: Any
    gradients: Any
    outer_gradients: Any


def compile_unroll(rule, task, jit_compile=False, held_out=0.0):
    """`unroll` as a graph, with one trace for all seeds and all lengths.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`.
        jit_compile: Boolean. Whether XLA compiles the whole loop, once for
            each length: faster where many are of one length, and rounded
            otherwise than in `model.fit`. Defaults to `False`.
        held_out: Float, see `unroll`. Defaults to `0.0`.

    Returns:
        Function from a `Carry` and a number of inner steps to a `Carry` and a
        `Trajectory`, without gradients.
    """
    # TensorFlow counts the traces of a partial function separately; those of
    # functions with one body it adds up, and would warn of too many. As in
    # Keras's own training, Python control flow is not converted.
    run = tf.function(
        functools.partial(unroll, rule, task, held_out=held_out),
        autograph=False,
        jit_compile=jit_compile,
    )
    if jit_compile:
        return run
    return lambda carry, steps: run(carry, tf.constant(steps, tf.int32))


@tf.autograph.experimental.do_not_convert
def unroll(
    rule,
    task,
    carry,
    steps,
    record_gradients=False,
    differentiable=False,
    compiled=False,
    held_out=0.0,
):
    """Trains an optimizee for some inner steps.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`, or a `BatchedTask`.
        carry: A `Carry`, from `start` or from the last unroll.
        steps: Integer, or scalar integer tensor. Number of inner steps, `T`.
        record_gradients: Boolean. Whether to return the gradients.
            Defaults to `False`.
        differentiable: Boolean. Unrolls in Python, for an outer
            `GradientTape`: a longer graph. Defaults to `False`.
        compiled: Boolean. Whether XLA runs the rule: faster, and rounded
            otherwise than in `model.fit`. Defaults to `False`.
        held_out: Float in [0, 1]. The weight of held-out data in the losses
            that are returned, see `outer_loss`. Defaults to `0.0`.

    Returns:
        Tuple `(carry, trajectory)`: a `Carry` and a `Trajectory`.
    """

    step = by_blocks(rule, compile_rule(rule) if compiled else rule)

    def record(arrays, index, carry, loss, gradients):
        if record_gradients:
            loss, outer_gradients = outer_loss_and_gradients(
                rule, task, carry, (loss, gradients), held_out
            )
            values = [loss, *gradients, *(outer_gradients if held_out else ())]
        else:
            values = [outer_loss(rule, task, carry, loss, held_out)]
        return [
            array.write(index, value) for array, value in zip(arrays, values)
        ]

    def body(index, carry, arrays):
        before = carry
        carry, loss, gradients = inner_step(rule, task, carry, step=step)
        return index + 1, carry, record(arrays, index, before, loss, gradients)

    lists = (2 if held_out else 1) if record_gradients else 0
    arrays = _arrays(carry, steps, lists)
    state = (tf.constant(0), carry, arrays)
    if differentiable:
        for _ in range(steps):
            state = body(*state)
    else:
        state = tf.while_loop(
            lambda index, carry, arrays: index < steps,
            body,
            state,
            parallel_iterations=1,
        )
    _, carry, arrays = state
    # The loss after the last update, on the batch of the step to come.
    loss, gradients, _ = loss_and_gradients(rule, task, carry)
    losses, *gradients = [
        array.stack() for array in record(arrays, steps, carry, loss, gradients)
    ]
    if not record_gradients:
        return carry, Trajectory(losses, None, None)
    count = len(carry.parameters)
    return carry, Trajectory(losses, gradients[:count], gradients[-count:])


def inner_step(rule, task, carry, second_derivatives=False, step=None):
    """One step of an optimizee's training.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`, or a `BatchedTask`.
        carry: A `Carry`.
        second_derivatives: Boolean. Whether an outer tape sees how the
            gradients depend on the parameters. Defaults to `False`.
        step: Function with the arguments and the results of `rule`, which is
            called in its place. Defaults to `None`.

    Returns:
        Tuple `(carry, loss, gradients)`: the next `Carry`, and the loss and
        its gradients before the step.
    """
    loss, gradients, model_state = loss_and_gradients(rule, task, carry)
    if not second_derivatives:
        gradients = [tf.stop_gradient(gradient) for gradient in gradients]
    step = step or by_blocks(rule, rule)
    updates, rule_state = step(gradients, carry.parameters, carry.rule_state)
    parameters = [p + u for p, u in zip(carry.parameters, updates)]
    carry = Carry(
        parameters, model_state, rule_state, carry.step + 1, carry.seed
    )
    return carry, loss, gradients


def loss_and_gradients(rule, task, carry):
    """The loss of an optimizee on the batch of its next step.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`, or a `BatchedTask`.
        carry: A `Carry`.

    Returns:
        Tuple `(loss, gradients, model_state)`: a scalar (or `[K]` for `K`
        optimizees), a list of tensors shaped as `carry.parameters`, and the
        next model state.
    """
    batch = task.sample_batch(tf.stack([carry.seed, carry.step], -1))
    with tf.GradientTape() as tape:
        tape.watch(carry.parameters)
        loss, model_state = task.loss(
            unpack(rule, task, carry.parameters), carry.model_state, batch
        )
    gradients = dense_gradients(tape, loss, carry.parameters)
    return tf.cast(loss, loss_dtype(carry)), gradients, list(model_state)


def _arrays(carry, steps, lists):
    """Tensor arrays for the losses, and for some lists of gradients."""
    specs = [(carry.step.shape, loss_dtype(carry))]
    specs += [(p.shape, p.dtype) for p in carry.parameters] * lists
    return [
        tf.TensorArray(dtype, size=steps + 1, element_shape=shape)
        for shape, dtype in specs
    ]
