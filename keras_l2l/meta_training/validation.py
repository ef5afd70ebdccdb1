"""How good a rule is over whole episodes, and when it was best."""

import math

import numpy as np
import tensorflow as tf

from keras_l2l.inner_loop.unroll import compile_unroll, start
from keras_l2l.meta_gradients.meta_loss import MetaLoss
from keras_l2l.tasks.base import episode_seed


class Validation:
    """The meta-loss over whole episodes that no training sees.

    Args:
        rule: An `UpdateRule`.
        loss_transform: String, see `MetaTrainer`.
        seed: Integer.
        jit_compile: Boolean, see `MetaTrainer.compile`. Defaults to `False`.
    """

    def __init__(self, rule, loss_transform, seed, jit_compile=False):
        self._rule = rule
        self._loss_transform = loss_transform
        self._seed = seed
        self._jit_compile = jit_compile
        self._functions = {}

    def meta_loss(self, tasks, episodes, weights):
        """The mean meta-loss.

        Args:
            tasks: List of `Task`.
            episodes: Integer. Optimizees of each task.
            weights: Array `[horizon]`, the weights w_t.

        Returns:
            A float; infinity if an optimizee diverged.
        """
        seeds = [
            episode_seed(self._seed, "validation", index)
            for index in range(episodes)
        ]
        losses = [
            self._of_episode(task, seed, weights)
            for task in tasks
            for seed in seeds
        ]
        mean = float(np.mean(losses))
        return mean if math.isfinite(mean) else math.inf

    def _of_episode(self, task, seed, weights):
        if task not in self._functions:
            self._functions[task] = compile_unroll(
                self._rule, task, self._jit_compile
            )
        carry = start(self._rule, task, seed)
        _, trajectory = self._functions[task](carry, len(weights))
        meta_loss = MetaLoss(
            tf.constant(weights, trajectory.losses.dtype),
            transform=self._loss_transform,
        )
        return float(meta_loss(trajectory.losses))


class Best:
    """The lowest validation loss so far and its meta-parameters.

    Attributes:
        loss: Float.
        weights: List of arrays, or `None` before the first loss.
    """

    def __init__(self):
        self.loss = math.inf
        self.weights = None

    def update_if_better(self, loss, weights):
        """Takes them if they are better; says whether they are."""
        if not loss < self.loss:
            return False
        self.loss, self.weights = loss, weights
        return True
