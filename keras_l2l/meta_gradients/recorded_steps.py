"""Recorded steps of a rule, and the backward pass through them.

A forward loop records the inputs and the residuals of each step. A backward
loop multiplies a cotangent by the Jacobian of one step after another, with
rematerialisation of all but the residuals. Both loops run a step on each of
the parts of `execution.partition`.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from keras_l2l.execution import residuals
from keras_l2l.execution.compiled_step import compile_vjp
from keras_l2l.execution.partition import StepInputs
from keras_l2l.execution.stacked_arrays import (
    StackedArrays,
    count_bytes,
    floating,
)


class StepRecord(NamedTuple):
    """One step of a rule on one part, as the backward pass needs it.

    Attributes:
        inputs: A `StepInputs`.
        residuals: List of tensors, see `execution.residuals`.
    """

    inputs: StepInputs
    residuals: Any


def recorded_bytes(rule, steps):
    """Bytes that are recorded for one coordinate over an unroll.

    Args:
        rule: An `UpdateRule`.
        steps: Integer.

    Returns:
        An integer.
    """
    coordinate = [tf.zeros([1], rule.compute_dtype)]
    state = rule.named_initial_state(coordinate, [""])
    with residuals.saving_residuals() as values:
        rule(coordinate, coordinate, state)
    return steps * count_bytes([coordinate * 2, state, values])


def empty_records(step, parts, steps):
    """Records of the steps to come.

    Args:
        step: From `compile_forward`.
        parts: List of `StepInputs`, for the shapes.
        steps: Integer.

    Returns:
        List of `StackedArrays` of `StepRecord`: one for each part, or one for
        all parts if they are equal.
    """
    specs = [
        tf.nest.map_structure(lambda leaf: (leaf.shape, leaf.dtype), part)
        for part in parts
    ]
    # Equal parts share arrays: each loop variable takes time to trace.
    if all(spec == specs[0] for spec in specs):
        parts, steps = parts[:1], steps * len(parts)
    records = []
    for part in parts:
        traced = step.get_concrete_function(*part)
        _, values = traced.structured_outputs
        values = [tf.zeros(value.shape, value.dtype) for value in values]
        records.append(StackedArrays.like(StepRecord(part, values), steps))
    return records


def record_step(step, records, t, parts):
    """Runs and records one step of a rule on each part.

    Args:
        step: From `compile_forward`.
        records: List of `StackedArrays`, from `empty_records`.
        t: Scalar integer tensor. The step.
        parts: List of `StepInputs`.

    Returns:
        Tuple `(results, records)`: list of the results of the rule, and the
        list of `StackedArrays` to be used from now on.
    """
    records, results = list(records), []
    for index, part in enumerate(parts):
        result, values = step(*part)
        which, row = _place(records, len(parts), t, index)
        records[which] = records[which].write(row, StepRecord(part, values))
        results.append(result)
    return results, records


def backpropagate(rule, records, steps, last, add_cotangents):
    """Backpropagates through the recorded steps of a rule.

    Args:
        rule: An `UpdateRule`.
        records: List of `StackedArrays`, from `record_step`.
        steps: Integer, `T`.
        last: List with, for each part, the list of the cotangents of θ_T.
        add_cotangents: Function from the index of a part, the step `t`, the
            inputs of that step and the cotangents of θ_t by the later steps
            alone to the cotangents of θ_t.

    Returns:
        List of tensors, one for each of `rule.trainable_variables`.
    """
    step_vjp = compile_vjp(rule)

    def read(t, index):
        which, row = _place(records, len(last), t, index)
        return records[which].read(row)

    def body(t, d_parameters, d_states, totals):
        d_parameters, d_states = list(d_parameters), list(d_states)
        terms = [totals]
        for i in range(len(last)):
            inputs, values = read(t, i)
            d_before, d_states[i], gradients = step_vjp(
                *inputs, values, d_parameters[i], d_states[i]
            )
            d_parameters[i] = add_cotangents(i, t, inputs, d_before)
            terms.append(gradients)
        totals = [tf.add_n(tensors) for tensors in zip(*terms)]
        return t - 1, d_parameters, d_states, totals

    d_states = [
        [tf.zeros_like(leaf) for leaf in floating(read(0, i).inputs.state)]
        for i in range(len(last))
    ]
    totals = [tf.zeros_like(v) for v in rule.trainable_variables]
    *_, totals = tf.while_loop(
        lambda t, *_: t >= 0,
        body,
        (tf.constant(steps - 1), last, d_states, totals),
        parallel_iterations=1,
    )
    return totals


def _place(records, parts, t, index):
    """Which arrays hold a step of a part, and the row in them."""
    if len(records) == parts:
        return index, t
    return 0, t * parts + index
