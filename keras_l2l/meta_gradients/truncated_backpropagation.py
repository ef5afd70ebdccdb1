"""Truncated backpropagation through the updates of an unroll."""

import tensorflow as tf

from keras_l2l import checks
from keras_l2l.execution.stacked_arrays import count_bytes
from keras_l2l.inner_loop.episode import (
    count_coordinates,
    is_packed,
    is_stackable,
)
from keras_l2l.meta_gradients.base import Estimate, MetaGradientEstimator
from keras_l2l.meta_gradients.first_order import (
    gradient_in_one_pass,
    gradient_in_two_passes,
    recorded_bytes,
)
from keras_l2l.meta_gradients.second_order import backpropagate

# Recorded bytes for which optimizees are put side by side. More would pay a
# few calls less and then wait for the processor's memory.
_NEAR_MEMORY = 3 * 2**25


class TruncatedBackpropagation(MetaGradientEstimator):
    """Backpropagation through the updates of one unroll.

    The gradients of the optimizee are constants to the rule, as in the paper
    (∂∇f/∂φ = 0). Then

        dL/dφ = Σ_t w_t ⟨∇f(θ_t), dθ_t/dφ⟩,

    and each ∇f(θ_t) is a gradient that the inner loop computes anyway. So the
    way back is through the *rule alone*: nothing is ever differentiated twice,
    and no activation of the optimizee is kept. What is kept is the rule's
    state at each step; where that is too much, only the gradients are, and
    the rule is run on them again in blocks of coordinates.

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
            coordinates are replayed in blocks of coordinates, rules with
            independent tensors on one after the other; with second
            derivatives, the unroll is recorded in segments, which are trained
            through twice. Defaults to 1 GiB.

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
        section 2.
    """

    def __init__(
        self,
        second_derivatives=False,
        coordinate_share=1.0,
        memory_budget=2**30,
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

    def capacity(self, rule, task, steps):
        # Rules of other kinds would need a state for each optimizee.
        if self.second_derivatives:
            return 1
        if not (is_stackable(rule) and is_packed(rule, task)):
            return 1
        room = min(self.memory_budget, _NEAR_MEMORY)
        room //= recorded_bytes(rule, steps) * self.coordinate_share
        return max(1, int(room // count_coordinates(task)))

    @tf.autograph.experimental.do_not_convert
    def __call__(self, rule, task, carry, meta_loss, seed):
        if self.coordinate_share < 1.0 and rule.granularity != "coordinate":
            raise ValueError(
                "Argument `coordinate_share` must be 1.0 for a rule whose "
                f"coordinates are not independent. Received: rule={rule}, "
                f"coordinate_share={self.coordinate_share}"
            )
        if self.second_derivatives:
            return Estimate(
                *backpropagate(rule, task, carry, meta_loss, self.memory_budget)
            )
        if rule.granularity == "coordinate":
            size = recorded_bytes(rule, meta_loss.steps)
            size *= sum(p.shape.num_elements() for p in carry.parameters)
        else:
            size = meta_loss.steps * count_bytes(
                [carry.parameters, carry.parameters, carry.rule_state]
            )
        is_small = size <= self.memory_budget and self.coordinate_share == 1.0
        if rule.granularity == "model" or is_small:
            return Estimate(*gradient_in_one_pass(rule, task, carry, meta_loss))
        return Estimate(
            *gradient_in_two_passes(
                rule,
                task,
                carry,
                meta_loss,
                self.coordinate_share,
                seed,
                self.memory_budget,
            )
        )
