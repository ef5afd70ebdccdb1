"""Estimators of the gradient of the meta-loss."""

import abc
from typing import Any, NamedTuple

import tensorflow as tf

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

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
        section 2.
    """

    def __init__(self, second_derivatives=False, coordinate_share=1.0):
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
        self.coordinate_share = float(coordinate_share)

    def __call__(self, rule, task, carry, weights, seed):
        if self.coordinate_share < 1.0 and rule.independent != "coordinates":
            raise ValueError(
                "Argument `coordinate_share` must be 1.0 for a rule whose "
                f"coordinates are not independent. Received: rule={rule}, "
                f"coordinate_share={self.coordinate_share}"
            )
        if self.second_derivatives:
            return Estimate(*backpropagate(rule, task, carry, weights))
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
        with tf.GradientTape() as tape:
            objective = _replay(rule, replayed, weights)
        gradients = _gradient(tape, objective, rule)
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


def _sample(replayed, share, seed):
    """A random share of the coordinates, drawn without replacement."""
    sampled = _Replayed([], [], [], [])
    parts = zip(*replayed[:2], replayed.state.local)
    for index, (gradient, parameter, state) in enumerate(parts):
        count = tf.size(parameter, tf.int32)
        kept = tf.cast(
            tf.math.ceil(share * tf.cast(count, tf.float32)), tf.int32
        )
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
        sampled.scales.append(tf.cast(count / kept, tf.float32))
    return sampled._replace(state=replayed.state._replace(local=sampled.state))


def _gradient(tape, objective, rule):
    return tape.gradient(
        objective,
        [v.value for v in rule.trainable_variables],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
