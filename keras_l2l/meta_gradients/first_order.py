"""The meta-gradient through the updates alone, in bounded memory.

With the gradients of the optimizee as constants, dL/dφ is the derivative of
Σ_t w_t ⟨∇f(θ_t), θ_t⟩, in which only θ_t depends on the rule. So a forward
loop records what the rule saw and a backward loop multiplies a cotangent by
the Jacobian of one step of the rule after another. Within a step all is
computed again but what the rule keeps (see `kept`): that is as fast as a tape
through all steps, in less memory.
"""

import math
from typing import Any, NamedTuple

import tensorflow as tf

from keras_l2l.execution import residuals, stacked_arrays
from keras_l2l.execution.compiled_step import (
    compile_forward,
    compile_rule,
    compile_vjp,
    to_coordinates_last,
)
from keras_l2l.inner_loop.unroll import (
    inner_step,
    loss_and_gradients,
    loss_dtype,
    unroll,
)
from keras_l2l.meta_gradients import lanes
from keras_l2l.meta_gradients.coordinates import Block, choose, flat
from keras_l2l.rules import RuleState

# Coordinates whose step is taken back at once: its temporaries stay in the
# processor's near memory.
_BLOCK_SIZE = 2**11

# Each block of the way there is a call in the graph, which takes time to trace:
# rules that keep little would have thousands of them in one pass.
_MOST_BLOCKS = 32


def recorded_bytes(rule, steps):
    """Bytes that one pass records of one coordinate over an unroll.

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
    return steps * stacked_arrays.count_bytes([coordinate * 2, state, values])


def gradient_in_one_pass(rule, task, carry, meta_loss, share=1.0, seed=None):
    """Trains optimizees and takes the meta-gradient from what was recorded.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`, or a `BatchedTask`.
        carry: A `Carry`.
        meta_loss: A `MetaLoss`.
        share: Float in (0, 1]. Share of the coordinates that is recorded,
            for a rule whose coordinates are independent.
        seed: Integer tensor `[2]`. Which ones, if not all.

    Returns:
        Tuple `(losses, gradients, carry)`.
    """
    steps = meta_loss.steps
    chosen = choose(carry.parameters, meta_loss.optimizees, share, seed)
    is_vector = len(carry.parameters) == 1
    if share == 1.0 and is_vector and rule.granularity == "coordinate":
        return _gradient_in_blocks(rule, task, carry, meta_loss, chosen)
    step = compile_rule(rule)

    def pick(gradients, carry):
        seen = _Seen(gradients, carry.parameters, carry.rule_state, [])
        return _pick(rule, seen, chosen)

    def body(t, carry, losses, arrays):
        before = carry
        carry, loss, gradients = inner_step(rule, task, carry, call=step)
        arrays = stacked_arrays.write(arrays, t, pick(gradients, before))
        return t + 1, carry, losses.write(t, loss), arrays

    # For the shapes.
    like = pick(carry.parameters, carry)
    losses = tf.TensorArray(
        loss_dtype(carry), size=steps + 1, element_shape=carry.step.shape
    )
    _, carry, losses, arrays = tf.while_loop(
        lambda t, *_: t < steps,
        body,
        (tf.constant(0), carry, losses, stacked_arrays.arrays(like, steps)),
        parallel_iterations=1,
    )
    loss, last, _ = loss_and_gradients(rule, task, carry)
    losses = losses.write(steps, loss).stack()
    weights = meta_loss.slopes(losses)
    last = chosen.pick(last)
    gradients = _backward(rule, arrays, like, last, weights, chosen)
    return losses, gradients, carry


def _gradient_in_blocks(rule, task, carry, meta_loss, chosen):
    """`gradient_in_one_pass` of all coordinates, in one vector.

    The blocks of the way back are those of the way there, so that what is
    recorded of a block is read as it was written: to cut it from what was
    recorded of all would copy it.
    """
    steps = meta_loss.steps
    step = compile_forward(rule)
    at_once = lanes.count()
    size = carry.parameters[0].shape.num_elements()
    division = lanes.divide(
        size, max(_BLOCK_SIZE, math.ceil(size / _MOST_BLOCKS)), at_once
    )

    def split(state):
        """Hidden state of the coordinates of each block, transposed."""
        leaves = [
            division.split(tf.transpose(leaf), axis=-1)
            for leaf in tf.nest.flatten(state.local)
        ]
        local = [
            tf.nest.pack_sequence_as(
                state.local[0], [blocks[number] for blocks in leaves]
            )
            for number in range(division.blocks)
        ]
        return state._replace(local=local)

    def join(state):
        """The inverse of `split`."""
        local = tf.nest.map_structure(
            lambda *blocks: tf.transpose(division.join(blocks, axis=-1)),
            *state.local,
        )
        return state._replace(local=[local])

    def index(t, number):
        return t * division.blocks + number

    def body(t, carry, losses, arrays):
        blocks: list[_Seen] = []

        def call(gradients, parameters, state):
            parts = zip(
                division.split(gradients[0]),
                division.split(parameters[0]),
                state.local,
            )
            updates, local = [], []
            for gradient, parameter, block in parts:
                arguments = (
                    [gradient],
                    [parameter],
                    state._replace(local=[block]),
                )
                ((update,), after), values = step(*arguments)
                blocks.append(_Seen(*arguments, values))
                updates.append(update)
                local += after.local
            return [division.join(updates)], after._replace(local=local)

        carry, loss, _ = inner_step(rule, task, carry, call=call)
        for number, seen in enumerate(blocks):
            arrays = stacked_arrays.write(arrays, index(t, number), seen)
        return t + 1, carry, losses.write(t, loss), arrays

    carry = carry._replace(rule_state=split(carry.rule_state))
    like = _like(
        step,
        division.split(carry.parameters[0])[:1],
        carry.rule_state._replace(local=carry.rule_state.local[:1]),
    )
    losses = tf.TensorArray(
        loss_dtype(carry), size=steps + 1, element_shape=carry.step.shape
    )
    _, carry, losses, arrays = tf.while_loop(
        lambda t, *_: t < steps,
        body,
        (
            tf.constant(0),
            carry,
            losses,
            stacked_arrays.arrays(like, steps * division.blocks),
        ),
        parallel_iterations=1,
    )
    loss, last, _ = loss_and_gradients(rule, task, carry)
    losses = losses.write(steps, loss).stack()
    weights = meta_loss.slopes(losses)

    def gradient_of_block(number):
        block = division.block(number)
        return _backward_loop(
            rule,
            lambda t: stacked_arrays.read(arrays, index(t, number), like),
            [block.of(last[0])],
            weights,
            block.of_coordinates(chosen, 0),
        )

    gradients = lanes.add_up(
        gradient_of_block, division.blocks, at_once, _zeros(rule)
    )
    return losses, gradients, carry._replace(rule_state=join(carry.rule_state))


def gradient_in_two_passes(
    rule,
    task,
    carry,
    meta_loss,
    share=1.0,
    seed=None,
    memory_budget=2**30,
):
    """The same for a rule with independent parts, in less memory.

    Optimizees are trained first and only their gradients recorded. Then the
    rule is run on these again, in blocks of coordinates, or on one tensor
    after the other where those of a tensor depend on each other.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`, or a `BatchedTask`.
        carry: A `Carry`.
        meta_loss: A `MetaLoss`.
        share: As for `gradient_in_one_pass`.
        seed: As for `gradient_in_one_pass`.
        memory_budget: Integer, in bytes. Defaults to 1 GiB.

    Returns:
        Tuple `(losses, gradients, carry)`.
    """
    steps = meta_loss.steps
    chosen = choose(carry.parameters, meta_loss.optimizees, share, seed)
    parameters = chosen.pick(carry.parameters)
    local = chosen.pick_local(carry.rule_state.local)
    shared = carry.rule_state.shared
    carry, trajectory = unroll(
        rule, task, carry, steps, record_gradients=True, compiled=True
    )
    weights = meta_loss.slopes(trajectory.losses)
    block_size = max(1, memory_budget // recorded_bytes(rule, steps))
    parts = []
    if rule.granularity == "coordinate":
        parameters = [flat(parameter) for parameter in parameters]
    for index, parameter in enumerate(parameters):
        gradient = trajectory.gradients[index]
        if rule.granularity == "coordinate":
            gradient = tf.reshape(gradient, [steps + 1, -1])
        if chosen.rows[index] is not None:
            gradient = tf.gather(gradient, chosen.rows[index], axis=1)

        def gradient_of_block(
            block, index=index, parameter=parameter, gradient=gradient
        ):
            state = tf.nest.map_structure(block.of, local[index])
            return _run_again(
                rule,
                block.of(gradient, axis=1),
                block.of(parameter),
                RuleState([state], shared),
                weights,
                block.of_coordinates(chosen, index),
            )

        parts.append(
            _over_blocks(rule, gradient_of_block, parameter, block_size)
        )
    gradients = [tf.add_n(gradients) for gradients in zip(*parts)]
    return trajectory.losses, gradients, carry


class _Seen(NamedTuple):
    """What the rule saw at a step, and what it kept for the way back."""

    gradients: Any
    parameters: Any
    state: Any
    kept: Any


def _run_again(rule, gradient, parameter, state, weights, chosen):
    """The meta-gradient of some coordinates, from their gradients."""
    steps = weights.shape[0]
    step = compile_forward(rule)
    state = to_coordinates_last(rule, state)

    def body(t, parameter, state, arrays):
        arguments = [gradient[t]], [parameter], state
        ((update,), state), values = step(*arguments)
        arrays = stacked_arrays.write(arrays, t, _Seen(*arguments, values))
        return t + 1, parameter + update, state, arrays

    like = _like(step, [parameter], state)
    *_, arrays = tf.while_loop(
        lambda t, *_: t < steps,
        body,
        (tf.constant(0), parameter, state, stacked_arrays.arrays(like, steps)),
        parallel_iterations=1,
    )
    return _backward(rule, arrays, like, [gradient[steps]], weights, chosen)


def _backward(rule, arrays, like, last, weights, chosen):
    """The backward loop, of what is independent each for itself.

    That is a tensor, or a block of its coordinates. Tensors do not wait for
    each other, so that several cores can work on them.
    """
    if rule.granularity == "model":
        return _backward_loop(
            rule,
            lambda t: stacked_arrays.read(arrays, t, like),
            last,
            weights,
            chosen,
        )
    parts = []
    for index, parameter in enumerate(like.parameters):

        def gradient_of_block(block, index=index):
            def cut(tensor):
                return block.of(
                    flat(tensor) if rule.granularity == "coordinate" else tensor
                )

            def read(t):
                seen = stacked_arrays.read(arrays, t, like)
                local = block.of_structure(seen.state.local[index])
                return _Seen(
                    [cut(seen.gradients[index])],
                    [cut(seen.parameters[index])],
                    seen.state._replace(local=[local]),
                    block.of_structure(seen.kept),
                )

            return _backward_loop(
                rule,
                read,
                [cut(last[index])],
                weights,
                block.of_coordinates(chosen, index),
            )

        parts.append(
            _over_blocks(
                rule,
                gradient_of_block,
                parameter,
                _BLOCK_SIZE,
                at_once=lanes.count(),
            )
        )
    return [tf.add_n(gradients) for gradients in zip(*parts)]


def _backward_loop(rule, read, last, weights, chosen):
    """Takes a cotangent of parameters and state from θ_T back to θ_0.

    Args:
        rule: An `UpdateRule`.
        read: Function from a step `t` to what the rule saw then.
        last: List of tensors, the gradients at θ_T.
        weights: Tensor `[T]` or `[T, K]`.
        chosen: `Coordinates`.

    Returns:
        List of tensors, one for each of `rule.trainable_variables`.
    """
    steps = weights.shape[0]
    step_back = compile_vjp(rule)

    def slopes(gradients, t):
        """w_t ∇f(θ_t), where that is a number."""
        result = []
        for gradient, owners, scale in zip(
            gradients, chosen.owners, chosen.scales
        ):
            weight = weights[t - 1] / steps
            if weight.shape.rank:
                weight = tf.gather(weight, owners)
            weight = tf.cast(weight, scale.dtype) * scale
            slope = tf.reshape(weight, gradient.shape) * gradient
            result.append(
                tf.where(
                    tf.math.is_finite(gradient), slope, tf.zeros_like(slope)
                )
            )
        return result

    def body(t, d_parameters, d_state, totals):
        seen = read(t)
        d_parameters, d_state, gradients = step_back(
            *seen, d_parameters, d_state
        )
        # θ_0 is given, and no loss at it is in the meta-loss.
        more = slopes(seen.gradients, tf.maximum(t, 1))
        d_parameters = [d + s for d, s in zip(d_parameters, more)]
        totals = [a + b for a, b in zip(totals, gradients)]
        return t - 1, d_parameters, d_state, totals

    d_state = [
        tf.zeros_like(leaf) for leaf in stacked_arrays.floating(read(0).state)
    ]
    *_, totals = tf.while_loop(
        lambda t, *_: t >= 0,
        body,
        (tf.constant(steps - 1), slopes(last, steps), d_state, _zeros(rule)),
        parallel_iterations=1,
    )
    return totals


def _over_blocks(rule, gradient_of_block, parameter, block_size, at_once=1):
    """Sums a function of a block over blocks of one size.

    A parameter whose coordinates depend on each other is one block.

    Args:
        rule: An `UpdateRule`.
        gradient_of_block: Function from a `Block` to a list of tensors.
        parameter: Tensor.
        block_size: Integer. The most coordinates of a block.
        at_once: Integer. How many blocks may be worked on at once: the
            temporaries of so many add up. Defaults to `1`.

    Returns:
        List of tensors.
    """
    size = parameter.shape.num_elements()
    blocks = math.ceil(size / block_size)
    if blocks == 1 or rule.granularity != "coordinate":
        return gradient_of_block(Block())
    division = lanes.divide(size, block_size, at_once)
    return lanes.add_up(
        lambda number: gradient_of_block(division.block(number)),
        division.blocks,
        at_once,
        _zeros(rule),
    )


def _like(step, parameters, state):
    """What `step` sees and keeps, for the shapes."""
    outputs = step.get_concrete_function(parameters, parameters, state)
    _, values = outputs.structured_outputs
    values = [tf.zeros(value.shape, value.dtype) for value in values]
    return _Seen(parameters, parameters, state, values)


def _pick(rule, seen, chosen):
    """The chosen coordinates of what the rule saw, their state transposed.

    Those of a share are gathered row by row, and are so few that what the rule
    keeps of all would cost more than to compute it again.
    """
    state = seen.state._replace(local=chosen.pick_local(seen.state.local))
    return _Seen(
        chosen.pick(seen.gradients),
        chosen.pick(seen.parameters),
        to_coordinates_last(rule, state),
        seen.kept,
    )


def _zeros(rule):
    return [tf.zeros_like(v) for v in rule.trainable_variables]
