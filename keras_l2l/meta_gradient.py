"""Estimators of the gradient of the meta-loss."""

import abc
import math
from typing import Any, NamedTuple

import tensorflow as tf

from keras_l2l import checks
from keras_l2l.rules import RuleState
from keras_l2l.second_derivatives import backpropagate
from keras_l2l.unroll import Carry, unroll


class Estimate(NamedTuple):
    """What an estimator returns.

    Attributes:
        losses: Tensor `[steps + 1]`, of the optimizee before each step of the
            unroll and after the last.
        gradients: List of tensors, one for each of
            `rule.trainable_variables`: the gradient of the meta-loss, which
            is the mean over the steps of w_t times the loss after the step.
        carry: The `Carry` after the unroll.
    """

    losses: Any
    gradients: Any
    carry: Carry


class MetaGradientEstimator(abc.ABC):
    """Base class of the estimators of the meta-gradient."""

    @abc.abstractmethod
    def __call__(self, rule, task, carry, weights, seed):
        """Unrolls an optimizee and estimates the gradient of the meta-loss.

        Runs inside a `tf.function`.

        Args:
            rule: An `UpdateRule`.
            task: A `Task`.
            carry: A `Carry`.
            weights: Tensor `[steps]` of static shape, the weights w_t of the
                losses after each of the steps.
            seed: Integer tensor `[2]`, for estimators that draw.

        Returns:
            An `Estimate`.
        """


class TruncatedBackpropagation(MetaGradientEstimator):
    """Backpropagation through the updates of one unroll.

    The gradients of the optimizee are constants to the rule, as in the paper
    (∂∇f/∂φ = 0). Then

        dL/dφ = Σ_t w_t ⟨∇f(θ_t), dθ_t/dφ⟩,

    and each ∇f(θ_t) is a gradient that the inner loop computes anyway. So the
    optimizee is trained forwards first, its gradients recorded; then the
    *rule alone* is run again on the recorded gradients, under a tape. Nothing
    is ever differentiated twice, and no activation of the optimizee is kept.

    Args:
        second_derivatives: Boolean. Whether the gradients of the optimizee
            depend on its parameters for the meta-gradient, too. Needs a
            backward pass through the whole unroll, and second derivatives of
            the optimizee. Without them a long unroll does not see that a
            smaller step now leads to other gradients later. See
            `derivative_smoothing` of `CoordinatewiseLSTM`. Defaults to `False`.
        coordinate_share: Float in (0, 1]. Of a rule with independent
            coordinates the meta-gradient is a sum over coordinates; with less
            than 1 it is estimated, without bias, from a random share of them,
            at that share of the cost. Defaults to `1.0`.
        memory_budget: Integer, in bytes: what a pass may keep for the way
            back, roughly. Where it is exceeded, rules with independent
            coordinates are replayed in blocks of coordinates; with second
            derivatives, the unroll is recorded in segments, which are trained
            through twice. Defaults to 1.5 GiB.

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
        section 2.
    """

    def __init__(
        self,
        second_derivatives=False,
        coordinate_share=1.0,
        memory_budget=3 * 2**29,
    ):
        if not 0.0 < coordinate_share <= 1.0:
            raise ValueError(
                "Argument `coordinate_share` must be in the range (0, 1]. "
                f"Received: coordinate_share={coordinate_share}"
            )
        if second_derivatives and coordinate_share < 1.0:
            raise ValueError(
                "Argument `coordinate_share` must be 1.0 with "
                "`second_derivatives=True`, which couple the coordinates. "
                f"Received: coordinate_share={coordinate_share}"
            )
        self.second_derivatives = bool(second_derivatives)
        checks.positive_integers(memory_budget=memory_budget)
        self.coordinate_share = float(coordinate_share)
        self.memory_budget = memory_budget

    def __call__(self, rule, task, carry, weights, seed):
        if self.coordinate_share < 1.0 and rule.independent != "coordinates":
            raise ValueError(
                "Argument `coordinate_share` must be 1.0 for a rule whose "
                f"coordinates are not independent. Received: rule={rule}, "
                f"coordinate_share={self.coordinate_share}"
            )
        if self.second_derivatives:
            return Estimate(
                *backpropagate(rule, task, carry, weights, self.memory_budget)
            )
        return self._through_the_rule(rule, task, carry, weights, seed)

    def _through_the_rule(self, rule, task, carry, weights, seed):
        steps = weights.shape[0]
        next_carry, trajectory = unroll(
            rule, task, carry, steps, record_gradients=True
        )
        replayed = _Replayed(
            trajectory.gradients,
            carry.parameters,
            carry.rule_state,
            [1.0] * len(carry.parameters),
        )
        if self.coordinate_share < 1.0:
            replayed = _sample(replayed, self.coordinate_share, seed)
        gradients = None
        for part, block_size in _parts(
            rule, replayed, self.memory_budget, steps
        ):
            if block_size is None:
                more = _gradient(rule, part, weights)
            else:
                more = _gradient_in_blocks(rule, part, weights, block_size)
            gradients = (
                more
                if gradients is None
                else [a + b for a, b in zip(gradients, more)]
            )
        return Estimate(trajectory.losses, gradients, next_carry)


class _Replayed(NamedTuple):
    """What the rule is run on again.

    Attributes:
        gradients: List of tensors `[T + 1, …]`.
        parameters: List of tensors, before the first step.
        state: The `RuleState` before the first step.
        scales: List of floats: coordinates in all / coordinates here.
    """

    gradients: Any
    parameters: Any
    state: Any
    scales: Any


def _replay(rule, replayed, weights):
    """Scalar whose gradient is that of the meta-loss: Σ_t w_t ⟨∇f_t, θ_t⟩."""
    gradients, parameters, state, scales = replayed
    steps = weights.shape[0]
    objective = 0.0
    for t in range(steps):
        updates, state = rule([g[t] for g in gradients], parameters, state)
        parameters = [p + u for p, u in zip(parameters, updates)]
        for gradient, parameter, scale in zip(gradients, parameters, scales):
            product = tf.reduce_sum(gradient[t + 1] * parameter)
            objective += scale * weights[t] * tf.cast(product, weights.dtype)
    return objective / steps


def _gradient(rule, replayed, weights):
    with tf.GradientTape() as tape:
        objective = _replay(rule, replayed, weights)
    return tape.gradient(
        objective,
        [v.value for v in rule.trainable_variables],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )


def _parts(rule, replayed, memory_budget, steps):
    """What is replayed together: everything, where it fits or must be.

    Yields pairs of a `_Replayed` and a block size, `None` for no blocks.
    """
    sizes = [p.shape.num_elements() for p in replayed.parameters]
    if rule.independent != "coordinates":
        yield replayed, None
        return
    block_size = max(1, memory_budget // (steps * _tape_bytes(rule)))
    if sum(sizes) <= block_size:
        yield replayed, None
        return
    for index, size in enumerate(sizes):
        part = _Replayed(
            [replayed.gradients[index]],
            [replayed.parameters[index]],
            RuleState([replayed.state.local[index]], replayed.state.shared),
            [replayed.scales[index]],
        )
        yield part, block_size if size > block_size else None


def _gradient_in_blocks(rule, replayed, weights, block_size):
    """The gradient of one parameter's coordinates, summed block by block."""
    (gradient,), (parameter,), state, scales = replayed
    size = parameter.shape.num_elements()
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

    def body(block, gradients):
        begin = block * block_size
        part = slice(begin, begin + block_size)
        # The slices have static shapes, which the products profit from.
        more = _gradient(
            rule,
            _Replayed(
                [_fixed(gradient[:, part], 1, block_size)],
                [_fixed(parameter[part], 0, block_size)],
                RuleState(
                    [
                        tf.nest.map_structure(
                            lambda s: _fixed(s[part], 0, block_size), local
                        )
                    ],
                    state.shared,
                ),
                scales,
            ),
            weights,
        )
        return block + 1, [a + b for a, b in zip(gradients, more)]

    _, gradients = tf.while_loop(
        lambda block, _: block < blocks,
        body,
        (tf.constant(0), [tf.zeros_like(v) for v in rule.trainable_variables]),
        parallel_iterations=1,
    )
    return gradients


def _fixed(tensor, axis, size):
    shape = tensor.shape.as_list()
    shape[axis] = size
    return tf.ensure_shape(tensor, shape)


def _tape_bytes(rule):
    """Bytes that a tape keeps of a step of one coordinate, at most.

    Those of all intermediate results of the rule's graph.
    """
    spec = tf.TensorSpec([1], rule.compute_dtype)

    def step(gradient):
        parameters = [tf.zeros_like(gradient)]
        return rule([gradient], parameters, rule.initial_state(parameters))

    graph = tf.function(step, autograph=False).get_concrete_function(spec).graph
    outputs = [output for op in graph.get_operations() for output in op.outputs]
    return sum(
        output.shape.num_elements() * output.dtype.size
        for output in outputs
        if output.dtype.is_floating
        and output.shape.rank
        and output.shape[0] == 1
    )


def _sample(replayed, share, seed):
    """A random share of the coordinates, drawn without replacement."""
    sampled = _Replayed([], [], [], [])
    parts = zip(*replayed[:2], replayed.state.local)
    for index, (gradient, parameter, state) in enumerate(parts):
        count = parameter.shape.num_elements()
        kept = math.ceil(share * count)
        order = tf.random.experimental.stateless_shuffle(
            tf.range(count), seed + index
        )
        chosen = order[:kept]
        flat = tf.reshape(gradient, [tf.shape(gradient)[0], -1])
        sampled.gradients.append(tf.gather(flat, chosen, axis=1))
        sampled.parameters.append(
            tf.gather(tf.reshape(parameter, [-1]), chosen)
        )
        sampled.state.append(
            tf.nest.map_structure(lambda s: tf.gather(s, chosen), state)  # noqa: B023
        )
        sampled.scales.append(count / kept)
    return sampled._replace(state=replayed.state._replace(local=sampled.state))
