"""The inner loop: everything that trains an optimizee calls it."""

import functools
from typing import Any, NamedTuple

import tensorflow as tf


class Carry(NamedTuple):
    """One optimizee in training: all that goes from step to step.

    Attributes:
        parameters: List of tensors, as the rule sees them: for a rule with
            independent coordinates one vector `[N]` of all coordinates.
        model_state: List of tensors (batch-norm statistics, dropout seeds).
        rule_state: The rule's `RuleState`.
        step: Scalar integer tensor. Inner steps done.
        seed: Scalar integer tensor. The episode's seed.
    """

    parameters: list[Any]
    model_state: list[Any]
    rule_state: Any
    step: Any
    seed: Any


class Trajectory(NamedTuple):
    """What an unroll of `T` steps saw, at θ_0 … θ_T.

    Attributes:
        losses: Tensor `[T + 1]`, before each update and after the last.
        gradients: List of tensors `[T + 1, …]`, one for each of the carry's
            parameters; `None` unless asked for.
    """

    losses: Any
    gradients: Any


def start(rule, task, seed):
    """A fresh optimizee, before its first inner step.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`.
        seed: Integer in [0, 2³¹). Fixes the initialisation and all batches.

    Returns:
        A `Carry`.
    """
    parameters, model_state = task.initial_parameters(seed)
    parameters = _pack(rule, task, parameters)
    return Carry(
        parameters=parameters,
        model_state=list(model_state),
        rule_state=rule.initial_state(parameters),
        step=tf.constant(0, tf.int32),
        seed=tf.constant(seed, tf.int32),
    )


def compile_unroll(rule, task, steps):
    """`unroll` as a graph, with one trace for all seeds.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`.
        steps: Integer. Number of inner steps.

    Returns:
        Function from a `Carry` to a `Carry` and a `Trajectory`, without
        gradients.
    """

    # As in Keras's own training: no conversion of Python control flow.
    return tf.function(
        functools.partial(unroll, rule, task, steps=steps), autograph=False
    )


def unroll(
    rule,
    task,
    carry,
    steps,
    record_gradients=False,
    differentiable=False,
):
    """Trains an optimizee for some inner steps.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`.
        carry: A `Carry`, from `start` or from the last unroll.
        steps: Integer. Number of inner steps, `T`.
        record_gradients: Boolean. Whether to return the gradients.
            Defaults to `False`.
        differentiable: Boolean. Unrolls in Python, for an outer
            `GradientTape`: a longer graph. Defaults to `False`.

    Returns:
        Tuple `(carry, trajectory)`: a `Carry` and a `Trajectory`.
    """

    def record(arrays, index, loss, gradients):
        values = [loss, *(gradients if record_gradients else ())]
        return [
            array.write(index, value) for array, value in zip(arrays, values)
        ]

    def body(index, carry, arrays):
        carry, loss, gradients = inner_step(rule, task, carry)
        return index + 1, carry, record(arrays, index, loss, gradients)

    state = (tf.constant(0), carry, _arrays(carry, steps, record_gradients))
    if differentiable:
        for _ in range(steps):
            state = body(*state)
    else:
        state = tf.while_loop(
            lambda index, carry, arrays: index < steps,
            body,
            state,
            parallel_iterations=1,
            maximum_iterations=steps,
        )
    _, carry, arrays = state
    # The loss after the last update, on the batch of the step to come.
    loss, gradients, _ = loss_and_gradients(rule, task, carry)
    losses, *gradients = [
        array.stack() for array in record(arrays, steps, loss, gradients)
    ]
    return carry, Trajectory(losses, gradients if record_gradients else None)


def inner_step(rule, task, carry, second_derivatives=False):
    """One step of an optimizee's training.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`.
        carry: A `Carry`.
        second_derivatives: Boolean. Whether an outer tape sees how the
            gradients depend on the parameters. Defaults to `False`.

    Returns:
        Tuple `(carry, loss, gradients)`: the next `Carry`, and the loss and
        its gradients before the step.
    """
    loss, gradients, model_state = loss_and_gradients(rule, task, carry)
    if not second_derivatives:
        gradients = [tf.stop_gradient(gradient) for gradient in gradients]
    updates, rule_state = rule(gradients, carry.parameters, carry.rule_state)
    parameters = [p + u for p, u in zip(carry.parameters, updates)]
    carry = Carry(
        parameters, model_state, rule_state, carry.step + 1, carry.seed
    )
    return carry, loss, gradients


def loss_and_gradients(rule, task, carry):
    """The loss of an optimizee on the batch of its next step.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`.
        carry: A `Carry`.

    Returns:
        Tuple `(loss, gradients, model_state)`: a scalar, a list of tensors
        shaped as `carry.parameters`, and the next model state.
    """
    batch = task.sample_batch(tf.stack([carry.seed, carry.step]))
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


def unpack(rule, task, parameters):
    """The carry's parameters in the task's own shapes.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`.
        parameters: List of tensors, from a `Carry`.

    Returns:
        List of tensors, as from `task.initial_parameters`.
    """
    if not _is_packed(rule, task):
        return list(parameters)
    specs = task.parameter_specs
    parts = tf.split(parameters[0], [s.shape.num_elements() for s in specs])
    return [tf.reshape(p, s.shape) for p, s in zip(parts, specs)]


def _pack(rule, task, parameters):
    if not _is_packed(rule, task):
        return list(parameters)
    return [tf.concat([tf.reshape(p, [-1]) for p in parameters], 0)]


def _is_packed(rule, task):
    """Whether the carry holds all coordinates in one vector.

    It saves joining and cutting the hidden state at every step.
    """
    one_dtype = len({spec.dtype for spec in task.parameter_specs}) == 1
    return rule.independent == "coordinates" and one_dtype


def _arrays(carry, steps, record_gradients):
    """Tensor arrays for the losses and the gradients."""
    specs = [((), loss_dtype(carry))]
    if record_gradients:
        specs += [(p.shape, p.dtype) for p in carry.parameters]
    return [
        tf.TensorArray(dtype, size=steps + 1, element_shape=shape)
        for shape, dtype in specs
    ]


def loss_dtype(carry):
    """The dtype of the losses: float64 where the parameters are, else float32.

    Args:
        carry: A `Carry`.

    Returns:
        A `tf.DType`.
    """
    is_double = any(p.dtype == tf.float64 for p in carry.parameters)
    return tf.float64 if is_double else tf.float32
