"""Prodigy: Adam that estimates its own step size."""

from typing import Any

import keras
from keras import ops

from keras_l2l import checks
from keras_l2l.rules import preprocessing
from keras_l2l.rules.base import RuleState
from keras_l2l.rules.learning_rate import LearningRateRule


@keras.saving.register_keras_serializable(package="keras_l2l")
class Prodigy(LearningRateRule):
    """Adam with a step size that grows to the distance to the solution.

    Equal to `optax.contrib.prodigy`. The estimate of the distance uses how
    far the parameters have moved along the gradients, summed over all
    coordinates of all parameters, and never decreases. The learning rate
    needs no tuning: the default `1.0` is meant for every task.

    The state has 16 bytes a coordinate. It holds the initial parameter, whose
    small difference to the parameter matters: leave the `state_dtype` of
    `L2LOptimizer` at float32.

    Args:
        learning_rate: Float > 0. The initial value of the one meta-parameter,
            which multiplies the estimated step size. Defaults to `1.0`.
        beta_1: Float in [0, 1). Decay of the first moment.
            Defaults to `0.9`.
        beta_2: Float in [0, 1). Decay of the second moment. Its square root
            is the decay of the sums in the estimate. Defaults to `0.999`.
        epsilon: Float, added to the root of the second moment, relative to
            the distance. Defaults to `1e-8`.
        initial_distance: Float > 0. The first estimate of the distance,
            which should be too small. Defaults to `1e-6`.
        weight_decay: Float >= 0. Decoupled, as in AdamW. Defaults to `0.0`.
        name: String. The name of the rule.
        dtype: As for `UpdateRule`. Defaults to `"float32"`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> optimizer = keras_l2l.L2LOptimizer(keras_l2l.rules.Prodigy())

    Reference:
        [Mishchenko and Defazio, 2023](https://arxiv.org/abs/2306.06101)
    """

    def __init__(
        self,
        learning_rate: float = 1.0,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        initial_distance: float = 1e-6,
        weight_decay: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, **kwargs)
        checks.fractions(beta_1=beta_1, beta_2=beta_2)
        checks.positive_numbers(initial_distance=initial_distance)
        self.beta_1 = float(beta_1)
        self.beta_2 = float(beta_2)
        self.epsilon = float(epsilon)
        self.initial_distance = float(initial_distance)
        self.weight_decay = float(weight_decay)

    def initial_state(self, parameters):
        dtype = self.compute_dtype

        def local(parameter):
            zeros = ops.zeros(ops.shape(parameter), dtype)
            return {
                "first_moment": zeros,
                "second_moment": zeros,
                "gradient_sum": zeros,
                # Set at the first step: the initial state of an exported
                # rule does not know the parameters.
                "start": zeros,
                "has_start": ops.zeros((), dtype),
            }

        return RuleState(
            local=[local(parameter) for parameter in parameters],
            shared={
                "step": ops.zeros((), dtype),
                "distance": ops.full((), self.initial_distance, dtype),
                "progress": ops.zeros((), dtype),
            },
        )

    def call(self, gradients, parameters, state):
        dtype, shared = self.compute_dtype, state.shared
        gradients = [
            preprocessing.finite(ops.cast(g, dtype)) for g in gradients
        ]
        values = [ops.cast(p, dtype) for p in parameters]
        starts = [
            ops.where(old["has_start"] > 0.0, old["start"], value)
            for old, value in zip(state.local, values)
        ]
        step, distance = shared["step"] + 1.0, shared["distance"]
        # Both bias corrections in one scalar.
        rate = distance * self.learning_rate
        rate *= ops.sqrt(1.0 - self.beta_2**step) / (1.0 - self.beta_1**step)
        local = [
            {
                **self._next_moments(distance * gradient, rate, old),
                "start": start,
                "has_start": ops.ones_like(old["has_start"]),
            }
            for gradient, start, old in zip(gradients, starts, state.local)
        ]
        # How far the parameters have moved along the gradients.
        moved = sum(
            ops.sum(gradient * (start - value))
            for gradient, start, value in zip(gradients, starts, values)
        )
        weight = rate * distance / self.initial_distance
        progress = self._beta_3 * shared["progress"] + weight * moved
        size = sum(ops.sum(ops.abs(new["gradient_sum"])) for new in local)
        # Before the first non-zero gradient both are zero; so is the estimate.
        estimate = progress / ops.where(size > 0.0, size, 1.0)
        distance = ops.maximum(distance, estimate)
        updates = [
            ops.cast(self._update(new, value, rate, distance), p.dtype)
            for new, value, p in zip(local, values, parameters)
        ]
        return updates, RuleState(
            local, {"step": step, "distance": distance, "progress": progress}
        )

    def get_config(self):
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "initial_distance": self.initial_distance,
            "weight_decay": self.weight_decay,
        }

    @property
    def _beta_3(self):
        """The decay of the sums in the estimate."""
        return self.beta_2**0.5

    def _next_moments(self, gradient, rate, old):
        """Updates the moments by a gradient times the distance."""
        first, second = old["first_moment"], old["second_moment"]
        weight = rate / self.initial_distance
        return {
            "first_moment": self.beta_1 * first
            + (1.0 - self.beta_1) * gradient,
            "second_moment": self.beta_2 * second
            + (1.0 - self.beta_2) * ops.square(gradient),
            "gradient_sum": self._beta_3 * old["gradient_sum"]
            + weight * gradient,
        }

    def _update(self, moments, value, rate, distance):
        """The update of one parameter in the dtype of the rule."""
        root = ops.sqrt(moments["second_moment"]) + distance * self.epsilon
        direction = moments["first_moment"] / root + self.weight_decay * value
        return -rate * direction
