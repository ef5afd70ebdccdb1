"""Schedule-Free AdamW: an average of the iterates in place of a schedule."""

from typing import Any

import keras
from keras import ops

from keras_l2l import checks
from keras_l2l.rules.base import CoordinatewiseRule
from keras_l2l.rules.learning_rate import LearningRateRule


@keras.saving.register_keras_serializable(package="keras_l2l")
class ScheduleFreeAdamW(LearningRateRule, CoordinatewiseRule):
    """AdamW that averages its iterates instead of decaying the learning rate.

    Equal to `optax.contrib.schedule_free_adamw`. There are three points. Adam
    without momentum moves z; x is the average of all z, weighted by the
    squared learning rate; gradients are computed at y between the two:

        y = (1 - β₁) z + β₁ x.

    The parameters are y. A model is evaluated at x, which
    `evaluation_parameters` returns. The state holds z - x and the second
    moment, so that another change of the parameters, such as a constraint,
    moves all three points.

    Args:
        learning_rate: Float > 0. The initial value of the one meta-parameter.
            Defaults to `0.0025`.
        warmup_steps: Integer. Number of steps in which the learning rate
            rises linearly from zero. Defaults to `None`, no warm-up.
        beta_1: Float in [0, 1). The β₁ above, which takes the place of a
            momentum. Defaults to `0.9`.
        beta_2: Float in [0, 1). Decay of the second moment.
            Defaults to `0.999`.
        epsilon: Float, added to the root of the second moment.
            Defaults to `1e-8`.
        weight_decay: Float >= 0. Multiplied by the learning rate.
            Defaults to `0.0`.
        name: String. The name of the rule.
        dtype: As for `UpdateRule`. Defaults to `"float32"`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> rule = keras_l2l.rules.ScheduleFreeAdamW(0.01, warmup_steps=100)
    >>> optimizer = keras_l2l.L2LOptimizer(rule)

    Reference:
        [Defazio et al., 2024](https://arxiv.org/abs/2405.15682)
    """

    def __init__(
        self,
        learning_rate: float = 0.0025,
        warmup_steps: int | None = None,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, **kwargs)
        if warmup_steps is not None:
            warmup_steps = checks.positive_integer(warmup_steps=warmup_steps)
        checks.fractions(beta_1=beta_1, beta_2=beta_2)
        self.warmup_steps = warmup_steps
        self.beta_1 = float(beta_1)
        self.beta_2 = float(beta_2)
        self.epsilon = float(epsilon)
        self.weight_decay = float(weight_decay)

    def initial_coordinate_state(self, count):
        zeros = ops.zeros((count,), self.compute_dtype)
        return {"second_moment": zeros, "lead": zeros}

    def initial_shared_state(self):
        zero = ops.zeros((), self.compute_dtype)
        return {"step": zero, "largest_rate": zero, "total_weight": zero}

    def update_coordinates(self, gradient, parameter, state, shared):
        step = shared["step"] + 1.0
        second = state["second_moment"]
        second = second + (ops.square(gradient) - second) * (1.0 - self.beta_2)
        root = ops.sqrt(second / (1.0 - self.beta_2**step)) + self.epsilon
        direction = gradient / root + self.weight_decay * parameter
        # The warm-up of the weight is a step ahead of that of the rate.
        largest = ops.maximum(shared["largest_rate"], self._rate(step))
        weight = ops.square(largest)
        total = shared["total_weight"] + weight
        share = weight / ops.where(total > 0.0, total, 1.0)
        # z - x after the step of z; x then moves by its share of it.
        distance = state["lead"] - self._rate(step - 1.0) * direction
        lead = (1.0 - share) * distance  # [N], z - x
        update = share * distance + (1.0 - self.beta_1) * (lead - state["lead"])
        return (
            update,
            {"second_moment": second, "lead": lead},
            {"step": step, "largest_rate": largest, "total_weight": total},
        )

    def evaluation_parameters(self, parameters, state):
        """Returns the averages x, which belong to the parameters y.

        Args:
            parameters: List of tensors, after a step.
            state: The `RuleState` after that step.

        Returns:
            List of tensors, shaped as `parameters`.
        """
        share = 1.0 - self.beta_1
        return [
            p
            - ops.cast(
                share * ops.reshape(local["lead"], ops.shape(p)), p.dtype
            )
            for p, local in zip(parameters, state.local)
        ]

    def get_config(self):
        return {
            **super().get_config(),
            "warmup_steps": self.warmup_steps,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "weight_decay": self.weight_decay,
        }

    def _rate(self, step):
        """The learning rate after a number of steps."""
        if self.warmup_steps is None:
            return self.learning_rate
        return self.learning_rate * ops.minimum(step / self.warmup_steps, 1.0)
