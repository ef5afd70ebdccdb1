"""The validation loss of a rule: whole episodes of fresh optimizees."""

import math

import numpy as np
import tensorflow as tf

from keras_l2l.inner_loop.episode import start
from keras_l2l.inner_loop.unroll import compile_unroll
from keras_l2l.meta_gradients.meta_loss import MetaLoss
from keras_l2l.tasks.base import episode_seed


class Validation:
    """The meta-loss over whole episodes that are never trained on.

    Args:
        config: A `MetaTrainingConfig`.
        jit_compile: Boolean, see `MetaTrainer.compile`. Defaults to `False`.
    """

    def __init__(self, config, jit_compile=False):
        self._config = config
        self._jit_compile = jit_compile
        self._functions = {}

    def meta_loss(self, tasks, episodes, weights):
        """The mean meta-loss.

        Args:
            tasks: List of `Task`.
            episodes: Integer. Optimizees of each task.
            weights: Array `[horizon]`, the weights w_t of the losses.

        Returns:
            A float; infinity if an optimizee diverged.
        """
        seeds = [
            episode_seed(self._config.seed, "validation", index)
            for index in range(episodes)
        ]
        losses = [
            self._episode_loss(task, seed, weights)
            for task in tasks
            for seed in seeds
        ]
        mean = float(np.mean(losses))
        return mean if math.isfinite(mean) else math.inf

    def _episode_loss(self, task, seed, weights):
        if task not in self._functions:
            self._functions[task] = compile_unroll(
                self._config.rule, task, self._jit_compile
            )
        carry = start(self._config.rule, task, seed)
        _, trajectory = self._functions[task](carry, len(weights))
        meta_loss = MetaLoss(
            tf.constant(weights, trajectory.losses.dtype),
            transform=self._config.loss_transform,
        )
        return float(meta_loss(trajectory.losses))
