"""Augmentations that change the scale of all gradients of an optimizee.

What they change is the same for all coordinates, so that a rule whose
coordinates share information can learn it sooner.
"""

import numpy as np
import tensorflow as tf

from keras_l2l import checks
from keras_l2l.tasks.augmentation import (
    Augmentation,
    check_bounds,
    log_interpolate,
)
from keras_l2l.tasks.base import Task


class LossScaling(Augmentation):
    """Multiplies the loss of each episode by a random factor.

    The factor is drawn log-uniform in [low, high] once an episode. The
    gradients come at its scale, while the right steps stay those of the task:
    a rule must find out the scale from the gradients. Held-out and test
    losses are those of the task itself, so that episodes of all scales count
    alike; train with `meta_loss="held_out"`.

    Args:
        task: A `Task`.
        low: Float > 0. The smallest factor. Defaults to `1e-2`.
        high: Float >= `low`. The largest factor. Defaults to `1e2`.

    Raises:
        TypeError: If `task` is not a `Task`.
        ValueError: If `low` or `high` is out of its range.

    Example:

    >>> task = keras_l2l.tasks.LossScaling(keras_l2l.tasks.Quadratic())
    """

    def __init__(self, task: Task, low: float = 1e-2, high: float = 1e2):
        super().__init__(task, "loss-scaled")
        check_bounds(low, high)
        self.low, self.high = float(low), float(high)

    def initial_parameters(self, seed):
        parameters, state = self.task.initial_parameters(seed)
        draw = self._generator(seed).uniform()
        factor = log_interpolate(self.low, self.high, draw)
        return parameters, [tf.constant(np.float32(factor)), *state]

    def sample_batch(self, seed):
        return self.task.sample_batch(seed)

    def loss(self, parameters, model_state, batch):
        factor, *state = model_state
        loss, state = self.task.loss(parameters, state, batch)
        return tf.cast(factor, loss.dtype) * loss, [factor, *state]

    def held_out_loss(self, parameters, model_state, batch):
        return self.task.held_out_loss(parameters, model_state[1:], batch)

    def test_loss(self, parameters, model_state):
        return self.task.test_loss(parameters, model_state[1:])


class GradientBursts(Augmentation):
    """Multiplies the gradients of some steps, drawn at random, by a factor.

    A burst hits all coordinates at once, as where the gradient of a recurrent
    network explodes. The loss itself stays as it is.

    Args:
        task: A `Task`.
        probability: Float in [0, 1). The share of the steps with a burst.
            Defaults to `0.05`.
        factor: Float > 0. What their gradients are multiplied by.
            Defaults to `100.0`.

    Raises:
        TypeError: If `task` is not a `Task`.
        ValueError: If another argument is out of its range.

    Example:

    >>> task = keras_l2l.tasks.GradientBursts(keras_l2l.tasks.Quadratic())
    """

    def __init__(
        self, task: Task, probability: float = 0.05, factor: float = 100.0
    ):
        super().__init__(task, "bursts")
        checks.fractions(probability=probability)
        checks.positive_numbers(factor=factor)
        self.probability, self.factor = float(probability), float(factor)

    def initial_parameters(self, seed):
        return self.task.initial_parameters(seed)

    def sample_batch(self, seed):
        # Another seed than that of the batch.
        draw = tf.random.stateless_uniform([], tf.random.fold_in(seed, -1))
        is_burst = draw < self.probability
        factor = tf.where(is_burst, tf.constant(self.factor), tf.constant(1.0))
        return self.task.sample_batch(seed), factor

    def loss(self, parameters, model_state, batch):
        batch, factor = batch
        loss, state = self.task.loss(parameters, model_state, batch)
        # The term is zero, and its gradient is what a burst adds.
        change = loss - tf.stop_gradient(loss)
        return loss + tf.cast(factor - 1.0, loss.dtype) * change, state

    def held_out_loss(self, parameters, model_state, batch):
        return self.task.held_out_loss(parameters, model_state, batch)

    def test_loss(self, parameters, model_state):
        return self.task.test_loss(parameters, model_state)
