"""Learning rates of rules: one that is learned, and one that decays."""

import math

from keras import ops

from keras_l2l import checks
from keras_l2l.rules.base import UpdateRule


class LearningRateRule(UpdateRule):
    """Base class of rules whose only meta-parameter is their learning rate.

    As a weight, the learning rate can be swept without a retrace, and
    learned.

    Args:
        learning_rate: Float > 0. Its initial value.
        **kwargs: As for `UpdateRule`.
    """

    def __init__(self, learning_rate, **kwargs):
        super().__init__(**kwargs)
        checks.positive_numbers(learning_rate=learning_rate)
        self.learning_rate = self.add_weight(
            shape=(),
            # Keras's `Constant` rounds to float32 before it casts to float64.
            initializer=lambda _, dtype: ops.convert_to_tensor(
                learning_rate, dtype
            ),
            name="learning_rate",
        )
        self._initial_learning_rate = float(learning_rate)

    def get_config(self):
        return {
            **super().get_config(),
            "learning_rate": self._initial_learning_rate,
        }


def cosine_decay(step, decay_steps):
    """The factor of a learning rate that falls along a cosine to zero.

    It is that of `keras.optimizers.schedules.CosineDecay`.

    Args:
        step: Scalar, counted from 1.
        decay_steps: Integer, the length of the cosine in steps; `None` for a
            constant learning rate.

    Returns:
        A scalar, 1 at the first step.
    """
    if decay_steps is None:
        return 1.0
    done = ops.minimum((step - 1.0) / decay_steps, 1.0)
    return 0.5 * (1.0 + ops.cos(math.pi * done))
