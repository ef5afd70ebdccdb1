"""The meta-gradient through the updates alone, in bounded memory.

The gradients of the optimizee are constants to the rule. So dL/dφ is the
derivative of Σ_t w_t ⟨∇f(θ_t), θ_t⟩, in which only θ_t depends on φ, and the
backward pass goes through the steps of the rule alone.
"""

import math

import tensorflow as tf

from keras_l2l.execution.compiled_step import (
    compile_forward,
    to_coordinates_last,
)
from keras_l2l.execution.partition import StepInputs, join_parts, split_parts
from keras_l2l.execution.stacked_arrays import StackedArrays
from keras_l2l.inner_loop.episode import (
    count_coordinates,
    count_optimizees,
    is_packed,
    loss_dtype,
)
from keras_l2l.inner_loop.outer_loss import outer_loss_and_gradients
from keras_l2l.inner_loop.unroll import inner_step, loss_and_gradients, unroll
from keras_l2l.meta_gradients.coordinates import (
    Part,
    all_coordinates,
    join_small,
    sample_coordinates,
    slice_part,
)
from keras_l2l.meta_gradients.recorded_steps import (
    backpropagate,
    empty_records,
    record_step,
    recorded_bytes,
)


def gradient_in_one_pass(rule, task, carry, meta_loss):
    """Trains optimizees, recording every step, and backpropagates.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`, or a `BatchedTask`.
        carry: A `Carry`.
        meta_loss: A `MetaLoss`.

    Returns:
        Tuple `(losses, gradients, carry)`.
    """
    steps, held_out = meta_loss.steps, meta_loss.held_out
    step = compile_forward(rule)

    def body(t, carry, losses, records, outer):
        before = carry
        written: list[StackedArrays] = []

        def record_parts(*inputs):
            parts = split_parts(rule, *inputs)
            results, written[:] = record_step(step, records, t, parts)
            return join_parts(results)

        carry, *inner = inner_step(rule, task, carry, step=record_parts)
        loss, gradients = outer_loss_and_gradients(
            rule, task, before, inner, held_out
        )
        outer = [arrays.write(t, gradients) for arrays in outer]
        return t + 1, carry, losses.write(t, loss), written, outer

    carry = _transpose_state(rule, carry)
    records = empty_records(
        step,
        split_parts(rule, carry.parameters, carry.parameters, carry.rule_state),
        steps,
    )
    losses = tf.TensorArray(
        loss_dtype(carry), size=steps + 1, element_shape=carry.step.shape
    )
    # The records hold the gradients that the rule sees.
    outer = [StackedArrays.like(carry.parameters, steps)] if held_out else []
    _, carry, losses, records, outer = tf.while_loop(
        lambda t, *_: t < steps,
        body,
        (tf.constant(0), carry, losses, records, outer),
        parallel_iterations=1,
    )
    *inner, _ = loss_and_gradients(rule, task, carry)
    loss, last = outer_loss_and_gradients(rule, task, carry, inner, held_out)
    losses = losses.write(steps, loss).stack()
    weights = _loss_weights(meta_loss, losses)
    last = _by_part(rule, last)
    coordinates = all_coordinates(carry.parameters[0], count_optimizees(task))
    gradients = _backpropagate_losses(
        rule,
        records,
        weights,
        last,
        [coordinates] * len(last),
        lambda index, t, inputs: (
            _by_part(rule, outer[0].read(t))[index]
            if outer
            else inputs.gradients
        ),
    )
    return losses, gradients, _transpose_state(rule, carry)


def gradient_in_two_passes(
    rule, task, carry, meta_loss, share, seed, memory_budget
):
    """The same for a rule with independent parts, in less memory.

    Optimizees are trained first, and only their gradients recorded. Then the
    steps of the rule are repeated and recorded: those of a share of the
    coordinates, of one slice of coordinates after another, or of one tensor
    after another.

    Args:
        rule: An `UpdateRule`, whose granularity is not the model.
        task: A `Task`, or a `BatchedTask`.
        carry: A `Carry`.
        meta_loss: A `MetaLoss`.
        share: Float in (0, 1]. Share of the coordinates, for a rule with
            independent coordinates.
        seed: Integer tensor `[2]`, of the coordinates that are drawn; `[K, 2]`
            for a `BatchedTask`.
        memory_budget: Integer, in bytes, for all records.

    Returns:
        Tuple `(losses, gradients, carry)`.
    """
    before = carry
    carry, trajectory = unroll(
        rule,
        task,
        carry,
        meta_loss.steps,
        record_gradients=True,
        compiled=True,
        held_out=meta_loss.held_out,
    )
    recorded = [trajectory.gradients]
    if meta_loss.held_out:
        recorded.append(trajectory.outer_gradients)
    weights = _loss_weights(meta_loss, trajectory.losses)
    coordinates = all_coordinates(before.parameters[0], count_optimizees(task))
    parts = [
        Part(
            gradients,
            parameter,
            before.rule_state._replace(local=[local]),
            coordinates,
        )
        for *gradients, parameter, local in zip(
            *recorded, before.parameters, before.rule_state.local
        )
    ]
    if rule.granularity == "coordinate":
        parts = [_flatten(part) for part in parts]
        if share < 1.0:
            parts = _sample(rule, task, parts, share, seed)
        gradients = _repeat_in_slices(rule, parts, weights, memory_budget)
    else:
        gradients = _repeat_one_by_one(rule, parts, weights)
    return trajectory.losses, gradients, carry


def _by_part(rule, tensors):
    """A list of tensors, one for each parameter, as lists, one a part."""
    return [tensors] if rule.granularity == "model" else [[t] for t in tensors]


def _backpropagate_losses(
    rule, records, weights, last, coordinates, outer_gradients
):
    """`backpropagate`, with the cotangents w_t ∇f(θ_t) of the outer losses.

    Args:
        rule: An `UpdateRule`.
        records: As for `backpropagate`.
        weights: Tensor `[T + 1]` or `[T + 1, K]`.
        last: List with, for each part, the list of the gradients at θ_T.
        coordinates: List of `Coordinates`, one for each part.
        outer_gradients: Function from the index of a part, the step `t` and
            its `StepInputs` to the list of the gradients at θ_t.

    Returns:
        List of tensors, one for each of `rule.trainable_variables`.
    """
    steps = weights.shape[0] - 1

    def cotangents(index, t, gradients):
        return [
            coordinates[index].scale(gradient, weights[t])
            for gradient in gradients
        ]

    def add_cotangents(index, t, inputs, d_parameters):
        added = cotangents(index, t, outer_gradients(index, t, inputs))
        return [d + a for d, a in zip(d_parameters, added)]

    return backpropagate(
        rule,
        records,
        steps,
        [cotangents(i, steps, gradients) for i, gradients in enumerate(last)],
        add_cotangents,
    )


def _repeat(rule, parts, weights):
    """The meta-gradient of some parts, whose steps are repeated."""
    steps = weights.shape[0] - 1
    step = compile_forward(rule)
    parts = [
        part._replace(state=to_coordinates_last(rule, part.state))
        for part in parts
    ]

    def body(t, parameters, states, records):
        inputs = [
            StepInputs([part.gradients[0][t]], [parameter], state)
            for part, parameter, state in zip(parts, parameters, states)
        ]
        results, records = record_step(step, records, t, inputs)
        parameters = [
            p + update for p, ((update,), _) in zip(parameters, results)
        ]
        return t + 1, parameters, [state for _, state in results], records

    parameters = [part.parameter for part in parts]
    states = [part.state for part in parts]
    inputs = [
        StepInputs([parameter], [parameter], state)
        for parameter, state in zip(parameters, states)
    ]
    *_, records = tf.while_loop(
        lambda t, *_: t < steps,
        body,
        (
            tf.constant(0),
            parameters,
            states,
            empty_records(step, inputs, steps),
        ),
        parallel_iterations=1,
    )
    return _backpropagate_losses(
        rule,
        records,
        weights,
        [[part.gradients[-1][steps]] for part in parts],
        [part.coordinates for part in parts],
        lambda index, t, inputs: [parts[index].gradients[-1][t]],
    )


def _repeat_in_slices(rule, parts, weights, memory_budget):
    """The same, in slices of coordinates whose records fit into a budget."""
    size = sum(part.parameter.shape[0] for part in parts)
    size *= recorded_bytes(rule, weights.shape[0] - 1)
    slices = math.ceil(size / memory_budget)
    if slices == 1:
        return _repeat(rule, parts, weights)

    def body(index, totals):
        sliced = [slice_part(part, index, slices) for part in parts]
        gradients = _repeat(rule, sliced, weights)
        return index + 1, [a + b for a, b in zip(totals, gradients)]

    totals = [tf.zeros_like(v) for v in rule.trainable_variables]
    _, totals = tf.while_loop(
        lambda index, _: index < slices,
        body,
        (tf.constant(0), totals),
        parallel_iterations=1,
    )
    return totals


def _repeat_one_by_one(rule, parts, weights):
    """The same, one part after another, so that few records exist at once."""
    totals = [tf.zeros_like(v) for v in rule.trainable_variables]
    for part in parts:
        with tf.control_dependencies(totals):
            gradients = _repeat(rule, [part], weights)
        totals = [a + b for a, b in zip(totals, gradients)]
    return totals


def _sample(rule, task, parts, share, seed):
    """A random share of the coordinates of each part."""
    optimizees = count_optimizees(task)
    padding = 0
    if is_packed(rule, task):
        total = sum(part.parameter.shape[0] for part in parts)
        padding = total // optimizees - count_coordinates(task)
    samples = []
    for index, part in enumerate(parts):
        rows, coordinates = sample_coordinates(
            part.parameter.shape[0] // optimizees,
            share,
            tf.reshape(seed, [optimizees, 2]),
            index,
            padding if index == len(parts) - 1 else 0,
        )
        samples.append(part.gather(rows, coordinates))
    return join_small(samples) if is_packed(rule, task) else samples


def _flatten(part):
    """A part as a vector of coordinates."""
    return part._replace(
        gradients=[tf.reshape(g, [g.shape[0], -1]) for g in part.gradients],
        parameter=tf.reshape(part.parameter, [-1]),
    )


def _loss_weights(meta_loss, losses):
    """`[T + 1]` or `[T + 1, K]`: dL/df(θ_t), zero at θ_0, which is given."""
    slopes = meta_loss.slopes(losses) / meta_loss.steps
    return tf.concat([tf.zeros_like(slopes[:1]), slopes], 0)


def _transpose_state(rule, carry):
    """A carry with its hidden state in the other data layout."""
    return carry._replace(
        rule_state=to_coordinates_last(rule, carry.rule_state)
    )
