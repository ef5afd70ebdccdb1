"""An optimizee in training: its state between inner steps."""

from typing import Any, NamedTuple

import tensorflow as tf

from keras_l2l.execution.partition import partition
from keras_l2l.inner_loop.batched_task import BatchedTask


class Carry(NamedTuple):
    """The state of an episode, which goes from step to step.

    Or of `K` episodes side by side, see `BatchedTask`.

    Attributes:
        parameters: List of tensors, as the rule sees them. For a rule with
            independent coordinates they are equal blocks of all coordinates,
            each a vector `[n]`, the last one padded with zeros; `[K * n]` for
            `K` optimizees, each of which has `n` coordinates in every block.
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


def start(rule, task, seed):
    """Begins an episode.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`, or a `BatchedTask`.
        seed: Integer in [0, 2³¹). Fixes the initialisation and all batches.
            For a `BatchedTask` a list of `K` such integers.

    Returns:
        A `Carry`, before the first inner step.

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


def pack(rule, task, parameters):
    """Joins parameters and cuts them into equal blocks, if the rule allows.

    The hidden state is then kept in blocks from the start: to cut it at every
    step would cost more than to cut the parameters.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`, or a `BatchedTask`.
        parameters: List of tensors, as from `task.initial_parameters`.

    Returns:
        List of tensors, as in a `Carry`.
    """
    if not is_packed(rule, task):
        return list(parameters)
    optimizees, size = count_optimizees(task), count_coordinates(task)
    is_batched = isinstance(task, BatchedTask)
    blocks, length = partition(size, task.largest_count if is_batched else 1)
    rows = tf.concat(
        [tf.reshape(p, [optimizees, -1]) for p in parameters], 1
    )  # [K, N]
    rows = tf.pad(rows, [[0, 0], [0, blocks * length - size]])
    return [tf.reshape(b, [-1]) for b in tf.split(rows, blocks, axis=1)]


def unpack(rule, task, parameters):
    """The inverse of `pack`.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`, or a `BatchedTask`.
        parameters: List of tensors, as in a `Carry`.

    Returns:
        List of tensors, as from `task.initial_parameters`.
    """
    if not is_packed(rule, task):
        return list(parameters)
    optimizees = count_optimizees(task)
    rows = tf.concat(
        [tf.reshape(block, [optimizees, -1]) for block in parameters], 1
    )  # [K, blocks * length]
    specs = task.parameter_specs
    sizes = [spec.shape.num_elements() // optimizees for spec in specs]
    parts = tf.split(rows, [*sizes, rows.shape[1] - sum(sizes)], axis=1)
    return [tf.reshape(p, spec.shape) for p, spec in zip(parts, specs)]


def is_packed(rule, task):
    """Whether a `Carry` holds the coordinates in equal blocks.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`, or a `BatchedTask`.

    Returns:
        A boolean.
    """
    has_one_dtype = len({spec.dtype for spec in task.parameter_specs}) == 1
    return rule.granularity == "coordinate" and has_one_dtype


def is_stackable(rule):
    """Whether optimizees side by side are just more coordinates to a rule.

    They are not if the rule averages over the coordinates of an optimizee, or
    keeps a step count that optimizees of different ages would share.

    Args:
        rule: An `UpdateRule`.

    Returns:
        A boolean.
    """
    if rule.granularity != "coordinate":
        return False
    return not tf.nest.flatten(rule.initial_state([tf.zeros([1])]).shared)


def count_optimizees(task):
    """The number of optimizees that are trained side by side, `K`.

    Args:
        task: A `Task`, or a `BatchedTask`.

    Returns:
        An integer; 1 for a `Task`.
    """
    return task.count if isinstance(task, BatchedTask) else 1


def count_coordinates(task):
    """The number of coordinates of one optimizee, `N`.

    Args:
        task: A `Task`, or a `BatchedTask`.

    Returns:
        An integer.
    """
    total = sum(spec.shape.num_elements() for spec in task.parameter_specs)
    return total // count_optimizees(task)


def loss_dtype(carry):
    """The dtype of the losses of an episode.

    Args:
        carry: A `Carry`.

    Returns:
        A `tf.DType`: float64 where any of the parameters is, else float32.
    """
    is_double = any(p.dtype == tf.float64 for p in carry.parameters)
    return tf.float64 if is_double else tf.float32
