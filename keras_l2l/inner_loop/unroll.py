"""The inner loop, written once: whatever trains an optimizee calls it."""

import functools
from typing import Any, NamedTuple

import tensorflow as tf

from keras_l2l.execution.compiled_step import compile_rule
from keras_l2l.execution.partition import by_blocks
from keras_l2l.inner_loop.episode import Carry, loss_dtype, unpack


class Trajectory(NamedTuple):
    """Losses and gradients along an unroll of `T` steps, at θ_0 … θ_T.

    Attributes:
        losses: Tensor `[T + 1]`, or `[T + 1, K]` for `K` optimizees, before
            each update and after the last.
        gradients: List of tensors `[T + 1, …]`, one for each of the carry's
            parameters; `None` unless asked for.
    """

    losses: Any
    gradients: Any


def compile_unroll(rule, task, jit_compile=False):
    """`unroll` as a graph, with one trace for all seeds and all lengths.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`.
        jit_compile: Boolean. Whether XLA compiles the whole loop, once for
            each length: faster where many are of one length, and rounded
            otherwise than in `model.fit`. Defaults to `False`.

    Returns:
        Function from a `Carry` and a number of inner steps to a `Carry` and a
        `Trajectory`, without gradients.
    """
    # TensorFlow counts the traces of a partial function separately; those of
    # functions with one body it adds up, and would warn of too many. As in
    # Keras's own training, Python control flow is not converted.
    run = tf.function(
        functools.partial(unroll, rule, task),
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

    Returns:
        Tuple `(carry, trajectory)`: a `Carry` and a `Trajectory`.
    """

    step = by_blocks(rule, compile_rule(rule) if compiled else rule)

    def record(arrays, index, loss, gradients):
        values = [loss, *(gradients if record_gradients else ())]
        return [
            array.write(index, value) for array, value in zip(arrays, values)
        ]

    def body(index, carry, arrays):
        carry, loss, gradients = inner_step(rule, task, carry, step=step)
        return index + 1, carry, record(arrays, index, loss, gradients)

    arrays = _arrays(carry, steps, record_gradients)
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
        array.stack() for array in record(arrays, steps, loss, gradients)
    ]
    return carry, Trajectory(losses, gradients if record_gradients else None)


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
    # Zero where the loss does not depend on a parameter; dense where an
    # embedding gives `IndexedSlices`.
    gradients = [
        tf.convert_to_tensor(gradient)
        for gradient in tape.gradient(
            loss,
            carry.parameters,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
    ]
    return tf.cast(loss, loss_dtype(carry)), gradients, list(model_state)


def _arrays(carry, steps, record_gradients):
    """Tensor arrays for the losses and the gradients."""
    specs = [(carry.step.shape, loss_dtype(carry))]
    if record_gradients:
        specs += [(p.shape, p.dtype) for p in carry.parameters]
    return [
        tf.TensorArray(dtype, size=steps + 1, element_shape=shape)
        for shape, dtype in specs
    ]
