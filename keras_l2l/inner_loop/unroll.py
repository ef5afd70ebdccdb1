"""The inner loop: everything that trains an optimizee calls it."""

import functools
from typing import Any, NamedTuple

import tensorflow as tf

from keras_l2l.execution.compiled_step import compile_rule
from keras_l2l.inner_loop.batched_task import BatchedTask


class Carry(NamedTuple):
    """An optimizee in training: all that goes from step to step.

    Or `K` optimizees side by side (see `BatchedTask`).

    Attributes:
        parameters: List of tensors, as the rule sees them: for a rule with
            independent coordinates one vector `[N]` of all coordinates, those
            of one optimizee after those of another.
        model_state: List of tensors (batch-norm statistics, dropout seeds),
            `[K, …]` for `K` optimizees.
        rule_state: The rule's `RuleState`.
        step: Integer tensor, a scalar or `[K]`. Inner steps done.
        seed: Integer tensor, a scalar or `[K]`. The episode's seed.
    """

    parameters: list[Any]
    model_state: list[Any]
    rule_state: Any
    step: Any
    seed: Any


class Trajectory(NamedTuple):
    """What an unroll of `T` steps saw, at θ_0 … θ_T.

    Attributes:
        losses: Tensor `[T + 1]`, or `[T + 1, K]` of `K` optimizees, before
            each update and after the last.
        gradients: List of tensors `[T + 1, …]`, one for each of the carry's
            parameters; `None` unless asked for.
    """

    losses: Any
    gradients: Any


def start(rule, task, seed):
    """A fresh optimizee, before its first inner step.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`, or a `BatchedTask`.
        seed: Integer in [0, 2³¹). Fixes the initialisation and all batches.
            Of a `BatchedTask`, a list of them.

    Returns:
        A `Carry`.

    Raises:
        ValueError: If the task is a `BatchedTask` and the rule not stackable.
    """
    if isinstance(task, BatchedTask) and not is_stackable(rule):
        raise ValueError(
            "Argument `task` may be a `BatchedTask` only for a rule to which "
            "optimizees side by side are just more coordinates: one whose "
            "coordinates are independent, without shared state. "
            f"Received: rule={rule}, task={task}"
        )
    parameters, model_state = task.initial_parameters(seed)
    parameters = pack(rule, task, parameters)
    return Carry(
        parameters=parameters,
        model_state=list(model_state),
        rule_state=initial_rule_state(rule, task, parameters),
        step=tf.zeros_like(seed, tf.int32),
        seed=tf.constant(seed, tf.int32),
    )


def initial_rule_state(rule, task, parameters):
    """The hidden state before the first step of an optimizee.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`, or a `BatchedTask`.
        parameters: List of tensors, as in a `Carry`.

    Returns:
        A `RuleState`.
    """
    if rule.granularity == "coordinate":
        return rule.initial_state(parameters)
    return rule.named_initial_state(parameters, task.parameter_paths)


def compile_unroll(rule, task, jit_compile=False):
    """`unroll` as a graph, with one trace for all seeds and all lengths.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`.
        jit_compile: Boolean. Whether XLA compiles the whole loop, for each
            length anew: faster where many are of one length, and rounded
            otherwise than in `model.fit`. Defaults to `False`.

    Returns:
        Function from a `Carry` and a number of inner steps to a `Carry` and a
        `Trajectory`, without gradients.
    """
    # Of a partial function TensorFlow counts the traces by itself, of functions
    # with one body together, and would warn of too many. As in Keras's own
    # training there is no conversion of Python control flow.
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
        task: A `Task`.
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

    call = compile_rule(rule) if compiled else rule

    def record(arrays, index, loss, gradients):
        values = [loss, *(gradients if record_gradients else ())]
        return [
            array.write(index, value) for array, value in zip(arrays, values)
        ]

    def body(index, carry, arrays):
        carry, loss, gradients = inner_step(rule, task, carry, call=call)
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


def inner_step(rule, task, carry, second_derivatives=False, call=None):
    """One step of an optimizee's training.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`.
        carry: A `Carry`.
        second_derivatives: Boolean. Whether an outer tape sees how the
            gradients depend on the parameters. Defaults to `False`.
        call: Function with the arguments and the results of `rule`, which is
            called in its place. Defaults to `None`.

    Returns:
        Tuple `(carry, loss, gradients)`: the next `Carry`, and the loss and
        its gradients before the step.
    """
    loss, gradients, model_state = loss_and_gradients(rule, task, carry)
    if not second_derivatives:
        gradients = [tf.stop_gradient(gradient) for gradient in gradients]
    updates, rule_state = (call or rule)(
        gradients, carry.parameters, carry.rule_state
    )
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
        Tuple `(loss, gradients, model_state)`: a scalar (or `[K]` of `K`
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


def unpack(rule, task, parameters):
    """The carry's parameters in the task's own shapes.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`.
        parameters: List of tensors, from a `Carry`.

    Returns:
        List of tensors, as from `task.initial_parameters`.
    """
    if not is_packed(rule, task):
        return list(parameters)
    specs, count = task.parameter_specs, _count(task)
    sizes = [spec.shape.num_elements() // count for spec in specs]
    rows = tf.reshape(parameters[0], [count, sum(sizes)])
    parts = tf.split(rows, sizes, axis=1)
    return [tf.reshape(p, s.shape) for p, s in zip(parts, specs)]


def pack(rule, task, parameters):
    """The inverse of `unpack`.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`.
        parameters: List of tensors, as from `task.initial_parameters`.

    Returns:
        List of tensors, as in a `Carry`.
    """
    if not is_packed(rule, task):
        return list(parameters)
    rows = [tf.reshape(p, [_count(task), -1]) for p in parameters]
    return [tf.reshape(tf.concat(rows, 1), [-1])]


def is_packed(rule, task):
    """Whether the carry holds all coordinates in one vector.

    It saves joining and cutting the hidden state at every step.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`.

    Returns:
        A boolean.
    """
    one_dtype = len({spec.dtype for spec in task.parameter_specs}) == 1
    return rule.granularity == "coordinate" and one_dtype


def is_stackable(rule):
    """Whether optimizees side by side are to a rule just more coordinates.

    Not where it averages over the coordinates of an optimizee, or keeps a
    step count that optimizees of different ages would share.

    Args:
        rule: An `UpdateRule`.

    Returns:
        A boolean.
    """
    if rule.granularity != "coordinate":
        return False
    return not tf.nest.flatten(rule.initial_state([tf.zeros([1])]).shared)


def _count(task):
    return task.count if isinstance(task, BatchedTask) else 1


def _arrays(carry, steps, record_gradients):
    """Tensor arrays for the losses and the gradients."""
    specs = [(carry.step.shape, loss_dtype(carry))]
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
