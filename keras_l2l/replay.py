"""The meta-gradient through the updates alone, in bounded memory.

With the gradients of the optimizee as constants, the gradient of the
meta-loss is that of Σ_t w_t ⟨∇f(θ_t), θ_t⟩, where only θ_t depends on the
rule: so a tape records the rule and nothing else.
"""

import math
from typing import Any, NamedTuple

import tensorflow as tf

from keras_l2l.compiled import compile_rule
from keras_l2l.unroll import Carry, loss_and_gradients


class Recorded(NamedTuple):
    """An unroll, for the rule to be run on again.

    Attributes:
        gradients: List of tensors `[T + 1, …]`, at θ_0 … θ_T.
        parameters: List of tensors, θ_0.
        state: The `RuleState` before the first step.
        weights: Tensor `[T]`, or `[T, K]` where the coordinates are those of
            `K` optimizees, of the losses at θ_1 … θ_T.
        scales: List of floats, one for each parameter: by how much its
            coordinates count more, as they stand for others.
    """

    gradients: Any
    parameters: Any
    state: Any
    weights: Any
    scales: Any


def record(rule, task, carry, weights, contributes):
    """Unrolls an optimizee and takes the meta-gradient in one pass.

    Args:
        rule: An `UpdateRule`.
        task: A `Task`, or a `SideBySide`.
        carry: A `Carry`.
        weights: Tensor `[T]` or `[T, K]` of static shape.
        contributes: Function from the losses, `[T + 1]` or `[T + 1, K]`, to a
            boolean or booleans `[K]`: whose losses the meta-gradient is of.

    Returns:
        Tuple `(losses, gradients, carry)`.
    """
    steps = weights.shape[0]

    # One function, called at each step, is traced once. It is not inlined:
    # optimizing as many copies would take longer than the first unroll.
    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def look(carry):
        return loss_and_gradients(rule, task, carry)

    losses = []
    with tf.GradientTape() as tape:
        objective = tf.zeros_like(weights[0])
        for t in range(steps + 1):
            with tape.stop_recording():
                loss, gradients, model_state = look(carry)
            losses.append(loss)
            if t > 0:
                objective += weights[t - 1] * _inner_products(
                    gradients, carry.parameters, weights
                )
            if t < steps:
                updates, rule_state = compile_rule(rule)(
                    gradients, carry.parameters, carry.rule_state
                )
                carry = Carry(
                    [p + u for p, u in zip(carry.parameters, updates)],
                    model_state,
                    rule_state,
                    carry.step + 1,
                    carry.seed,
                )
        losses = tf.stack(losses)
        objective = tf.where(contributes(losses), objective, 0.0)
        objective = tf.reduce_sum(objective) / steps
    return losses, _gradients(tape, objective, rule), carry


def replay(rule, recorded, memory_budget):
    """The meta-gradient from an unroll that was recorded.

    Where memory does not suffice, and the rule's coordinates are independent,
    the coordinates are replayed in blocks.

    Args:
        rule: An `UpdateRule`.
        recorded: A `Recorded`.
        memory_budget: Integer, in bytes.

    Returns:
        List of tensors, one for each of `rule.trainable_variables`.
    """
    steps = recorded.weights.shape[0]
    sizes = [p.shape.num_elements() for p in recorded.parameters]
    block_size = max(1, memory_budget // tape_bytes(rule, steps))
    if rule.independent != "coordinates" or sum(sizes) <= block_size:
        return _replay(rule, recorded)
    parts = [
        _replay_in_blocks(
            rule,
            Recorded(
                [recorded.gradients[index]],
                [recorded.parameters[index]],
                recorded.state._replace(local=[recorded.state.local[index]]),
                recorded.weights,
                [recorded.scales[index]],
            ),
            min(size, block_size),
        )
        for index, size in enumerate(sizes)
    ]
    return [tf.add_n(gradients) for gradients in zip(*parts)]


def sample(recorded, share, seed):
    """A random share of the coordinates, drawn without replacement.

    Args:
        recorded: A `Recorded`.
        share: Float in (0, 1).
        seed: Integer tensor `[2]`.

    Returns:
        A `Recorded`, whose replay has the expected value of that of the whole.
    """
    optimizees = recorded.weights[0].shape.num_elements()
    gradients, parameters, local, scales = [], [], [], []
    parts = zip(recorded.gradients, recorded.parameters, recorded.state.local)
    for index, (gradient, parameter, state) in enumerate(parts):
        size = parameter.shape.num_elements() // optimizees
        kept = math.ceil(share * size)
        lots = tf.random.stateless_uniform([optimizees, size], seed + index)
        _, chosen = tf.math.top_k(lots, kept, sorted=False)
        # The coordinates of one optimizee stand after those of another.
        chosen += size * tf.range(optimizees)[:, None]
        chosen = tf.reshape(chosen, [-1])
        flat = tf.reshape(gradient, [gradient.shape[0], -1])
        gradients.append(tf.gather(flat, chosen, axis=1))
        parameters.append(tf.gather(tf.reshape(parameter, [-1]), chosen))
        local.append(
            tf.nest.map_structure(lambda s: tf.gather(s, chosen), state)  # noqa: B023
        )
        scales.append(size / kept)
    return Recorded(
        gradients,
        parameters,
        recorded.state._replace(local=local),
        recorded.weights,
        scales,
    )


def tape_bytes(rule, steps):
    """Bytes that a tape keeps of one coordinate over an unroll, at most.

    Those of all intermediate results of the rule's graph.

    Args:
        rule: An `UpdateRule`.
        steps: Integer.

    Returns:
        An integer.
    """
    spec = tf.TensorSpec([1], rule.compute_dtype)

    def step(gradient):
        parameters = [tf.zeros_like(gradient)]
        return rule([gradient], parameters, rule.initial_state(parameters))

    with tf.init_scope():
        graph = tf.function(step, autograph=False).get_concrete_function(spec)
    outputs = [
        output
        for operation in graph.graph.get_operations()
        for output in operation.outputs
    ]
    return steps * sum(
        output.shape.num_elements() * output.dtype.size
        for output in outputs
        if output.dtype.is_floating
        and output.shape.rank
        and output.shape[0] == 1
    )


def _replay(rule, recorded):
    gradients, parameters, state, weights, scales = recorded
    steps = weights.shape[0]
    step = compile_rule(rule)
    with tf.GradientTape() as tape:
        objective = tf.zeros_like(weights[0])
        for t in range(steps):
            updates, state = step([g[t] for g in gradients], parameters, state)
            parameters = [p + u for p, u in zip(parameters, updates)]
            objective += weights[t] * _inner_products(
                [g[t + 1] for g in gradients], parameters, weights, scales
            )
        objective = tf.reduce_sum(objective) / steps
    return _gradients(tape, objective, rule)


def _replay_in_blocks(rule, recorded, block_size):
    """The meta-gradient of one parameter's coordinates, block by block."""
    (gradient,), (parameter,), state, weights, scales = recorded
    size = parameter.shape.num_elements()
    weights = tf.reshape(weights, [weights.shape[0], -1])
    size_of_one = size // weights.shape[1]
    blocks = math.ceil(size / block_size)
    block_size = math.ceil(size / blocks)
    # Coordinates without gradient add nothing to the meta-gradient.
    padding = blocks * block_size - size

    def pad(tensor, axis):
        widths = [[0, 0] for _ in tensor.shape]
        widths[axis][1] = padding
        return tf.pad(tensor, widths)

    gradient = pad(tf.reshape(gradient, [gradient.shape[0], size]), 1)
    parameter = pad(tf.reshape(parameter, [size]), 0)
    local = tf.nest.map_structure(lambda s: pad(s, 0), state.local[0])

    def body(block, totals):
        begin = block * block_size
        part = slice(begin, begin + block_size)
        # To a block each of its coordinates is an optimizee, with its weights.
        owners = tf.range(begin, begin + block_size) // size_of_one
        owners = tf.minimum(owners, weights.shape[1] - 1)
        # The slices have static shapes, which the products profit from.
        gradients = _replay(
            rule,
            Recorded(
                [_fixed(gradient[:, part], 1, block_size)],
                [_fixed(parameter[part], 0, block_size)],
                state._replace(
                    local=[
                        tf.nest.map_structure(
                            lambda s: _fixed(s[part], 0, block_size), local
                        )
                    ]
                ),
                _fixed(tf.gather(weights, owners, axis=1), 1, block_size),
                scales,
            ),
        )
        return block + 1, [a + b for a, b in zip(totals, gradients)]

    _, totals = tf.while_loop(
        lambda block, _: block < blocks,
        body,
        (tf.constant(0), [tf.zeros_like(v) for v in rule.trainable_variables]),
        parallel_iterations=1,
    )
    return totals


def _inner_products(gradients, parameters, weights, scales=None):
    """Σ ⟨gradient, parameter⟩, a scalar, or `[K]` as one of the weights.

    Without the coordinates of gradients that are not finite, whose products
    no weight of zero would undo.
    """
    total = tf.zeros_like(weights[0])
    for index, (gradient, parameter) in enumerate(zip(gradients, parameters)):
        product = tf.where(
            tf.math.is_finite(gradient),
            gradient * parameter,
            tf.zeros_like(gradient),
        )
        product = tf.reshape(product, [*total.shape, -1])
        product = tf.cast(tf.reduce_sum(product, -1), total.dtype)
        total += product * scales[index] if scales else product
    return total


def _gradients(tape, objective, rule):
    return tape.gradient(
        objective,
        [v.value for v in rule.trainable_variables],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )


def _fixed(tensor, axis, size):
    shape = tensor.shape.as_list()
    shape[axis] = size
    return tf.ensure_shape(tensor, shape)
